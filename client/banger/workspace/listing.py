"""The files that go into a guest: of a working tree, of a commit, of a plain folder. Only reads."""

import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from banger.errors import Failure
from banger.workspace.folder import DIRECTORY, FILE, LINK, Entry, Folder
from banger.workspace.git import split
from banger.workspace.repo import Repo, find_module

_GITLINK = b"160000"
_SYMLINK = b"120000"
_MODES = {b"100755": 0o755}


@dataclass(frozen=True, slots=True)
class Part:
    """The files of one repository, the outer one or a submodule at `prefix` (ends with "/"), paths relative to it."""

    repo: Repo
    prefix: bytes
    entries: tuple[Entry, ...]
    ignored: frozenset[bytes] = frozenset()  # of the entries, what git ignores
    commit: str = ""  # the files are this commit's, not the working tree's
    modules: tuple[bytes, ...] = ()  # submodules that come along, relative
    gone: tuple[bytes, ...] = ()  # tracked, and not there any more


@dataclass(slots=True)
class Findings:
    """What is told beside the list."""

    warnings: list[str]
    unreadable: list[str]

    def finish(self) -> None:
        """Raises Failure if something cannot be read."""
        if not self.unreadable:
            return
        some = ", ".join(ascii(name)[1:-1] for name in self.unreadable[:5])
        more = f" and {len(self.unreadable) - 5} more" if len(self.unreadable) > 5 else ""
        raise Failure(
            "Unreadable",
            "cannot read what the workspace consists of",
            why=f"permission denied for {some}{more}",
            hint="`chmod u+r` them, or remove them from git's index",
        )


def working_tree(
    repo: Repo, prefix: bytes, found: Findings, *, untracked: bool, ignored: bool
) -> tuple[Part, ...]:
    """The files of `repo` as they are now, and those of its submodules behind it."""
    words = ["ls-files", "-z", "--stage", "-t", *(["--others", "--exclude-standard"] if untracked else [])]
    listed = split(repo.git.run(*words, doing=f"cannot list the files of {repo.top}"))
    extra: list[bytes] = []
    if ignored:
        words = ["ls-files", "-z", "--others", "--ignored", "--exclude-standard"]
        extra = list(split(repo.git.run(*words)))
    walker = _Walk(repo, prefix, found)
    with Folder(repo.top) as folder:
        for record in listed:
            walker.take(folder, record)
        for path in extra:
            walker.take(folder, b"? " + path)
    inner = (
        part
        for path, module in walker.modules.items()
        for part in working_tree(
            module,
            prefix + path + b"/",
            found,
            untracked=untracked,
            ignored=ignored,
        )
    )
    entries, modules, gone = tuple(walker.entries), tuple(walker.modules), tuple(walker.gone)
    part = Part(repo, prefix, entries, ignored=frozenset(extra), modules=modules, gone=gone)
    return (part, *inner)


class _Walk:
    """Turns git's list into what is there."""

    def __init__(self, repo: Repo, prefix: bytes, found: Findings) -> None:
        self._repo = repo
        self._found = found
        self._prefix = prefix
        self._last = b""
        self.entries: list[Entry] = []
        self.modules: dict[bytes, Repo] = {}
        self.gone: list[bytes] = []
        self._trust_mode = repo.git.ask("config", "--type=bool", "core.fileMode")[1] != b"false\n"

    def take(self, folder: Folder, record: bytes) -> None:
        if record.startswith(b"? "):
            path, mode = record[2:], b""
        else:
            head, _, path = record.partition(b"\t")
            tag, mode, _, _ = head.split(b" ")
            if (
                tag == b"S" or path == self._last
            ):  # outside of a sparse checkout; a further side of a conflict
                return
            self._last = path
        if path.endswith(b"/"):
            self._found.warnings.append(f"left out: {self._shown(path)} is a repository of its own")
            return
        try:
            info = folder.stat(path)
            if mode == _GITLINK:
                self._module(path, info)
            else:
                self._file(folder, path, mode, info)
        except PermissionError:
            self._found.unreadable.append(self._shown(path))
        except OSError:
            self.gone.append(path)  # deleted, or in a folder that is none any more: so git sees it, too

    def _module(self, path: bytes, info: os.stat_result) -> None:
        if not stat.S_ISDIR(info.st_mode):
            self.gone.append(path)
            return
        inner = find_module(self._repo, path)
        if inner is None:
            self.entries.append(Entry(path, DIRECTORY, 0o755, 0))
            self._found.warnings.append(
                f"submodule {self._shown(path)} is not checked out here: an empty folder"
            )
        else:
            self.modules[path] = inner

    def _file(self, folder: Folder, path: bytes, mode: bytes, info: os.stat_result) -> None:
        if stat.S_ISREG(info.st_mode):
            if not folder.readable(path):
                self._found.unreadable.append(self._shown(path))
            executable = info.st_mode & 0o100 if self._trust_mode or not mode else mode == b"100755"
            self.entries.append(Entry(path, FILE, 0o755 if executable else 0o644, info.st_size))
        elif stat.S_ISLNK(info.st_mode):
            self.entries.append(Entry(path, LINK, 0o777, info.st_size))
        elif stat.S_ISDIR(info.st_mode):  # in the file's place, which counts as deleted
            self.gone.append(path)
        else:
            self._found.warnings.append(f"left out: {self._shown(path)} is no file but a {_kind(info)}")

    def _shown(self, path: bytes) -> str:
        return os.fsdecode(self._prefix + path)


