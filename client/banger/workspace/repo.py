"""Which repository a folder is in, and what its names stand for. Only reads."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from banger.errors import Failure, UsageError
from banger.workspace.git import Git, failed


@dataclass(frozen=True, slots=True)
class Repo:
    """A repository with a working tree. `head` is the commit ("" before the first), `branch` without refs/heads/."""

    top: Path
    prefix: str  # of the folder that was asked for, below `top`; "" or "sub/folder"
    git_dir: Path
    common_dir: Path
    object_format: str
    head: str
    branch: str

    @property
    def git(self) -> Git:
        return Git(self.top, self.git_dir, self.top)


_OR_AS_IT_IS = "`git init` and `git add` there; or take the folder as it is with --all-files"


def find(path: Path, hint: str = _OR_AS_IT_IS) -> Repo:
    """The repository that the folder `path` is in. Raises Failure, also for a bare one and for none, with `hint`."""
    path = Path(os.path.realpath(path))
    git = Git(path)
    words = ("--is-bare-repository", "--is-inside-git-dir", "--show-object-format", "--show-cdup")
    status, out, err = git.ask("rev-parse", *words, "--absolute-git-dir")
    if status:
        if "not a git repository" in err:
            raise _no_repository(path, hint)
        raise failed(err, status, f"cannot look at the repository {path}", path)
    bare, inside, object_format, rest = out.removesuffix(b"\n").split(b"\n", 3)
    if bare == b"true":
        raise Failure(
            "BareRepository",
            f"{path} is a bare repository, which has no files to take",
            hint="clone it, or `git worktree add` in it, and give that folder",
        )
    if inside == b"true":
        raise UsageError(f"{path} is git's own folder", hint="give the folder beside it")
    up, _, git_dir = rest.partition(b"\n")  # the last, as a newline may be in it
    top = Path(os.path.realpath(path / os.fsdecode(up)))
    folder = Path(os.fsdecode(git_dir))
    if not _belongs(folder, top):
        raise Failure(
            "UnsafeRepository",
            f"the repository of {path} has its files elsewhere, in {top}",
            why="its setting core.worktree says so, and what is there may not be its own",
            hint=f"`git -C {path} config --show-origin core.worktree` shows where; unset it if it is wrong",
        )
    common = _common(folder)
    if (other := _anothers(folder, common, top)) is not None:
        raise Failure(
            "UnsafeRepository",
            f"the .git of {top} leads to another repository, {other}",
            why="what is in that one does not belong to this folder",
            hint="give the other folder; or `git worktree add` makes one of its own",
        )
    prefix = os.path.relpath(path, top)
    found = Repo(top, "" if prefix == "." else prefix, folder, common, object_format.decode("ascii"), "", "")
    return _with_head(found)


def _belongs(git_dir: Path, top: Path) -> bool:
    """Whether the folder `top` has a .git that is, or leads to, `git_dir`."""
    place = top / ".git"
    try:
        if place.is_file():
            text = place.read_bytes().removeprefix(b"gitdir: ").rstrip(b"\r\n")
            place = top / os.fsdecode(text)
        return place.samefile(git_dir)
    except (OSError, ValueError):
        return False


def _anothers(git_dir: Path, common: Path, top: Path) -> Path | None:
    """The repository that a .git was made to lead to, which knows nothing of the folder `top`."""
    own = Path(os.path.realpath(git_dir))
    if own.name == ".git" and own.parent != top:
        return own
    if common != git_dir and own.parent != common / "worktrees":
        return common
    return None


def find_module(outer: Repo, path: bytes) -> Repo | None:
    """The submodule at `path` of `outer`; None if it is not checked out, or broken: then git would find `outer`."""
    place = outer.top / os.fsdecode(path)
    if Path(os.path.realpath(place)) != place:  # a link on the way, of another commit than the submodule's
        return None
    if not os.path.lexists(place / ".git"):
        return None
    found = find(place)
    return found if found.top == place else None


def _with_head(repo: Repo) -> Repo:
    git = repo.git
    status, out, _ = git.ask("symbolic-ref", "-q", "HEAD")
    ref = os.fsdecode(out.removesuffix(b"\n")) if not status else ""
    status, out, err = git.ask("rev-parse", "-q", "--verify", "HEAD^{commit}")
    if status and (not ref or not git.ask("rev-parse", "-q", "--verify", "HEAD")[0]):
        text = err or "fatal: bad object HEAD"
        raise failed(text, status, f"cannot read the present commit of {repo.top}", repo.top)
    head = out.decode("ascii").strip() if not status else ""
    return replace(repo, head=head, branch=ref.removeprefix("refs/heads/"))


def _common(git_dir: Path) -> Path:
    """Where objects and branches are: the main repository's folder for a worktree, else `git_dir` itself."""
    try:
        text = (git_dir / "commondir").read_bytes().removesuffix(b"\n")
    except FileNotFoundError:
        return git_dir
    return Path(os.path.realpath(git_dir / os.fsdecode(text)))


def _no_repository(path: Path, hint: str) -> Failure:
    return Failure(
        "NoRepository",
        f"{path} is not in a git repository",
        why="a workspace is what git tracks",
        hint=hint,
    )


def commit_of(repo: Repo, ref: str) -> tuple[str, str]:
    """The commit that `ref` names, and the branch if it names one. Raises UsageError."""
    status, out, _ = repo.git.ask("rev-parse", "-q", "--verify", "--end-of-options", f"{ref}^{{commit}}")
    if status:
        raise UsageError(
            f"--from {ref[:80]!a}: there is no such commit in {repo.top}",
            hint="`git log --all` shows what there is",
        )
    commit = out.decode("ascii").strip()
    status, out, _ = repo.git.ask(
        "rev-parse", "-q", "--verify", "--symbolic-full-name", "--end-of-options", ref
    )
    name = os.fsdecode(out.removesuffix(b"\n"))
    return commit, name.removeprefix("refs/heads/") if name.startswith("refs/heads/") else ""


def check_branch(repo: Repo, branch: str) -> None:
    """Raises UsageError for what is no possible name of a branch."""
    if branch == "HEAD" or repo.git.ask("check-ref-format", f"refs/heads/{branch}")[0]:
        raise UsageError(
            f"--branch {branch[:80]!a}: git takes no such name",
            hint="`git help check-ref-format` has the rules",
        )
