"""The guest's .git folder, made on the host in a folder of its own: the guest needs no git to get a repository.

One pack with the present commit and what is staged, the index, HEAD and a few refs. Objects that are new (the snapshot
of a working tree with changes) go to a scratch folder, never to the repository.
"""

import os
import re
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

from banger import config
from banger.errors import Failure
from banger.workspace import gitconfig
from banger.workspace.folder import Entry
from banger.workspace.git import Git, split
from banger.workspace.listing import Part

START, BASE = (
    "refs/banger/start",
    "refs/banger/base",
)  # the commit, and the snapshot of the files as they were taken
_GITLINK = b"160000"
_IDENTITY = {
    "GIT_AUTHOR_NAME": "banger",
    "GIT_AUTHOR_EMAIL": "banger@localhost",
    "GIT_COMMITTER_NAME": "banger",
    "GIT_COMMITTER_EMAIL": "banger@localhost",
}


@dataclass(frozen=True, slots=True)
class Skeleton:
    """What was made: the folder that becomes .git, and where the files are read from."""

    git_dir: Path
    files: Path


def build(part: Part, place: Path, branch: str, work_tree: str) -> Skeleton:
    """Make the .git of `part` below the empty folder `place`. HEAD is on `branch`, or on the commit if "".

    `work_tree` is where the files are, relative to the git folder in the guest; "" for beside it.
    Raises Failure.
    """
    return _Maker(part, place).make(branch, work_tree)


