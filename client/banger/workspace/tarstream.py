"""A tar stream of files that may change while they are read: what is in it is always whole, and told if it differs.

Written by hand, because tarfile needs ten times as long for a header, and trusts a file's size. The format is ustar
with GNU's records for long names and sizes, which GNU tar, busybox and libarchive read, with names as bytes.
"""

import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from banger.errors import Failure
from banger.workspace.folder import DIRECTORY, FILE, LINK, Entry, Folder

BLOCK = 512
_CHUNK = 128 * 1024
_WHOLE = 256 * 1024  # files up to this size are read before their header is written
_OCTAL_MAX = 0o77777777777
_NAME, _PREFIX = 100, 155
_LONG_NAME, _LONG_LINK = b"L", b"K"

_OWNER = b"0000000\0" * 2  # root:root, by number
_TAIL = b"ustar\x0000" + bytes(32 + 32) + b"0000000\0" * 2
_CONSTANT_SUM = sum(_OWNER) + sum(_TAIL) + 8 * ord(" ")


@dataclass(frozen=True, slots=True)
class Group:
    """Files below the folder `root`, to be put below `prefix` (ends with "/", or empty) in the guest."""

    root: Path
    prefix: bytes
    entries: Iterable[Entry]
    settled: bool = True  # nobody but us writes there


@dataclass(slots=True)
class Stream:
    """One pass over `groups`; `tell` is called now and then with the bytes of contents so far."""

    groups: Iterable[Group]
    tell: Callable[[int], object]
    done: int = 0
    changed: list[str] = field(default_factory=list)  # what differs from the list, in words
    _buffer: bytearray = field(default_factory=bytearray)

    def chunks(self) -> Generator[bytes, None, None]:
        """The stream in pieces of about 128 KiB. Raises Failure when a large file shrinks while it is read."""
        for group in self.groups:
            with _opened(group) as folder:
                for entry in group.entries:
                    yield from self._member(folder, group, entry)
                    if len(self._buffer) >= _CHUNK:
                        yield self._flush()
        self._buffer += bytes(2 * BLOCK)
        self._buffer += bytes(-len(self._buffer) % (20 * BLOCK))
        yield self._flush()

    def _flush(self) -> bytes:
        data = bytes(self._buffer)
        self._buffer.clear()
        self.tell(self.done)
        return data

    def _member(self, folder: Folder, group: Group, entry: Entry) -> Iterator[bytes]:
        path = group.prefix + entry.path
        try:
            if entry.kind == FILE:
                yield from self._file(folder, group, entry)
            elif entry.kind == LINK:
                info = folder.stat(entry.path)
                target = folder.target(entry.path)
                self._buffer += header(path, LINK, 0o777, 0, int(info.st_mtime), target=target)
            else:
                self._buffer += header(
                    path + b"/", DIRECTORY, entry.mode, 0, int(folder.stat(entry.path).st_mtime)
                )
        except OSError as exc:
            self._note(group, path, "left out", exc.strerror or "it changed")

    def _file(self, folder: Folder, group: Group, entry: Entry) -> Iterator[bytes]:
        path = group.prefix + entry.path
        fd = folder.open(entry.path)  # never over a link that was put in its place
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                self._note(group, path, "left out", "it is no file any more")
                return
            data = os.read(fd, _WHOLE + 1) if info.st_size <= _WHOLE else b""
            if info.st_size > _WHOLE or len(data) > _WHOLE:
                yield from self._large(fd, path, entry, info, data)
                return
            if len(data) != entry.size and not group.settled:
                self._note(
                    group, path, "taken as it is now", f"it had {entry.size} bytes and has {len(data)}"
                )
            self._buffer += header(path, FILE, entry.mode, len(data), int(info.st_mtime))
            self._buffer += data
            self._buffer += bytes(-len(data) % BLOCK)
            self.done += len(data)
        finally:
            os.close(fd)

    def _large(
        self, fd: int, path: bytes, entry: Entry, info: os.stat_result, first: bytes
    ) -> Iterator[bytes]:
        size = max(info.st_size, len(first))
        self._buffer += header(path, FILE, entry.mode, size, int(info.st_mtime))
        self._buffer += first
        left = size - len(first)
        self.done += len(first)
        while left:
            yield self._flush()
            data = _read(fd, min(left, _CHUNK), path)
            self._buffer += data
            self.done += len(data)
            left -= len(data)
        self._buffer += bytes(-size % BLOCK)
        if os.read(fd, 1):
            self.changed.append(
                f"{os.fsdecode(path)} grew while it was copied: its first {size} bytes are there"
            )

    def _note(self, group: Group, path: bytes, what: str, why: str) -> None:
        if not group.settled:
            self.changed.append(f"{os.fsdecode(path)} changed meanwhile, {what}: {why}")
            return
        raise Failure("Changed", f"{os.fsdecode(path)}, just made by banger, is not as it was", why=why)


def _opened(group: Group) -> Folder:
    try:
        return Folder(group.root)
    except OSError as exc:
        raise Failure("Changed", f"{group.root} cannot be read any more", why=str(exc)) from None


def _read(fd: int, size: int, path: bytes) -> bytes:
    """The next bytes of a file whose size was announced: without them the stream cannot go on."""
    try:
        data, why = os.read(fd, size), "it became shorter meanwhile"
    except OSError as exc:
        data, why = b"", str(exc)
    if data:
        return data
    raise Failure(
        "Changed",
        f"{os.fsdecode(path)} could not be copied to its end",
        why=why,
        hint="half a file is worse than none: try again when nobody writes to it",
    )


def header(path: bytes, kind: bytes, mode: int, size: int, mtime: int, *, target: bytes = b"") -> bytes:
    """A member's header, with GNU's records before it where name or target are too long for it."""
    before = b""
    prefix, name = b"", path
    if len(path) > _NAME:
        prefix, name = _parted(path)
        if not name:
            before += _long(_LONG_NAME, path)
            name = path[:_NAME]
    if len(target) > _NAME:
        before += _long(_LONG_LINK, target)
        target = target[:_NAME]
    return before + _block(name, prefix, kind, mode=mode, size=size, mtime=mtime, target=target)


def _parted(path: bytes) -> tuple[bytes, bytes]:
    """`path` as ustar's prefix and name; empty ones if it does not fit."""
    cut = path.find(b"/", max(0, len(path) - _NAME - 1), len(path) - 1)
    return (path[:cut], path[cut + 1 :]) if 0 < cut <= _PREFIX else (b"", b"")


def _long(kind: bytes, text: bytes) -> bytes:
    data = text + b"\0"
    return (
        _block(b"././@LongLink", b"", kind, mode=0o644, size=len(data), mtime=0)
        + data
        + bytes(-len(data) % BLOCK)
    )


def _block(
    name: bytes, prefix: bytes, kind: bytes, *, mode: int, size: int, mtime: int, target: bytes = b""
) -> bytes:
    length = b"%011o\0" % size if size <= _OCTAL_MAX else b"\x80" + size.to_bytes(11, "big")
    numbers = b"%07o\0" % mode, length, b"%011o\0" % min(max(mtime, 0), _OCTAL_MAX)
    total = _CONSTANT_SUM + sum(name) + sum(prefix) + sum(kind) + sum(target) + sum(map(sum, numbers))
    return b"".join(
        (
            name.ljust(_NAME, b"\0"),
            numbers[0],
            _OWNER,
            numbers[1],
            numbers[2],
            b"%06o\0 " % total,
            kind,
            target.ljust(_NAME, b"\0"),
            _TAIL,
            prefix.ljust(_PREFIX + 12, b"\0"),
        )
    )
