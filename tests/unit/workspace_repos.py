"""Real git repositories for tests, made with settings of the test's own."""

import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

TOP = Path(__file__).parents[2]


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
