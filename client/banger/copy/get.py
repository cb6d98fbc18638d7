"""Out of a guest: nothing of it is believed, and nothing is at its place here before all of it is."""

import os
import posixpath
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from banger import transfer, units
from banger.archive import member, place
from banger.archive.extract import Extraction
from banger.archive.member import refused
from banger.archive.parse import Limits, Reader
from banger.copy import guest
from banger.copy.ends import There
from banger.copy.guest import OpenSession
from banger.copy.progress import Meter
from banger.errors import Failure
from banger.interrupt import Interrupts
from banger.progress import Progress

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Copied:
    """What a copy was: files, their bytes, where they are, and what was left out."""

    files: int
    size: int
    target: str
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Target:
    """Where it goes: `final` is made, or replaced if it is a file; or `merge`: what is inside goes into that folder."""

    final: Path
    merge: bool
    parent: Path  # of the folder that it is first put in


def get(
    open_session: OpenSession, source: There, target: str, progress: Progress, *, skip: bool = False
) -> Copied:
    """Copy `source` to the path `target` here, as docker cp does (docs/running.md). Raises Failure.

    `skip`: leave out links that lead out, and devices, instead of refusing it all.
    """
    kind = _kind(open_session, source)
    where = _where(source, target, folder=kind == "folder")
    announced = guest.sizes(open_session, source.path)
    _check_room(where.parent, announced)
    with (
        Interrupts(f"cannot copy {source.shown}") as interrupts,
        _written(where.parent),
        place.beside(where.parent, interrupts) as beside,
    ):
        staged = beside / "it"
        staged.mkdir(0o700)
        with _extraction(staged, skip=skip) as extraction:
            _fetch(open_session, source, extraction, announced, progress)
            extraction.check_links(lambda path: _link_at(where.final, path) if where.merge else None)
        with interrupts.held():
            _place(extraction, staged, where, folder=kind == "folder")
    return Copied(extraction.files, extraction.size, str(where.final), tuple(extraction.skipped))


def _kind(open_session: OpenSession, source: There) -> str:
    kind = guest.kind(open_session, source.path)
    if kind == "file" and (source.folder or source.inside):
        raise Failure("CopyFailed", f"{source.shown} is no folder")
    if kind not in ("file", "folder"):
        why = {"dangling": "it is a link to nothing", "other": "it is neither a file nor a folder"}
        raise Failure(
            "CopyFailed",
            f"cannot copy {source.shown}",
            why=why.get(kind, "there is no such file or folder"),
            hint=f"`banger vm exec {source.vm} -- ls -la {posixpath.dirname(source.path)}` shows what is there",
        )
    return kind


def _where(source: There, target: str, *, folder: bool) -> _Target:
    """What becomes of `target`. Raises Failure for what cannot be."""
    path = Path(target)
    name = posixpath.basename(source.path)
    if path.is_dir():
        if folder and (source.inside or not name):
            return _Target(path, merge=True, parent=path)
        path /= name
        if not path.is_dir() or path.is_symlink():
            if folder and os.path.lexists(path):
                raise Failure("CopyFailed", f"cannot copy a folder over {path}, which is none")
            return _Target(path, merge=False, parent=path.parent)
        if folder:
            return _Target(path, merge=True, parent=path)
        raise Failure("CopyFailed", f"cannot copy a file over the folder {path}")
    if folder and os.path.lexists(path):
        raise Failure("CopyFailed", f"cannot copy a folder over {path}, which is none")
    if not path.parent.is_dir() or (target.endswith("/") and not folder):
        missing = path if path.parent.is_dir() else path.parent
        raise Failure("CopyFailed", f"there is no folder {missing}", hint="make it first: mkdir -p")
    return _Target(path, merge=False, parent=path.parent)


def _check_room(folder: Path, announced: Limits) -> None:
    room = os.statvfs(folder)
    if announced.size > room.f_bavail * room.f_frsize:
        raise Failure(
            "CopyFailed",
            f"no room in {folder}",
            why=f"{units.size(announced.size)} are to come, and {units.size(room.f_bavail * room.f_frsize)} are free",
            hint="make room, or copy to another place",
        )


@contextmanager
def _written(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        at = f" {member.shown(os.fsencode(exc.filename))}" if exc.filename else ""
        raise Failure(
            "CopyFailed",
            f"cannot write{at} in {folder}",
            why=exc.strerror or str(exc),
            hint="nothing of the copy is there",
        ) from None


@contextmanager
def _extraction(staged: Path, *, skip: bool) -> Iterator[Extraction]:
    root = os.open(staged, _FOLDER)
    extraction = Extraction(root, skip=skip)
    try:
        yield extraction
    finally:
        extraction.close()
        os.close(root)


def _fetch(
    open_session: OpenSession, source: There, extraction: Extraction, announced: Limits, progress: Progress
) -> None:
    """Have the guest send it, to `extraction`."""
    done = False
    reader = Reader(extraction, guest.generous(announced))
    meter = Meter(progress, "copying", announced.size)

    def take(data: memoryview) -> None:
        reader.feed(data)
        meter.add(len(data))

    try:
        outcome = transfer.run(open_session(), guest.pack(source.path), sink=take)
        guest.check(outcome, f"cannot copy {source.shown}")
        reader.finish()
        done = True
    finally:
        progress.close(done=done)


def _link_at(folder: Path, path: member.Path) -> bytes | None:
    try:
        return os.fsencode(folder.joinpath(*map(os.fsdecode, path)).readlink())
    except OSError:
        return None


def _place(extraction: Extraction, staged: Path, where: _Target, *, folder: bool) -> None:
    if not folder:
        entries = list(staged.iterdir())
        if len(entries) != 1 or extraction.files != 1 or not entries[0].is_file():
            raise refused("one file was asked for, and something else came")
        place.move(entries[0], where.final)
    elif where.merge:
        both = place.merge(staged, where.final)
        place.settle(where.final, extraction.folders, both)
    else:
        place.move(staged, where.final)
        default = {(): (0o755, time.time_ns())}
        place.settle(where.final, default | extraction.folders)
