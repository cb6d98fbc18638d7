"""Brings back what changed in a guest's workspace: as a branch of the user's repository, or as a patch.

Neither checkout nor index, HEAD or any other branch is touched, and no hook runs.
"""

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from banger.errors import Failure, UsageError
from banger.interrupt import Interrupts
from banger.progress import Progress
from banger.workspace import repo as repos
from banger.workspace.git import communicate, failed, limit
from banger.workspace.quarantine import Quarantine
from banger.workspace.receive import Header, receive
from banger.workspace.repo import Repo
from banger.workspace.scratch import host_failed, scratch

MAX_SIZE = 1024**3
_FROM_WHERE = "name the repository that was taken along: banger vm workspace export {} FOLDER"


@dataclass(frozen=True, slots=True)
class Wanted:
    """`patch`: the file for it, "-" for standard output, "" for none: then a `branch` is made ("": banger/<vm>)."""

    patch: str = ""
    branch: str = ""
    guest_path: str = ""
    max_size: int = MAX_SIZE


@dataclass(frozen=True, slots=True)
class Brought:
    """What came: `commits` new ones on `branch`, or a `patch` of so many bytes. Neither: nothing had changed."""

    branch: str = ""
    commit: str = ""
    commits: int = 0
    patch: bytes = b""

    def record(self) -> dict[str, Any]:
        return {
            "branch": self.branch,
            "commit": self.commit,
            "commits": self.commits,
            "patch_bytes": len(self.patch),
        }


@dataclass(frozen=True, slots=True)
class Export:
    """A checked request; `run` carries it out."""

    repo: Repo
    vm: str
    wanted: Wanted

    @property
    def guest_path(self) -> str:
        return self.wanted.guest_path or f"/root/{self.repo.top.name}"

    @property
    def branch(self) -> str:
        return self.wanted.branch or f"banger/{self.vm}"

    def run(self, open_session: Callable[[], int], progress: Progress) -> Brought:
        """Get it from the guest whose sessions `open_session` opens. Raises Failure; then nothing is changed here."""
        fd = open_session()
        with ExitStack() as stack:
            stack.callback(lambda: os.close(fd) if fd >= 0 else None)
            stack.enter_context(Interrupts("nothing was brought back"))
            place = stack.enter_context(scratch("banger-export-"))
            progress.update({"stage": "collecting changes"})
            taken, fd = fd, -1
            done = False
            try:
                brought = self._bring(taken, place, progress)
                done = True
            except OSError as exc:
                raise host_failed(exc) from None
            finally:
                progress.close(done=done)
            return brought

    def _bring(self, fd: int, place: Path, progress: Progress) -> Brought:
        pack, wanted = place / "pack", self.wanted
        try:
            header = receive(
                fd,
                self.guest_path,
                self.vm,
                pack,
                progress,
                with_base=bool(wanted.patch),
                max_size=wanted.max_size,
            )
        except Failure as exc:
            if exc.code == "GuestGone":
                raise Failure(exc.code, "nothing was brought back", why=str(exc), hint=exc.hint) from None
            if exc.code == "NotFound":
                why = "the image has no sh, with which changes are collected"
                raise Failure("NoProgram", why, hint="`banger vm cp` gets single files") from None
            raise
        if header is None:
            return Brought()
        progress.update({"stage": "checking"})
        held = Quarantine(self.repo, place / "held.git")
        held.make(pack, header, wanted.max_size)
        if wanted.patch:
            return Brought(patch=self._patch(held, header, place))
        return self._branch(held, header)

    def _patch(self, held: Quarantine, header: Header, place: Path) -> bytes:
        words = (
            "diff-tree",
            "-r",
            "-p",
            "--binary",
            "--full-index",
            "--no-renames",
            "--no-color",
            "--no-ext-diff",
        )
        plain = ("--no-textconv", "--src-prefix=a/", "--dst-prefix=b/", header.base, header.tip)
        file = place / "patch"
        with file.open("xb") as out, held.git().start(*words, *plain, output=out.fileno()) as child:
            limit(child, self.wanted.max_size)
            _, err = communicate(child, b"")
        if child.returncode:
            raise failed(
                err.decode("utf-8", "replace"), child.returncode, "cannot make the patch", self.repo.top
            )
        return file.read_bytes()

    def _branch(self, held: Quarantine, header: Header) -> Brought:
        git, ref = held.git(), f"refs/heads/{self.branch}"
        status, out, _ = git.ask("rev-parse", "-q", "--verify", ref)
        if status == 0:
            old = out.decode("ascii").strip()
            if old == header.tip:
                return Brought(self.branch, header.tip)
            if git.ask("merge-base", "--is-ancestor", old, header.tip)[0]:
                raise Failure(
                    "BranchExists",
                    f"the branch {self.branch} is here already, with commits that the guest does not have",
                    hint=f"keep it and take another: --branch {self.branch}-2; or `git branch -D {self.branch}` first",
                )
        commits = int(git.line("rev-list", "--count", header.tip, "--not", "--all"))
        held.fetch(self.branch, f"banger vm workspace export {self.vm}")
        return Brought(self.branch, header.tip, commits)


def export(path: str | Path, vm: str, wanted: Wanted) -> Export:
    """A request for the repository that the folder `path` is in, checked. Raises Failure or UsageError."""
    if wanted.patch and wanted.branch:
        raise UsageError("--patch makes no branch", hint="leave one of the two away: --patch or --branch")
    if wanted.guest_path and not wanted.guest_path.startswith("/"):
        raise UsageError(
            f"--guest-path {wanted.guest_path[:80]!a} is no absolute path", hint="write it as /root/FOLDER"
        )
    if wanted.patch not in ("", "-") and os.path.lexists(wanted.patch):
        raise UsageError(
            f"{wanted.patch[:200]!a} exists already", hint="--patch overwrites nothing: name another file"
        )
    place = Path(path)
    if not place.is_dir():
        raise UsageError(f"{str(place)!a} is no folder", hint="give the folder of the repository")
    found = Export(repos.find(place, _FROM_WHERE.format(vm)), vm, wanted)
    if not wanted.patch:
        repos.check_branch(found.repo, found.branch)
    return found
