"""file_sync: files and folders of the user as one tar stream for a guest.

Everything below the named path is opened relative to its folder's descriptor and never through a link, so what is
swapped for a link in the midst of it is left out, not followed. The named path itself may be one: the user wrote it.
"""

import errno
import os
import posixpath
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from banger.config.values import FileSync

# sh for its umask: tar makes the folders that are missing by it, and leaves alone those that are there.
UNPACK = ("sh", "-c", "umask 077 && exec tar -x -C / -f -")

_FILE_MODE, _FOLDER_MODE = 0o600, 0o700
_BLOCK = tarfile.BLOCKSIZE
_PIECE = 256 * 1024
_DEEPEST = 128  # a descriptor is open for each folder on the way
_OPEN = (
    os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
)  # a pipe that took a file's place is not waited for
_KEPT_BY_BANGER = "root/.ssh/authorized_keys"

Warn = Callable[[str], object]


@dataclass(frozen=True, slots=True)
class _Place:
    """Something to send: what a person calls it here, its name in the archive, the mode of files."""

    here: str
    there: str
    mode: int


def archive(entries: Iterable[FileSync], warn: Warn) -> Iterator[bytes]:
    """The tar stream of all `entries`; `warn` is told of each thing that is left out, and why."""
    for entry in entries:
        mode = _FILE_MODE if entry.mode is None else entry.mode
        place = _Place(str(entry.host), entry.guest.removeprefix("/"), mode)
        yield from _one(place, os.fspath(entry.host), None, warn, depth=0)
    yield bytes(2 * _BLOCK)


def _one(place: _Place, name: str, folder: int | None, warn: Warn, *, depth: int) -> Iterator[bytes]:
    """What `name` in `folder` is made of: nothing, if it cannot or must not be sent."""
    top = folder is None
    try:
        why_not = _refused(os.stat(name, dir_fd=folder, follow_symlinks=top).st_mode, place)
        if why_not:
            warn(f"{place.here} is left out: {why_not}")
            return
        fd = os.open(name, _OPEN if top else _OPEN | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as exc:
        warn(f"{place.here} is left out: {_reason(exc, top=top)}")
        return
    try:
        facts = os.fstat(fd)  # of what was really opened
        if stat.S_ISREG(facts.st_mode):
            yield from _file(place, fd, facts, warn)
        elif stat.S_ISDIR(facts.st_mode):
            yield from _folder(place, fd, facts, warn, depth=depth)
        else:
            warn(f"{place.here} is left out: it was replaced while it was copied")
    finally:
        os.close(fd)


def _refused(mode: int, place: _Place) -> str:
    if stat.S_ISLNK(mode):
        return "it is a symbolic link, and could lead out of the folder"
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        return "it is neither a file nor a folder"
    if place.there == _KEPT_BY_BANGER:
        return "banger keeps the guest's authorized_keys itself"
    return ""


def _reason(error: OSError, *, top: bool) -> str:
    if error.errno == errno.ENOENT:
        return "there is no such file" if top else "it vanished while it was copied"
    if error.errno == errno.ELOOP and not top:
        return "it was replaced by a symbolic link while it was copied"
    return os.strerror(error.errno or 0)


def _folder(place: _Place, fd: int, facts: os.stat_result, warn: Warn, *, depth: int) -> Iterator[bytes]:
    if depth == _DEEPEST:
        warn(f"{place.here} is left out: it is {_DEEPEST} folders deep")
        return
    try:
        names = sorted(os.listdir(fd))
    except OSError as exc:
        warn(f"{place.here} is left out: {_reason(exc, top=False)}")
        return
    if not names:  # others are made with what is in them
        yield _header(place.there, _FOLDER_MODE, facts, tarfile.DIRTYPE, 0)
    for name in names:
        inner = _Place(posixpath.join(place.here, name), posixpath.join(place.there, name), place.mode)
        yield from _one(inner, name, fd, warn, depth=depth + 1)


def _file(place: _Place, fd: int, facts: os.stat_result, warn: Warn) -> Iterator[bytes]:
    yield _header(place.there, place.mode, facts, tarfile.REGTYPE, facts.st_size)
    left = facts.st_size
    try:
        while left and (piece := os.read(fd, min(left, _PIECE))):
            left -= len(piece)
            yield piece
        changed = left > 0 or os.fstat(fd).st_size != facts.st_size
        why = "it changed while it was copied" if changed else ""
    except OSError as exc:
        why = os.strerror(exc.errno or 0)
    # The header has promised so many bytes.
    while left:
        zeros = bytes(min(left, _PIECE))
        left -= len(zeros)
        yield zeros
    if why:
        warn(f"{place.here} is not whole in the guest: {why}")
    yield bytes(-facts.st_size % _BLOCK)


def _header(name: str, mode: int, facts: os.stat_result, kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.mode, info.type, info.size = mode, kind, size
    info.mtime = max(0, int(facts.st_mtime))
    # GNU's format takes names of any length and bytes, and every tar reads it.
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
