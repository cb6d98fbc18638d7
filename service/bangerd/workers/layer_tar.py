"""Reads layers: compressed or plain tar streams that somebody else wrote. tarfile, with limits around it."""

import hashlib
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Self, cast

from bangerd.workers.layer_tree import Kind, Member, Node, invalid
from bangerd.workers.reports import WorkerError

BLOCK = 1024 * 1024
_EXTENSION_LIMIT = 1024 * 1024  # bytes of one pax or GNU header
_ID_LIMIT = 2**32 - 1
# What a compressed file begins with, and who undoes it; memory is limited against hostile windows.
_TOOLS = (
    (b"\x1f\x8b", ("gzip", "-dc")),
    (b"\x28\xb5\x2f\xfd", ("zstd", "-dcq", "--memory=128MB")),
    (b"\xfd7zXZ\0", ("xz", "-dcq", "--memlimit-decompress=256MiB")),
    (b"BZh", ("bzip2", "-dc")),
)
_KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.AREGTYPE: Kind.FILE,
    tarfile.CONTTYPE: Kind.FILE,
    tarfile.GNUTYPE_SPARSE: Kind.FILE,
    tarfile.DIRTYPE: Kind.FOLDER,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.CHRTYPE: Kind.CHARACTER,
    tarfile.BLKTYPE: Kind.BLOCK,
    tarfile.FIFOTYPE: Kind.FIFO,
}
# squashfs keeps these; an overlay would take its own for orders.
_XATTR = "SCHILY.xattr."
_XATTRS = ("user.", "trusted.", "security.")
_OVERLAY = ("trusted.overlay.", "user.overlay.")


@dataclass(slots=True)
class Budget:
    """Bytes and members that all layers of one image may come to, unpacked."""

    bytes: int
    members: int

    def spend(self, where: str, *, size: int = 0, members: int = 0) -> None:
        """Raises WorkerError when more is spent than there is."""
        self.bytes -= size
        self.members -= members
        if self.bytes < 0 or self.members < 0:
            raise WorkerError("failed", f"{where}: unpacked, the image is larger than this machine allows")


class Stream:
    """A stream that only goes forward, as a file for tarfile; hashed, and counted against a budget."""

    def __init__(self, source: IO[bytes], where: str, budget: Budget | None) -> None:
        self._source = source
        self._where = where
        self._budget = budget
        self._position = 0
        self.sha256 = hashlib.sha256() if budget else None

    def read(self, size: int = -1) -> bytes:
        data = self._source.read(size)
        self._position += len(data)
        if self._budget is not None:
            self._budget.spend(self._where, size=len(data))
        if self.sha256 is not None:
            self.sha256.update(data)
        return data

    def tell(self) -> int:
        return self._position

    def seek(self, position: int, _whence: int = 0) -> int:
        if position < self._position:
            raise tarfile.TarError("its parts overlap")
        while position > self._position and self.read(min(position - self._position, BLOCK)):
            pass
        return self._position

    def drain(self) -> None:
        """To the end, which decides about its digest."""
        while self.read(BLOCK):
            pass