class _Maker:
    def __init__(self, part: Part, place: Path) -> None:
        self._part = part
        self._repo = part.repo
        self._head = part.commit or part.repo.head
        self._out = place / "git"
        self._scratch = place / "objects"
        for folder in (
            self._out,
            self._out / "objects/pack",
            self._out / "refs/heads",
            self._out / "info",
            self._scratch,
        ):
            folder.mkdir(parents=True)
        self._files = self._repo.top
        self._plain: tuple[str, ...] = ()  # settings with which no filter runs that shall not
        if part.commit:
            self._files = place / "tree"
            self._files.mkdir()

    def make(self, branch: str, work_tree: str) -> Skeleton:
        settings = gitconfig.read(self._repo.git)
        tree, parents = self._commit()
        if self._part.commit:
            # As `git checkout` has it, but without programs that the repository's own settings name: it may be
            # somebody's archive.
            self._plain = gitconfig.without_filters(settings, "own.")
            staged: set[str] = set()
            base = self._check_out()
        else:
            # Without programs at all (git-lfs), which also write into the repository. Whoever writes an index runs
            # them, to see whether a file is what it was.
            self._plain = gitconfig.without_filters(settings)
            self._take_index()
            staged = self._staged()
            base = self._snapshot(tree)
        refs = self._refs()
        self._pack([oid for oid in (self._head, base, *sorted(staged), *refs.values()) if oid])
        if self._head:
            refs[START] = self._head
            if branch:
                refs[f"refs/heads/{branch}"] = self._head
        refs[BASE] = base
        lines = [f"{oid} {name}\n" for name, oid in sorted(refs.items())]
        self._write("packed-refs", "".join(lines))
        self._write("HEAD", f"ref: refs/heads/{branch}\n" if branch else f"{self._head}\n")
        if parents:
            self._write("shallow", f"{self._head}\n")
        identity = config.settings().forward.git
        text = gitconfig.guest(settings, self._repo.object_format, branch, work_tree, identity=identity)
        (self._out / "config").write_bytes(text)
        self._copy_info(settings)
        return Skeleton(self._out, self._files)

    def _git(self, index: str = "index", **env: str) -> Git:
        where = {
            "GIT_INDEX_FILE": str(self._out / index),
            "GIT_OBJECT_DIRECTORY": str(self._scratch),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": quoted(self._repo.common_dir / "objects"),
        }
        return Git(self._files, self._repo.git_dir, self._files, {**where, **env}, self._plain)

    def _commit(self) -> tuple[str, bool]:
        """The commit's tree, and whether it has parents; "" before the first commit."""
        if not self._head:
            return "", False
        text = self._repo.git.run("cat-file", "commit", self._head, doing="cannot read the present commit")
        lines = text.partition(b"\n\n")[0].split(b"\n")
        return lines[0].removeprefix(b"tree ").decode("ascii"), lines[1].startswith(b"parent ")

    def _check_out(self) -> str:
        """The files of the commit, into a folder of ours."""
        git = self._git()
        doing = f"cannot lay out the files of {self._head[:12]}"
        git.run("read-tree", self._head, doing=doing)
        git.run("checkout-index", "--all", "--index", "--quiet", doing=doing)
        # Nobody changed them since, so git in the guest need not look whether somebody did within that second.
        later = time.time() + 2
        os.utime(self._out / "index", (later, later))
        return self._head

    def _take_index(self) -> None:
        """The index as it is, without the parts that speak of this machine (shared, untracked, fsmonitor)."""
        try:
            shutil.copy2(self._repo.git_dir / "index", self._out / "index")
        except FileNotFoundError:
            self._git().run("read-tree", "--empty")
            return
        except OSError as exc:
            raise Failure(
                "Unreadable", f"cannot read git's index of {self._repo.top}", why=str(exc)
            ) from None
        words = ("--no-split-index", "--no-untracked-cache", "--index-version", "2", "--force-write-index")
        self._git().run("update-index", *words, doing=f"cannot read git's index of {self._repo.top}")

    def _staged(self) -> set[str]:
        """Objects that the index has beyond the commit."""
        if not self._head:
            return _oids(self._git().run("ls-files", "-z", "--stage"))
        words = (
            "--cached",
            "--raw",
            "-z",
            "--no-renames",
            "--no-abbrev",
            "--ignore-submodules=none",
            self._head,
        )
        found: set[str] = set()
        conflicts = False
        for record in split(self._git().run("diff-index", *words))[::2]:
            _, mode, _, oid, status = record.split(b" ")
            conflicts |= status == b"U"
            if mode != _GITLINK and oid.strip(b"0"):
                found.add(oid.decode("ascii"))
        return found | _oids(self._git().run("ls-files", "-z", "--unmerged")) if conflicts else found

    def _snapshot(self, head_tree: str) -> str:
        """A commit of all that is taken, as it is now: what later counts as changed in the guest differs from it.

        So it is made as the guest's git would: without programs (git-lfs).
        """
        git = self._git("index.snapshot", **_IDENTITY)
        shutil.copy2(self._out / "index", self._out / "index.snapshot")
        paths = [*self._part.gone, *self._part.modules]
        paths += [
            entry.path
            for entry in self._part.entries
            if _counts(entry) and entry.path not in self._part.ignored
        ]
        words = ("-z", "--add", "--remove", "--replace", "--stdin")
        data = b"".join(path + b"\0" for path in paths)
        git.run("update-index", *words, data=data, doing=f"cannot take the changes in {self._repo.top}")
        tree = git.line("write-tree", "--missing-ok")
        (self._out / "index.snapshot").unlink()
        if tree == head_tree:
            return self._head
        parent = ("-p", self._head) if self._head else ()
        return git.line("commit-tree", *parent, "-m", "The files as they were taken into the guest", tree)

    def _refs(self) -> dict[str, str]:
        """Tags and branches of remotes that are at the commit: `git describe` and `git status` look at them."""
        if not self._head:
            return {}
        words = (
            "--points-at",
            self._head,
            "--format=%(objectname) %(symref)%00%(refname)",
            "refs/tags",
            "refs/remotes",
        )
        refs = {}
        for line in self._repo.git.run("for-each-ref", *words).split(b"\n")[:-1]:
            head, _, name = line.partition(b"\0")
            oid, _, symbolic = head.partition(b" ")
            if not symbolic:
                refs[os.fsdecode(name)] = oid.decode("ascii")
        return refs

    def _pack(self, oids: list[str]) -> None:
        if not oids:
            return
        # No search for new deltas: it costs more than the bytes that it saves on the way into a guest.
        words = ("-q", "--revs", "--window=0", "--delta-base-offset", "--missing=allow-promisor")
        git = replace(self._git(), config=("pack.compression=1",))
        shallow = [f"--shallow {self._head}\n"] if self._head else []
        data = "".join([*shallow, *(f"{oid}\n" for oid in oids)]).encode("ascii")
        git.run(
            "pack-objects",
            *words,
            str(self._out / "objects/pack/pack"),
            data=data,
            doing="cannot pack the commit",
        )

    def _copy_info(self, settings: gitconfig.Settings) -> None:
        for name in ("sparse-checkout", "exclude", "attributes"):
            places = (folder / "info" / name for folder in (self._repo.git_dir, self._repo.common_dir))
            # A link here is none of git's, and would lead to a file that is not the repository's.
            text = next(
                (path.read_bytes() for path in places if path.is_file() and not path.is_symlink()), b""
            )
            if name == "exclude" and (own := gitconfig.ignored_by_the_user(settings)).is_file():
                text = own.read_bytes() + b"\n" + text  # what git ignores here it shall ignore there
            if text:
                (self._out / "info" / name).write_bytes(text)

    def _write(self, name: str, text: str) -> None:
        (self._out / name).write_bytes(os.fsencode(text))


def _counts(entry: Entry) -> bool:
    return entry.kind != b"5"


def _oids(listed: bytes) -> set[str]:
    """Objects in the output of `ls-files --stage -z`."""
    found = set()
    for record in split(listed):
        mode, oid, _ = record.split(b" ", 2)
        if mode != _GITLINK:
            found.add(oid.decode("ascii"))
    return found


def quoted(path: Path) -> str:
    """A path for GIT_ALTERNATE_OBJECT_DIRECTORIES, in which ":" parts and git unquotes."""
    escaped = re.sub(r'(["\\])', r"\\\1", str(path)).replace("\n", "\\n")
    return f'"{escaped}"'
