"""Real git repositories for tests, made with settings of the test's own."""

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.unit.workspace_guest import Guest

from banger.progress import Progress
from banger.workspace.options import Options
from banger.workspace.plan import plan

TOP = Path(__file__).parents[2]
TRACKED = Options()


class Repos:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def git(self, where: Path, *words: str, data: str | None = None) -> str:
        done = subprocess.run(
            ["git", "-C", where, *words],
            input=data,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
        )
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout

    def make(
        self, files: Mapping[str, str], name: str = "app", *, commit: bool = True, form: str = "sha1"
    ) -> Path:
        """A repository with these files, committed or only added."""
        repo = self.folder / name
        self.git(self.folder, "init", "-q", f"--object-format={form}", name)
        for path, text in files.items():
            (repo / path).parent.mkdir(parents=True, exist_ok=True)
            (repo / path).write_text(text)
        self.git(repo, "add", "--all")
        if commit:
            self.git(repo, "commit", "-q", "--allow-empty", "-m", "first")
        return repo

    def submodule(self, outer: Path, inner: Path, path: str) -> None:
        self.git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), path)
        words = (
            "-c",
            "protocol.file.allow=always",
            "submodule",
            "--quiet",
            "update",
            "--init",
            "--recursive",
        )
        self.git(outer, *words)
        self.git(outer, "commit", "-qm", f"submodule {path}")

    def python(self, *words: str) -> list[str]:
        """The command line of a Python that finds the client, with this test's settings of git."""
        env = [f"{key}={value}" for key, value in os.environ.items() if key.startswith("GIT_")]
        return ["env", f"PYTHONPATH={TOP / 'client'}", *env, sys.executable, *words]


def fingerprint(top: Path) -> dict[str, str]:
    """Every path below with type, mode, times and content: what nobody may have changed.

    Of objects and shared indexes git renews the time when it meets them again, so that nobody prunes them.
    """
    found = {}
    paths = [Path(folder, name) for folder, names, files in os.walk(top) for name in names + files]
    for path in paths:
        info = path.lstat()
        content = ""
        if stat.S_ISREG(info.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(info.st_mode):
            content = str(path.readlink())
        renewed = "/.git/objects/" in str(path) or path.name.startswith("sharedindex.")
        when = 0 if renewed or stat.S_ISDIR(info.st_mode) else info.st_mtime_ns
        found[str(path)] = f"{info.st_mode:o} {when} {content}"
    return found


def send(repo: Path, guest: Guest, options: Options = TRACKED, *, replace: bool = False) -> tuple[str, ...]:
    before = fingerprint(repo)
    try:
        return plan(repo, options).send(guest.open_session, Progress("x", quiet=True), replace=replace)
    finally:
        after = fingerprint(repo)
        assert after == before


def contents(top: Path) -> dict[str, str | bytes]:
    """Files and links below, but for .git."""
    found: dict[str, str | bytes] = {}
    for path in (Path(folder, name) for folder, names, files in os.walk(top) for name in names + files):
        if ".git" in path.relative_to(top).parts or stat.S_ISDIR(path.lstat().st_mode):
            continue
        name = str(path.relative_to(top))
        found[name] = str(path.readlink()) if path.is_symlink() else path.read_bytes()
    return found
