"""A tar stream of a file or folder of the user's, as root's: GNU's long names, and pax for exact times."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from banger.archive.member import shown
from banger.archive.parse import BLOCK
from banger.errors import Failure

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CHUNK = 256 * 1024
_OCTAL_LIMIT = 8**11
_CHECKSUM = slice(148, 156)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file, folder or link here, and its name in the archive."""

    path: bytes
    name: bytes
    mode: int  # st_mode
    size: int
    mtime_ns: int
    inode: tuple[int, int] | None  # of a file with several names


@dataclass(slots=True)
class Source:
    """What is copied, as it was when looked at."""

    entries: list[Entry] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # sockets and the like

    @property
    def files(self) -> int:
        return sum(stat.S_ISREG(entry.mode) for entry in self.entries)

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries if stat.S_ISREG(entry.mode))


def scan(path: Path, name: bytes, *, root: bool = True) -> Source:
    """`path` and all below it, called `name` in the archive; `root`: also itself.

    Links below it stay links. Raises Failure for what cannot be read, before anything is sent.
    """
    found = Source()
    try:
        info = path.stat()
        if root or not stat.S_ISDIR(info.st_mode):
            _add(found, os.fsencode(path), name, info)
        if stat.S_ISDIR(info.st_mode):
            _below(found, os.fsencode(path), name)
    except OSError as exc:
        at = os.fsdecode(exc.filename) if exc.filename is not None else str(path)
        raise Failure(
            "CopyFailed",
            f"cannot read {at}",
            why=exc.strerror or str(exc),
            hint="nothing was copied",
        ) from None
    return found


def _below(found: Source, top: bytes, name: bytes) -> None:
    """Depth first: tar gives a folder its time when it comes to something that is not in it."""
    waiting = _inside(top, name)
    while waiting:
        path, name = waiting.pop()
        info = os.lstat(path)
        _add(found, path, name, info)
        if stat.S_ISDIR(info.st_mode):
            waiting += _inside(path, name)


def _inside(folder: bytes, name: bytes) -> list[tuple[bytes, bytes]]:
    names = sorted(os.listdir(folder), reverse=True)  # noqa: PTH208 - bytes
    return [(folder + b"/" + entry, name + b"/" + entry) for entry in names]


def _add(found: Source, path: bytes, name: bytes, info: os.stat_result) -> None:
    if stat.S_ISREG(info.st_mode):
        if not os.access(path, os.R_OK):
            raise PermissionError(13, "Permission denied", path)
        inode = (info.st_dev, info.st_ino) if info.st_nlink > 1 else None
        found.entries.append(Entry(path, name, info.st_mode, info.st_size, info.st_mtime_ns, inode))
    elif stat.S_ISDIR(info.st_mode) or stat.S_ISLNK(info.st_mode):
        found.entries.append(Entry(path, name, info.st_mode, 0, info.st_mtime_ns, None))
    else:
        found.skipped.append(f"{shown(path)} is a socket, FIFO or device")


def stream(source: Source, tell: Callable[[int], None]) -> Iterator[bytes]:
    """The archive's bytes; `tell` is called with bytes of files as they go. Raises Failure for a file that changes."""
    first: dict[tuple[int, int], bytes] = {}
    for entry in source.entries:
        if stat.S_ISDIR(entry.mode):
            yield header(entry, b"5")
        elif stat.S_ISLNK(entry.mode):
            yield header(entry, b"2", os.readlink(entry.path))  # noqa: PTH115 - bytes
        elif entry.inode is not None and entry.inode in first:
            yield header(entry, b"1", first[entry.inode])
        else:
            if entry.inode is not None:
                first[entry.inode] = entry.name
            for chunk in _file(entry):
                yield chunk
                tell(len(chunk))
            yield bytes(-entry.size % BLOCK)
    yield bytes(2 * BLOCK)


def _file(entry: Entry) -> Iterator[bytes]:
    fd = os.open(entry.path, _READ)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise _changed(entry)
        yield header(entry, b"0")
        left = entry.size
        while left:
            chunk = os.read(fd, min(left, _CHUNK))
            if not chunk:
                raise _changed(entry)
            left -= len(chunk)
            yield chunk
    finally:
        os.close(fd)


def _changed(entry: Entry) -> Failure:
    return Failure("CopyFailed", f"{shown(entry.path)} changed while it was copied", hint="copy it again")


def header(entry: Entry, kind: bytes, target: bytes = b"") -> bytes:
    """The blocks that come before a member's content. Owner is root; setuid and the like stay at home."""
    name = entry.name + b"/" if kind == b"5" else entry.name
    seconds, rest = divmod(max(0, entry.mtime_ns), 10**9)
    before = b""
    if rest:
        before += _extension(b"x", _record(b"mtime", b"%d.%09d" % (seconds, rest)))
    if len(target) > 100:
        before += _extension(b"K", target + b"\0")
    if len(name) > 100:
        before += _extension(b"L", name + b"\0")
    block = _block(name[:100], kind, entry.size if kind == b"0" else 0)
    block[100:108] = b"%07o\0" % (entry.mode & 0o777)
    block[136:148] = b"%011o\0" % min(seconds, _OCTAL_LIMIT - 1)
    linkname = target[:100]
    block[157 : 157 + len(linkname)] = linkname
    return before + _sealed(block)


def _extension(kind: bytes, content: bytes) -> bytes:
    return _sealed(_block(b"././@LongLink", kind, len(content))) + content + bytes(-len(content) % BLOCK)


def _record(key: bytes, value: bytes) -> bytes:
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def _block(name: bytes, kind: bytes, size: int) -> bytearray:
    block = bytearray(BLOCK)
    block[0 : len(name)] = name
    block[100:108] = b"0000644\0"
    block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % size if size < _OCTAL_LIMIT else b"\x80" + size.to_bytes(11, "big")
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[257:265] = b"ustar  \0"
    return block


def _sealed(block: bytearray) -> bytes:
    block[_CHECKSUM] = b" " * 8
    block[_CHECKSUM] = b"%06o\0 " % sum(block)
    return bytes(block)