class _Header(tarfile.TarInfo):
    """tarfile's headers, with what it takes without a word refused."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as exc:
            # The two ends of an archive; after any other it would take what was read for all there is.
            if type(exc).__name__ in ("EOFHeaderError", "EmptyHeaderError"):
                raise
            raise tarfile.ReadError(str(exc)) from None

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        extension = self.type in (
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        )
        if self.size < 0 or (extension and self.size > _EXTENSION_LIMIT):
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        return super()._proc_member(tar)  # type: ignore[misc,no-any-return]


@contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The plain bytes of a file that may be compressed; by its first bytes, whatever it is said to be.

    Raises WorkerError on leaving, when it was read to the end and is damaged.
    """
    with path.open("rb", buffering=0) as file:  # the tool begins where the descriptor stands
        head = file.read(6)
        tool = next((tool for magic, tool in _TOOLS if head.startswith(magic)), None)
        file.seek(0)
        if tool is None:
            yield file
            return
        process = subprocess.Popen(tool, stdin=file, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout and process.stderr  # noqa: S101, PT018, pipes
        with process.stdout, process.stderr:
            try:
                yield process.stdout
            except WorkerError:  # the tool may know better what is wrong
                _end(process, tool[0])
                raise
            except BaseException:
                process.kill()
                process.wait()
                raise
            _end(process, tool[0])


def _end(process: subprocess.Popen[bytes], tool: str) -> None:
    """Raises WorkerError when what was read to the end is damaged."""
    assert process.stdout and process.stderr  # noqa: S101, PT018, pipes
    ended = process.stdout.read(1) == b""
    if not ended:
        process.kill()
    said = process.stderr.read(2000).decode(errors="replace").strip()
    if process.wait() != 0 and ended:
        raise WorkerError("digest", f"compressed data is damaged: {said or tool}")


def headers(stream: Stream, where: str) -> Iterator[tuple[int, tarfile.TarInfo, tarfile.TarFile]]:
    """The members of a tar stream, numbered. Raises WorkerError when it is none."""
    number, last = 0, "its beginning"
    try:
        tar = tarfile.open(  # noqa: SIM115, nothing of it needs closing
            fileobj=cast("IO[bytes]", stream),
            mode="r:",
            tarinfo=_Header,
            encoding="utf-8",
            errors="surrogateescape",
        )
        while (header := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]
            last = f"member {header.name[:200]!a}"
            yield number, header, tar
            number += 1
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, RecursionError, MemoryError) as exc:
        raise WorkerError(
            "layer", f"{where}: no tar archive that can be read, after {last}: {exc}"
        ) from None


def members(stream: Stream, layer: int, where: str, budget: Budget) -> Iterator[Member]:
    """A layer's members. Raises WorkerError."""
    for number, header, _tar in headers(stream, where):
        at = f"member {header.name[:200]!a} of {where}"
        budget.spend(at, members=1)
        if header.islnk():
            yield Member(header.name, None, header.linkname, at)
        else:
            node = _node(header, (layer, number), at)
            # A sparse file is longer than what there is of it in the archive.
            if header.issparse():
                budget.spend(at, size=node.size)
            yield Member(header.name, node, "", at)


def _node(header: tarfile.TarInfo, source: tuple[int, int], at: str) -> Node:
    kind = _KINDS.get(header.type)
    if kind is None:
        raise invalid(at, f"its type {header.type!a} is none that an image can have")
    if not (0 <= header.uid < _ID_LIMIT and 0 <= header.gid < _ID_LIMIT):
        raise invalid(at, f"its owner {header.uid}:{header.gid} is none that Linux can have")
    if kind is Kind.SYMLINK and ("\0" in header.linkname or not 0 < len(header.linkname) < 4096):
        raise invalid(at, "it is a symbolic link to what no path can be")
    device = (header.devmajor, header.devminor)
    if kind in (Kind.CHARACTER, Kind.BLOCK) and not (0 <= device[0] < 1 << 12 and 0 <= device[1] < 1 << 20):
        raise invalid(at, f"its device number {device[0]}:{device[1]} is none that Linux can have")
    return Node(
        kind,
        mode=header.mode & 0o7777,
        uid=header.uid,
        gid=header.gid,
        mtime=_time(header.mtime),
        target=header.linkname if kind is Kind.SYMLINK else "",
        device=device,
        xattrs=_xattrs(header.pax_headers),
        size=header.size if kind is Kind.FILE else 0,
        source=source,
        entries={} if kind is Kind.FOLDER else None,
    )


def _time(seconds: float) -> int:
    """As squashfs has it: 32 bits, from 1970 on."""
    return int(min(max(seconds, 0), _ID_LIMIT)) if seconds == seconds else 0  # noqa: PLR0124, not a number


def _xattrs(pax: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in pax.items()
        if key.startswith(_XATTR)
        and key.removeprefix(_XATTR).startswith(_XATTRS)
        and not key.removeprefix(_XATTR).startswith(_OVERLAY)
    }


def copy(source: IO[bytes], sink: IO[bytes], size: int, where: str) -> None:
    """Exactly `size` bytes. Raises WorkerError when there are fewer."""
    while size:
        data = source.read(min(size, BLOCK))
        if not data:
            raise WorkerError("layer", f"{where}: cut off in its content")
        sink.write(data)
        size -= len(data)


def free_bytes(folder: Path) -> int:
    seen = os.statvfs(folder)
    return seen.f_bavail * seen.f_frsize
