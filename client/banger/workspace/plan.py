"""What a workspace will be: every check, and the list of files. Nothing is made here, nor sent."""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from banger.errors import Failure, UsageError
from banger.progress import Progress
from banger.workspace import listing
from banger.workspace import repo as repos
from banger.workspace.folder import Entry
from banger.workspace.listing import Findings, Part
from banger.workspace.options import Options

GUEST_HOME = "/root"


@dataclass(frozen=True, slots=True)
class Plan:
    """The workspace that `plan` found: `name` is its folder in the guest's /root."""

    top: Path
    name: str
    workdir: str  # in the guest, where a session starts: the folder that was asked for
    branch: str  # in the guest; "" if HEAD is detached, or no repository goes along
    commit: str  # "" before the first, or without a repository
    parts: tuple[Part, ...]  # repositories, outer first; none for a plain folder
    loose: tuple[Entry, ...]  # the plain folder's
    warnings: tuple[str, ...]

    @property
    def guest_path(self) -> str:
        return f"{GUEST_HOME}/{self.name}"

    @property
    def files(self) -> Iterator[Entry]:
        """Every file, link and empty folder, with paths relative to the workspace."""
        yield from self.loose
        for part in self.parts:
            for entry in part.entries:
                yield entry._replace(path=part.prefix + entry.path) if part.prefix else entry

    @property
    def count(self) -> int:
        return len(self.loose) + sum(len(part.entries) for part in self.parts)

    @property
    def total_bytes(self) -> int:
        """Of all files' contents; git's objects come on top."""
        groups = (self.loose, *(part.entries for part in self.parts))
        return sum(entry.size for entries in groups for entry in entries)

    def record(self) -> dict[str, Any]:
        """The same for `--json`."""
        files = [
            {"path": entry.name, "size": entry.size, "type": _TYPES[entry.kind], "mode": f"{entry.mode:04o}"}
            for entry in self.files
        ]
        return {
            "host_path": str(self.top),
            "guest_path": self.guest_path,
            "workdir": self.workdir,
            "branch": self.branch,
            "commit": self.commit,
            "count": len(files),
            "total_bytes": self.total_bytes,
            "files": files,
            "warnings": list(self.warnings),
        }

    def send(
        self, open_session: Callable[[], int], progress: Progress, *, replace: bool = False
    ) -> tuple[str, ...]:
        """Put it into the guest whose sessions `open_session` opens; `replace` what is there already.

        Says, and returns, what changed on this side meanwhile. All of it or nothing is there afterwards. Raises
        Failure; on the host nothing is left in any case.
        """
        from banger.workspace import send

        return send.send(self, open_session, progress, replace=replace)


_TYPES = {b"0": "file", b"2": "link", b"5": "folder"}


def plan(path: str | Path, options: Options) -> Plan:
    """The workspace for the folder `path`: the whole repository it is in. Raises Failure or UsageError."""
    options.check()
    try:
        return _plan(path, options)
    except OSError as exc:
        raise Failure(
            "Changed", f"cannot look at {path}", why=f"it changed meanwhile: {exc}", hint="try again"
        ) from None


def _plan(path: str | Path, options: Options) -> Plan:
    place = _folder(Path(path))
    found = Findings([], [])
    try:
        repo = repos.find(place)
    except Failure as exc:
        if options.all_files and exc.code in ("NoRepository", "NoGit"):
            return _plain(Path(os.path.realpath(place)), options, found)
        raise
    commit, branch = repo.head, repo.branch
    if options.from_ref:
        commit, branch = repos.commit_of(repo, options.from_ref)
        parts = listing.committed(repo, b"", commit, found)
    else:
        untracked = options.include_untracked or options.all_files
        parts = listing.working_tree(repo, b"", found, untracked=untracked, ignored=options.all_files)
    if options.branch:
        repos.check_branch(repo, options.branch)
        branch = options.branch
    found.finish()
    name, prefix = _name(repo.top), repo.prefix
    if prefix and not _reaches(parts, os.fsencode(prefix) + b"/"):
        found.warnings.append(f"nothing of {prefix} is taken along; it starts in {GUEST_HOME}/{name}")
        prefix = ""
    workdir = "/".join(part for part in (GUEST_HOME, name, prefix) if part)
    return Plan(repo.top, name, workdir, branch, commit, parts, (), tuple(found.warnings))


def _reaches(parts: tuple[Part, ...], folder: bytes) -> bool:
    """Whether the folder (ends with "/") will be there."""
    return any(
        part.prefix.startswith(folder)
        or any((part.prefix + entry.path + b"/").startswith(folder) for entry in part.entries)
        for part in parts
    )


def _folder(place: Path) -> Path:
    try:
        if stat.S_ISDIR(place.stat().st_mode):
            return place
        why = "is no folder"
    except (OSError, ValueError) as exc:
        why = "does not exist" if isinstance(exc, FileNotFoundError) else f"cannot be looked at: {exc}"
    raise UsageError(f"{str(place)!a} {why}", hint="give the folder of a git repository")


def _plain(top: Path, options: Options, found: Findings) -> Plan:
    for flag, value in (("--from", options.from_ref), ("--branch", options.branch)):
        if value:
            raise UsageError(f"{flag} needs a git repository, and {top} is in none")
    entries = listing.plain(top, found)
    found.finish()
    name = _name(top)
    return Plan(top, name, f"{GUEST_HOME}/{name}", "", "", (), entries, tuple(found.warnings))


def _name(top: Path) -> str:
    if not top.name:
        raise UsageError(f"{top} cannot be a workspace", hint="give a folder below it")
    return top.name
