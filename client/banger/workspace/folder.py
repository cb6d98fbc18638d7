"""Files below a folder, opened so that no link that somebody puts in the way is followed."""

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

FILE, LINK, DIRECTORY = b"0", b"2", b"5"  # as tar calls them

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # a FIFO must not hold us


class Entry(NamedTuple):
    """A file of the workspace. `path` is relative, in the file system's own bytes; `size` in bytes."""

    path: bytes
    kind: bytes  # FILE, LINK or DIRECTORY
    mode: int  # 0o644 or 0o755
    size: int

    @property
    def name(self) -> str:
        return os.fsdecode(self.path)


class Folder:
    """An open folder. Paths below it are resolved step by step, each relative to the one before, never over a link."""

    def __init__(self, path: Path) -> None:
        self._root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: list[tuple[bytes, int]] = []  # the way to the folder that was asked for last
        self._last = b""
        self._last_fd = self._root

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._leave(0)
        os.close(self._root)

    def at(self, path: bytes) -> int:
        """A descriptor (O_PATH, ours) of the folder `path`. Raises OSError: ENOENT, ENOTDIR or ELOOP for no folder."""
        if path == self._last:
            return self._last_fd
        names = path.split(b"/") if path else []
        if b".." in names:  # no git would write it into its index, but somebody else may
            raise OSError(errno.EXDEV, "it leads out of the folder", os.fsdecode(path))
        same = 0
        while same < min(len(names), len(self._open)) and names[same] == self._open[same][0]:
            same += 1
        self._leave(same)
        fd = self._open[-1][1] if self._open else self._root
        for name in names[same:]:
            fd = os.open(name, _DIRECTORY, dir_fd=fd)
            self._open.append((name, fd))
        self._last, self._last_fd = path, fd
        return fd

    def _leave(self, depth: int) -> None:
        while len(self._open) > depth:
            os.close(self._open.pop()[1])
        self._last = b"/".join(name for name, _ in self._open)
        self._last_fd = self._open[-1][1] if self._open else self._root

    def stat(self, path: bytes) -> os.stat_result:
        """lstat of `path`."""
        parent, _, name = path.rpartition(b"/")
        return os.stat(name, dir_fd=self.at(parent), follow_symlinks=False)

    def readable(self, path: bytes) -> bool:
        parent, _, name = path.rpartition(b"/")
        return os.access(name, os.R_OK, dir_fd=self.at(parent))

    def open(self, path: bytes) -> int:
        """A descriptor for reading the file `path`; ELOOP if it is a link."""
        parent, _, name = path.rpartition(b"/")
        return os.open(name, _READ, dir_fd=self.at(parent))

    def target(self, path: bytes) -> bytes:
        """Where the link `path` points to."""
        parent, _, name = path.rpartition(b"/")
        return os.readlink(name, dir_fd=self.at(parent))

    def walk(self) -> Iterator[tuple[bytes, os.stat_result]]:
        """Every path below with its lstat, folders before what they hold, in a fixed order."""
        waiting = [b""]
        while waiting:
            path = waiting.pop()
            if path:
                info = self.stat(path)
                yield path, info
                if not stat.S_ISDIR(info.st_mode):
                    continue
            fd = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.at(path))
            try:
                with os.scandir(fd) as found:
                    names = sorted((os.fsencode(entry.name) for entry in found), reverse=True)
            finally:
                os.close(fd)
            waiting += [path + b"/" + name if path else name for name in names]
