"""The user's git, run so that it writes nothing in their repository, runs no hook and asks nobody: the one door."""

import os
import resource
import subprocess
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from banger.errors import Failure

# What of the caller's GIT_… variables stays: where settings are read. All others say which repository it is, which
# we decide (a git hook that calls banger has GIT_DIR and GIT_INDEX_FILE set), or have programs run.
_KEPT = {
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_SYSTEM",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CEILING_DIRECTORIES",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    "GIT_EXEC_PATH",
}
_SET = {
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_NO_LAZY_FETCH": "1",  # since git 2.45; before, protocol.allow below has the same effect
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_LFS_SKIP_SMUDGE": "1",  # git-lfs would download, into the repository
    "GIT_ADVICE": "0",
    "LC_ALL": "C",
}
_MEMORY = 4 * 1024**3
_CPU_S = 900
_CONFIG = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.untrackedCache=false",
    "core.splitIndex=false",
    "core.pager=cat",
    "core.alternateRefsCommand=",
    "index.sparse=false",
    "index.version=2",
    "gc.auto=0",
    "maintenance.auto=false",
    "submodule.recurse=false",
    # By name, too: a repository's own settings of a protocol would count more than that for all.
    "protocol.allow=never",
    *(f"protocol.{name}.allow=never" for name in ("ext", "fd", "file", "git", "http", "https", "ssh")),
)


@dataclass(frozen=True, slots=True)
class Git:
    """git for the repository that `folder` is in, or for `git_dir` and `work_tree` if they are given."""

    folder: Path
    git_dir: Path | None = None
    work_tree: Path | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    config: tuple[str, ...] = ()

    def argv(self, *words: str) -> list[str]:
        argv = ["git", "-C", str(self.folder)]
        if self.git_dir is not None:
            argv.append(f"--git-dir={self.git_dir}")
        if self.work_tree is not None:
            argv.append(f"--work-tree={self.work_tree}")
        return [*argv, *words]

    def environment(self) -> dict[str, str]:
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key in _KEPT
        }
        # Not with -c, which takes the first "=" for the key's end: a hostile repository's names have one.
        settings = (*_CONFIG, *self.config)
        own = {"GIT_CONFIG_COUNT": str(len(settings))}
        for number, setting in enumerate(settings):
            own[f"GIT_CONFIG_KEY_{number}"], _, own[f"GIT_CONFIG_VALUE_{number}"] = setting.rpartition("=")
        return {**kept, **_SET, **own, **self.env}

    def ask(self, *words: str, data: bytes = b"") -> tuple[int, bytes, str]:
        """Exit status, output and error text of `git WORDS` with `data` as input. Raises Failure without a git."""
        with self.start(*words) as child:
            out, err = communicate(child, data)
        return child.returncode, out, err.decode("utf-8", "replace").strip()

    def run(self, *words: str, data: bytes = b"", doing: str = "") -> bytes:
        """The output of `git WORDS`, which must succeed. Raises Failure (`doing`: "cannot read the index")."""
        status, out, err = self.ask(*words, data=data)
        if status:
            raise failed(err, status, doing or f"`git {words[0]}` failed", self.folder)
        return out

    def line(self, *words: str, data: bytes = b"", doing: str = "") -> str:
        """The same for output of one line of ASCII."""
        return self.run(*words, data=data, doing=doing).decode("ascii", "replace").strip()

    def start(
        self, *words: str, source: int = subprocess.PIPE, output: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start it, by default with pipes; the caller has it in a `with` block and kills it in need."""
        try:
            return subprocess.Popen(
                self.argv(*words),
                env=self.environment(),
                stdin=source,
                stdout=output,
                stderr=subprocess.PIPE,
            )
        except FileNotFoundError:
            raise Failure(
                "NoGit",
                "git is not installed on this machine",
                why="a workspace is a git repository, and git tells its files",
                hint="install git; or take the folder as it is with --all-files",
            ) from None


def communicate(child: subprocess.Popen[bytes], data: bytes | None) -> tuple[bytes, bytes]:
    """Feed and read `child` to its end; it is killed when we are interrupted."""
    try:
        return child.communicate(data)
    except BaseException:
        child.kill()
        raise


def output_of(child: subprocess.Popen[bytes]) -> Generator[bytes, None, None]:
    """What `child` writes, in pieces; it is killed when nobody wants more."""
    try:
        while child.stdout is not None and (data := child.stdout.read(1 << 20)):
            yield data
    finally:
        child.kill()


def limit(child: subprocess.Popen[bytes], file_size: int) -> None:
    """Bound what a git that handles foreign objects may use: memory, time, the bytes of a file that it writes."""
    for what, value in (
        (resource.RLIMIT_DATA, _MEMORY),
        (resource.RLIMIT_CPU, _CPU_S),
        (resource.RLIMIT_FSIZE, file_size),
    ):
        resource.prlimit(child.pid, what, (value, value))


def failed(text: str, status: int, doing: str, folder: Path) -> Failure:
    """What a person is told when git ended with `status` and `text`."""
    if "dubious ownership" in text:
        return Failure(
            "UnsafeRepository",
            f"git does not trust the repository {folder}",
            why="it belongs to another user",
            hint=f"if you trust it: git config --global --add safe.directory {folder}",
        )
    lines = [line.removeprefix("fatal: ").removeprefix("error: ") for line in text.splitlines() if line]
    return Failure(
        "GitFailed", doing, why=lines[-1] if lines else f"git ended with status {status}", hint=_hint(text)
    )


def _hint(text: str) -> str:
    if "index file" in text or "bad object" in text or "unable to read" in text or "loose object" in text:
        return "`git fsck` tells what is broken in the repository"
    if "No space left" in text:
        return "make room, or set TMPDIR to a folder that has some"
    return ""


def split(output: bytes) -> Sequence[bytes]:
    """The records of output made with -z."""
    return output.split(b"\0")[:-1]
