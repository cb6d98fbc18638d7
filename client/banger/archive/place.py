"""From the folder beside it to its place: whole, or not at all as far as a file system can."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from banger.archive import member
from banger.archive.member import shown
from banger.errors import Failure
from banger.interrupt import Interrupts

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def beside(parent: Path, interrupts: Interrupts) -> Iterator[Path]:
    """An empty folder of ours in `parent`, gone at the end with what is left in it, whatever ends us."""
    folder = None
    try:
        with interrupts.held():
            folder = Path(tempfile.mkdtemp(prefix=".banger-cp-", dir=parent))
        yield folder
    finally:
        if folder is not None:
            with interrupts.held():
                shutil.rmtree(folder)


def move(source: Path, target: Path) -> None:
    """Put `source` in the place of `target`, which is absent or, for a file, a file. Raises Failure."""
    try:
        source.rename(target)
    except OSError as exc:
        raise Failure("CopyFailed", f"cannot write {target}", why=exc.strerror or str(exc)) from None


def merge(source: Path, target: Path) -> frozenset[member.Path]:
    """Move all that is in the folder `source` into the folder `target`; return the folders that both have.

    A file takes the place of a file. Raises Failure, before anything is moved, where a folder and a file have one
    name; a link at the target counts as a file, so nothing is written through it.
    """
    both: set[member.Path] = {()}
    moves = list(_moves(source, target, (), both))
    for path in moves:
        move(source.joinpath(*_names(path)), target.joinpath(*_names(path)))
    return frozenset(both)


def _moves(source: Path, target: Path, path: member.Path, both: set[member.Path]) -> Iterator[member.Path]:
    with os.scandir(source.joinpath(*_names(path))) as entries:
        listed = list(entries)
    for entry in listed:
        at = (*path, os.fsencode(entry.name))
        there = _mode(target.joinpath(*_names(at)))
        folder = entry.is_dir(follow_symlinks=False)
        if there is None:
            yield at
        elif folder and stat.S_ISDIR(there):
            both.add(at)
            yield from _moves(source, target, at, both)
        elif folder or stat.S_ISDIR(there):
            raise Failure(
                "CopyFailed",
                f"cannot copy into {target}",
                why=f"{shown(at)} is a folder on one side and none on the other",
                hint="nothing was changed here; copy to another place, or move what is in the way",
            )
        else:
            yield at


def settle(
    root: Path, folders: Mapping[member.Path, tuple[int, int]], but: Iterable[member.Path] = ()
) -> None:
    """Give the folders below `root` their modes and times, the deepest first. `but`: those that were there before."""
    spared = frozenset(but)
    for path in sorted(folders, key=len, reverse=True):
        if path in spared:
            continue
        mode, mtime_ns = folders[path]
        fd = os.open(root, _FOLDER)
        try:
            for name in path:
                inner = os.open(name, _FOLDER, dir_fd=fd)
                os.close(fd)
                fd = inner
            os.fchmod(fd, mode)
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(fd)


def _mode(path: Path) -> int | None:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:
        return None


def _names(path: member.Path) -> list[str]:
    return [os.fsdecode(name) for name in path]
