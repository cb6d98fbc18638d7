"""A guest's pack, checked by git in a folder of ours before the user's repository sees anything of it.

What is checked: every object is sound by `git fsck`'s strict rules (no path with `..`, `.git` or a slash, no name
twice, no malicious .gitmodules), all that the commits need is there or here, and their trees are of a sane size.
"""

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from banger.errors import Failure
from banger.workspace.git import Git, communicate, failed, limit, output_of
from banger.workspace.receive import Header
from banger.workspace.repo import Repo
from banger.workspace.skeleton import quoted

_REF = "refs/heads/export"
_FETCH = (
    "protocol.file.allow=always",
    "transfer.fsckObjects=true",
    "fetch.fsckObjects=true",
    "fetch.writeCommitGraph=false",
    "fetch.prune=false",
    "fetch.pruneTags=false",
)
_MOST_FILES = 2_000_000
_LARGEST = 8 * 1024**3  # a file that git may write; the pack is smaller by far


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A bare repository in the new folder `place`, which borrows the objects of `repo`."""

    repo: Repo
    place: Path

    def make(self, pack: Path, header: Header, max_size: int) -> None:
        """Take the file `pack` in. Raises Failure if anything is wrong with it."""
        if header.object_format != self.repo.object_format:
            raise _refused(f"it speaks of {header.object_format} objects, and {self.repo.top} has others")
        if header.start and self.repo.git.ask("cat-file", "-e", f"{header.start}^{{commit}}")[0]:
            raise Failure(
                "WrongRepository",
                f"what is in the guest did not come from {self.repo.top}",
                why=f"its first commit {header.start[:12]} is not here",
                hint="give the folder of the repository that was taken there",
            )
        (self.place / "objects/pack").mkdir(parents=True)
        (self.place / "objects/info").mkdir()
        (self.place / "refs").mkdir()
        (self.place / "HEAD").write_text(f"ref: {_REF}\n")
        sha256 = self.repo.object_format == "sha256"
        extension = "[extensions]\n\tobjectformat = sha256\n" if sha256 else ""
        config = f"[core]\n\trepositoryformatversion = {int(sha256)}\n\tbare = true\n{extension}"
        (self.place / "config").write_text(config)
        objects = quoted(self.repo.common_dir / "objects")
        (self.place / "objects/info/alternates").write_bytes(os.fsencode(f"{objects}\n"))
        self._index(pack, max_size)
        self._check(header)
        (self.place / "packed-refs").write_text(f"{header.tip} {_REF}\n")

    def git(self) -> Git:
        """The user's repository as it would be with what came in, which is not written there."""
        env = {
            "GIT_OBJECT_DIRECTORY": str(self.place / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": quoted(self.repo.common_dir / "objects"),
        }
        return Git(self.repo.top, self.repo.git_dir, self.repo.top, env)

    def _index(self, pack: Path, max_size: int) -> None:
        words = (
            "index-pack",
            "--strict",
            "--fix-thin",
            "--stdin",
            "--threads=1",
            f"--max-input-size={max_size}",
        )
        with pack.open("rb") as file, self.git().start(*words, source=file.fileno()) as child:
            limit(child, _LARGEST)
            _, err = communicate(child, None)
        if child.returncode:
            raise _refused(_reason(err, child.returncode))

    def _check(self, header: Header) -> None:
        git = self.git()
        for oid in dict.fromkeys((header.tip, header.base)):
            status, kind, _ = git.ask("cat-file", "-t", oid)
            if oid == header.tip and (status or kind != b"commit\n"):
                raise _refused(f"{oid[:12]} is no commit that it sent")
        with git.start("rev-list", "--objects", "--quiet", header.tip, "--not", "--all") as child:
            limit(child, _LARGEST)
            _, err = communicate(child, b"")
        if child.returncode:
            raise _refused(f"something is missing: {_reason(err, child.returncode)}")
        self._count(header.tip)

    def _count(self, commit: str) -> None:
        """A few small trees that hold one another can stand for billions of files."""
        files = 0
        with self.git().start("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit) as child:
            limit(child, _LARGEST)
            with closing(output_of(child)) as listed:
                for data in listed:
                    files += data.count(b"\0")
                    if files > _MOST_FILES:
                        raise _refused(f"its commit has more than {_MOST_FILES:,} files")

    def fetch(self, branch: str, action: str) -> None:
        """Take the commits over into the user's repository as `branch`. Only forwards. Raises Failure."""
        git = Git(
            self.repo.top,
            self.repo.git_dir,
            self.repo.top,
            {"GIT_REFLOG_ACTION": action},
            _FETCH,
        )
        words = (
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--no-recurse-submodules",
        )
        status, _, err = git.ask("fetch", *words, str(self.place), f"{_REF}:refs/heads/{branch}")
        if status:
            raise _not_taken(err, status, branch, self.repo.top)


def _reason(err: bytes, status: int) -> str:
    lines = [line for line in err.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[0].removeprefix("fatal: ").removeprefix("error: ") if lines else f"git ended with {status}"


def _refused(why: str) -> Failure:
    return Failure(
        "Refused",
        "what the guest sent is refused, and nothing is changed",
        why=why,
        hint="is the git of the guest what it should be? `banger vm cp` still gets single files",
    )


def _not_taken(err: str, status: int, branch: str, top: Path) -> Failure:
    if "checked out at" in err:
        return Failure(
            "BranchInUse",
            f"the branch {branch} is checked out, and nothing there is changed",
            hint="switch to another one, or give a new name: --branch NAME",
        )
    if "cannot lock ref" in err or "unable to create" in err:
        return Failure(
            "BranchExists",
            f"the branch {branch} cannot be made",
            why=err.splitlines()[0],
            hint="give another name: --branch NAME",
        )
    return failed(err, status, f"cannot take the branch {branch} over", top)
