"""A reader of tar streams that somebody hostile may have made: POSIX ustar and pax, GNU's long names.

Bytes are pushed in as they come; no more than a header is kept. All that is odd is refused, not mended.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from banger.archive.member import Kind, Member, Path, refused

BLOCK = 512
_LONGEST_PATH = 4096  # PATH_MAX
_LONGEST_NAME = 255  # NAME_MAX
_DEEPEST = 256  # folders within one another: each costs an open descriptor
_LONGEST_RECORDS = 64 * 1024  # of a pax header
_MOST_EXTENSIONS = 4  # headers about one member: pax, long name, long link, and one to spare
_LONGEST_TAIL = 1024 * 1024  # zeros after the end: tar fills its last record
_NS = 10**9

_MAGIC = slice(257, 265)
_POSIX, _GNU = b"ustar\x0000", b"ustar  \x00"
_FILES, _EXTENSIONS = b"\x0007", b"xgLK"
_KINDS = _FILES + b"123456"


class Receiver(Protocol):
    """Who gets the members. `data` and `done` follow a FILE, `data` as often as it takes for `size` bytes."""

    def member(self, member: Member) -> None: ...
    def data(self, data: memoryview) -> None: ...
    def done(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """What was announced: members, and bytes of all files together."""

    members: int
    size: int


class Reader:
    """Takes a tar stream's bytes by `feed`, then `finish`; both raise Failure (UnsafeArchive) for what is not taken."""

    def __init__(self, receiver: Receiver, limits: Limits) -> None:
        self._receiver = receiver
        self._limits = limits
        self._members = 0
        self._size = 0
        self._take: Callable[[memoryview], None] = self._header
        self._wanted = BLOCK  # bytes until `_take` is called with all of them
        self._buffer = bytearray()
        self._body = 0  # bytes of a file that are still to come
        self._skip = 0
        self._type = b""  # of the extension that is being read
        self._extensions = 0
        self._long: dict[bytes, bytes] = {}
        self._records: dict[bytes, bytes] = {}
        self._ended = False
        self._tail = 0

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        while view:
            if self._ended:
                self._check_tail(view)
                return
            if self._body:
                count = min(self._body, len(view))
                self._receiver.data(view[:count])
                self._body -= count
                if not self._body:
                    self._receiver.done()
            elif self._skip:
                count = min(self._skip, len(view))
                self._skip -= count
            else:
                count = min(self._wanted - len(self._buffer), len(view))
                self._buffer += view[:count]
                if len(self._buffer) == self._wanted:
                    block, self._buffer = self._buffer, bytearray()
                    self._take(memoryview(block))
            view = view[count:]

    def finish(self) -> None:
        """The stream is over; raises if it is over too early."""
        if not self._ended:
            raise refused("it ends in the midst of a file", hint="try again; nothing was changed here")

    def _check_tail(self, view: memoryview) -> None:
        self._tail += len(view)
        if self._tail > _LONGEST_TAIL or bytes(view).strip(b"\0"):
            raise refused("there is more after its end")

    # Headers

    def _header(self, view: memoryview) -> None:
        block = bytes(view)
        if not block.strip(b"\0"):
            self._ended = True
            if self._extensions:
                raise refused("a header without its member")
            return
        said = block[148:156].strip(b" \0")
        if not _octal(said) or int(said, 8) != sum(block) - sum(block[148:156]) + 8 * 0x20:
            raise refused("it is no tar archive: a header's checksum is wrong")
        kind = block[156:157]
        size = _number(block[124:136])
        if kind in _EXTENSIONS:
            self._extension(kind, size)
            return
        self._count(block, kind, size)

    def _extension(self, kind: bytes, size: int) -> None:
        self._extensions += 1
        if self._extensions > _MOST_EXTENSIONS:
            raise refused("there are too many headers about one member")
        if not 0 < size <= (_LONGEST_RECORDS if kind in b"xg" else _LONGEST_PATH + 1):
            raise refused(f"a header of {size} bytes")
        self._type = kind
        self._take, self._wanted = self._extended, size

    def _extended(self, view: memoryview) -> None:
        content = bytes(view)
        self._skip = -len(content) % BLOCK
        if self._type in b"LK":
            self._long[self._type] = content.rstrip(b"\0")
        else:
            records = _records(content)
            if self._type == b"x":
                self._records |= records
            elif records.keys() & {b"path", b"linkpath", b"size"}:
                raise refused("a header that gives all members one name")
        self._take, self._wanted = self._header, BLOCK

    def _count(self, block: bytes, kind: bytes, size: int) -> None:
        records, long = self._records, self._long
        self._records, self._long, self._extensions = {}, {}, 0
        if any(key.startswith(b"GNU.sparse") for key in records):
            kind = b"S"
        if b"size" in records:
            size = _decimal(records[b"size"])
        raw = records.get(b"path") or long.get(b"L") or _name(block)
        target = records.get(b"linkpath") or long.get(b"K") or _text(block[157:257])
        mtime = _mtime(block, records)
        member = _member(raw, kind, _number(block[100:108]) & 0o777, mtime, size=size, target=target)
        self._members += 1
        self._size += member.size
        if self._members > self._limits.members or self._size > self._limits.size:
            raise refused(
                f"more comes than the {self._limits.members} files and {self._limits.size} bytes announced",
                hint="is something written there just now? Nothing was changed here",
            )
        self._receiver.member(member)
        if member.kind is Kind.FILE:
            self._body, self._skip = member.size, -member.size % BLOCK
            if not member.size:
                self._receiver.done()


