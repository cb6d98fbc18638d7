"""Members put below a folder of ours, each relative to a descriptor of its own folder, over no link, over nothing."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from banger.archive.links import leads_out
from banger.archive.member import Kind, Member, Path, refused, shown

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_IMPLIED = (
    10_000  # folders without a member; tar has one for each, but for those above what it was asked for
)
_SKIP_HINT = "`--skip-unsafe` leaves such members out; nothing was changed here"


class Extraction:
    """A Receiver that writes into the empty folder `root`, an open descriptor that stays the caller's.

    Files get their modes at once (no setuid or sticky bits), folders by `settle`, when all is in its place. Links that
    lead out and devices are refused, or with `skip` left out and counted in `skipped`.
    """

    def __init__(self, root: int, *, skip: bool = False) -> None:
        self.folders: dict[Path, tuple[int, int]] = {}  # mode and mtime, of those that had a member
        self.files = 0
        self.size = 0
        self.skipped: list[str] = []
        self._skip = skip
        self._root = root
        self._kinds: dict[Path, Kind] = {(): Kind.FOLDER}
        self._links: dict[Path, bytes] = {}
        self._implied = 0
        self._way: list[tuple[bytes, int]] = []  # open folders, from the root to the last that was used
        self._file = -1
        self._member: Member | None = None

    def close(self) -> None:
        """Close what is open; also after a failure."""
        self._leave(0)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    # What the reader calls

    def member(self, member: Member) -> None:
        known = self._kinds.get(member.path)
        if known is not None and not (known is member.kind is Kind.FOLDER):
            raise refused("comes twice", member.path)
        if member.kind is Kind.OTHER:
            self._unsafe("is a device or a FIFO", member.path)
            return
        if member.kind is Kind.FOLDER:
            self._ensure_folder(member.path[:-1])
            self._ensure_folder(member.path, implied=False)
            self.folders[member.path] = member.mode, member.mtime_ns
            return
        self._ensure_folder(member.path[:-1])
        parent, name = self._at(member.path[:-1]), member.path[-1]
        self._kinds[member.path] = member.kind
        if member.kind is Kind.FILE:
            with _once(member.path):
                self._file = os.open(name, _NEW, 0o600, dir_fd=parent)
            self._member = member
        elif member.kind is Kind.LINK:
            with _once(member.path):
                os.symlink(member.target, name, dir_fd=parent)
            times = member.mtime_ns, member.mtime_ns
            os.utime(name, ns=times, dir_fd=parent, follow_symlinks=False)
            self._links[member.path] = member.target
        else:
            self._hard_link(member)

    def data(self, data: memoryview) -> None:
        while data:
            written = os.write(self._file, data)
            self.size += written
            data = data[written:]

    def done(self) -> None:
        member = self._now()
        os.fchmod(self._file, member.mode)
        os.utime(self._file, ns=(member.mtime_ns, member.mtime_ns))
        os.close(self._file)
        self._file, self._member = -1, None
        self.files += 1

    # When all members are there

    def check_links(self, existing: Callable[[Path], bytes | None]) -> None:
        """Refuse, or remove, links that lead out. `existing`: links that are at the place where all will go."""

        def link_at(path: Path) -> bytes | None:
            if path in self._kinds:
                return self._links.get(path)
            return existing(path)

        while True:  # what leads on through one that is removed leads elsewhere
            out = [path for path, target in self._links.items() if leads_out(path, target, link_at)]
            if not out:
                return
            for path in out:
                self._unsafe(f"is a link that leads out, to {shown(self._links[path])}", path)
                os.unlink(path[-1], dir_fd=self._at(path[:-1]))
                del self._links[path], self._kinds[path]

    def _unsafe(self, why: str, path: Path) -> None:
        if not self._skip:
            raise refused(why, path, hint=_SKIP_HINT)
        self.skipped.append(f"{shown(path)} {why}")

    # How

    def _now(self) -> Member:
        if self._member is None:
            raise AssertionError("content without a file")
        return self._member

    def _hard_link(self, member: Member) -> None:
        if self._kinds.get(member.source) is not Kind.FILE:
            raise refused(
                f"is a hard link to {shown(member.target)}, which is no file of the archive", member.path
            )
        folder = os.dup(self._at(member.source[:-1]))
        try:
            parent = self._at(member.path[:-1])
            os.link(
                member.source[-1],
                member.path[-1],
                src_dir_fd=folder,
                dst_dir_fd=parent,
                follow_symlinks=False,
            )
        finally:
            os.close(folder)
        self._kinds[member.path] = Kind.FILE

    def _ensure_folder(self, path: Path, *, implied: bool = True) -> None:
        known = len(path)
        while path[:known] not in self._kinds:
            known -= 1
        for length in range(known, len(path) + 1):
            at = path[:length]
            if length > known:
                self._implied += implied
                if self._implied > _MOST_IMPLIED:  # each member could bring hundreds, which nobody announced
                    raise refused(
                        f"there are more than {_MOST_IMPLIED:,} folders in it that it does not name"
                    )
                parent = self._at(at[:-1])
                with _once(at):
                    os.mkdir(at[-1], 0o700, dir_fd=parent)
                self._kinds[at] = Kind.FOLDER
            elif self._kinds[at] is not Kind.FOLDER:
                raise refused("is a folder here and something else there", at)

    def _at(self, path: Path) -> int:
        """A descriptor, ours, of the folder `path`."""
        same = 0
        while same < min(len(path), len(self._way)) and path[same] == self._way[same][0]:
            same += 1
        self._leave(same)
        fd = self._way[-1][1] if self._way else self._root
        for name in path[same:]:
            fd = os.open(name, _FOLDER, dir_fd=fd)
            self._way.append((name, fd))
        return fd

    def _leave(self, depth: int) -> None:
        while len(self._way) > depth:
            os.close(self._way.pop()[1])


@contextmanager
def _once(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:  # a file system that takes two names for one
        raise refused("comes twice", path) from None