def _kind(info: os.stat_result) -> str:
    if stat.S_ISSOCK(info.st_mode):
        return "socket"
    return "FIFO" if stat.S_ISFIFO(info.st_mode) else "device"


def committed(repo: Repo, prefix: bytes, commit: str, found: Findings) -> tuple[Part, ...]:
    """The files of `commit`, and those of its submodules' commits as far as they are here."""
    listed = split(repo.git.run("ls-tree", "-r", "-z", "--long", "--full-tree", commit))
    entries: list[Entry] = []
    modules: dict[bytes, str] = {}
    for record in listed:
        head, _, path = record.partition(b"\t")
        mode, _, oid, size = head.split(None, 3)
        if mode == _GITLINK:
            modules[path] = oid.decode("ascii")
        elif mode == _SYMLINK:
            entries.append(Entry(path, LINK, 0o777, _size(size)))
        else:
            entries.append(Entry(path, FILE, _MODES.get(mode, 0o644), _size(size)))
    inner: list[Part] = []
    taken: list[bytes] = []
    for path, inner_commit in modules.items():
        parts = _committed_module(repo, prefix, path, inner_commit, found)
        inner += parts
        if parts:
            taken.append(path)
        else:
            entries.append(Entry(path, DIRECTORY, 0o755, 0))
            shown = os.fsdecode(prefix + path)
            found.warnings.append(
                f"submodule {shown}: its commit {inner_commit[:12]} is not here: an empty folder"
            )
    return (Part(repo, prefix, tuple(entries), commit=commit, modules=tuple(taken)), *inner)


def _size(text: bytes) -> int:
    """As ls-tree tells it; of an object that is not here (a partial clone) it only says BAD."""
    return int(text) if text.isdigit() else 0


def _committed_module(repo: Repo, prefix: bytes, path: bytes, oid: str, found: Findings) -> tuple[Part, ...]:
    inner = find_module(repo, path)
    if inner is None or inner.git.ask("cat-file", "-e", f"{oid}^{{commit}}")[0]:
        return ()
    return committed(replace(inner, head=oid, branch=""), prefix + path + b"/", oid, found)


def plain(path: Path, found: Findings) -> tuple[Entry, ...]:
    """Everything in the folder `path`, which is no repository: files, links as they are, folders."""
    entries: list[Entry] = []
    try:
        with Folder(path) as folder:
            for name, info in folder.walk():
                entry = _entry(name, info)
                if entry is None:
                    found.warnings.append(f"left out: {os.fsdecode(name)} is no file but a {_kind(info)}")
                    continue
                entries.append(entry)
                if entry.kind == FILE and not folder.readable(name):
                    found.unreadable.append(entry.name)
    except PermissionError as exc:
        raise Failure(
            "Unreadable", f"cannot read all of {path}", why=str(exc), hint="`chmod u+rx` the folder"
        ) from None
    except OSError as exc:
        raise Failure(
            "Changed", f"cannot list {path}", why=f"it changed meanwhile: {exc}", hint="try again"
        ) from None
    return tuple(entries)


def list_folder(path: Path) -> tuple[Entry, ...]:
    """Everything in a folder of our own."""
    with Folder(path) as folder:
        return tuple(entry for name, info in folder.walk() if (entry := _entry(name, info)))


def _entry(name: bytes, info: os.stat_result) -> Entry | None:
    if stat.S_ISDIR(info.st_mode):
        return Entry(name, DIRECTORY, 0o755, 0)
    if stat.S_ISLNK(info.st_mode):
        return Entry(name, LINK, 0o777, info.st_size)
    if stat.S_ISREG(info.st_mode):
        return Entry(name, FILE, 0o755 if info.st_mode & 0o100 else 0o644, info.st_size)
    return None