def _member(raw: bytes, kind: bytes, mode: int, mtime: int, *, size: int, target: bytes) -> Member:
    if kind not in _KINDS:
        raise refused(f"is of a kind that is not known ({kind!r})", raw)
    path = _path(raw)
    if kind in _FILES and not (kind == b"\0" and raw.endswith(b"/")):
        if not path:
            raise refused("a file without a name")
        return Member(path, Kind.FILE, mode, mtime, size)
    if size:
        raise refused("has content, which its kind cannot have", raw)
    if kind in b"5\0":
        return Member(path, Kind.FOLDER, mode, mtime)
    if not path:
        raise refused("a member without a name")
    if kind == b"2":
        if not target or b"\0" in target or len(target) > _LONGEST_PATH:
            raise refused("is a link to nowhere", raw)
        return Member(path, Kind.LINK, mode, mtime, target=target)
    if kind == b"1":
        return Member(path, Kind.HARD_LINK, mode, mtime, target=target, source=_path(target))
    return Member(path, Kind.OTHER, mode, mtime)


def _name(block: bytes) -> bytes:
    name, prefix = _text(block[0:100]), _text(block[345:500])
    return prefix + b"/" + name if prefix and block[_MAGIC] == _POSIX else name


def _path(raw: bytes) -> Path:
    if raw.startswith(b"/"):
        raise refused("is an absolute name", raw)
    if len(raw) > _LONGEST_PATH or b"\0" in raw:
        raise refused("is no possible name", raw)
    path = tuple(name for name in raw.split(b"/") if name not in (b"", b"."))
    if b".." in path:
        raise refused("leads out of the folder", raw)
    if len(path) > _DEEPEST:
        raise refused("lies too deep", raw)
    if any(len(name) > _LONGEST_NAME for name in path):
        raise refused("is too long a name", raw)
    return path


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    """Octal digits, or GNU's base 256 (a set top bit). Raises for what is neither, or negative."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.strip(b" \0")
    if not digits:
        return 0
    if not _octal(digits):
        raise refused(f"a number that is none: {field!r}")
    return int(digits, 8)


def _octal(digits: bytes) -> bool:
    return bool(digits) and not digits.strip(b"01234567")


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise refused(f"a size that is none: {text[:40]!r}")
    return int(text)


def _mtime(block: bytes, records: Mapping[bytes, bytes]) -> int:
    """Nanoseconds; a time that no file can have is 0."""
    if b"mtime" not in records:
        seconds = _number(block[136:148]) if block[136] != 0xFF else 0  # base 256, before 1970
        return seconds * _NS if seconds < 2**33 else 0
    whole, _, fraction = records[b"mtime"].partition(b".")
    if not whole.isdigit() or len(whole) > 10 or (fraction and not fraction.isdigit()):
        return 0
    return int(whole) * _NS + int(fraction[:9].ljust(9, b"0") or b"0")


def _records(content: bytes) -> dict[bytes, bytes]:
    """pax: `LENGTH KEY=VALUE\\n`, LENGTH of all of it."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(content):
        digits, blank, _ = content[at : at + 8].partition(b" ")
        if not blank or not digits.isdigit():
            raise refused("a pax header that is none")
        record = content[at + len(digits) + 1 : at + int(digits)]
        key, equals, value = record.removesuffix(b"\n").partition(b"=")
        if not key or not equals or not record.endswith(b"\n") or at + int(digits) > len(content):
            raise refused("a pax header that is none")
        found[key] = value
        at += int(digits)
    return found
