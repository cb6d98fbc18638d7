"""A user of a guest test's machine who runs OpenSSH there: in the machine's network, with a home that ssh finds too."""

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.guest.machine import Done, Machine, User
from tests.patience import Popen, patience


@dataclass(frozen=True, slots=True)
class SshUser:
    """ssh looks for ~ in /etc/passwd, so this user sees one that names the test's home."""

    user: User
    passwd: Path

    @property
    def home(self) -> Path:
        return self.user.home

    def argv(self, *words: str) -> tuple[list[str], dict[str, str]]:
        command, env = self.user.command(*words)
        own = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', str(self.passwd)]
        return [*self.user.machine.netns.within, *own, *command], env

    def run(self, *words: str, stdin: bytes = b"", timeout_s: float = 60) -> Done:
        """Run a command in the home to its end, streams captured."""
        argv, env = self.argv(*words)
        done = subprocess.run(
            argv,
            env=env,
            cwd=self.home,
            input=stdin,
            capture_output=True,
            timeout=patience(timeout_s),
            check=False,
        )
        out, err = (stream.decode("utf-8", "replace") for stream in (done.stdout, done.stderr))
        return Done(done.returncode, out, err, 0)

    def ok(self, *words: str, stdin: bytes = b"", timeout_s: float = 60) -> str:
        """The output of a command that must succeed."""
        done = self.run(*words, stdin=stdin, timeout_s=timeout_s)
        assert done.status == 0, f"{words}: {done}"
        return done.out

    def sh(self, script: str, *words: str, timeout_s: float = 60) -> str:
        """The output of a shell's script that must succeed."""
        return self.ok("sh", "-ec", script, "sh", *words, timeout_s=timeout_s)

    def start(self, *words: str, **how: Any) -> Popen:
        argv, env = self.argv(*words)
        return Popen(argv, env=env, cwd=self.home, **how)


def ssh_user(machine: Machine, name: str) -> SshUser:
    """The user called `name`, for whom that is the home which tests give all users."""
    user = machine.user(name)
    passwd = machine.folder / f"passwd-{name}"
    lines = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
    for fields in lines:
        if fields[0] == name:
            fields[5:7] = [str(user.home), "/bin/sh"]
    passwd.write_text("".join(":".join(fields) + "\n" for fields in lines))
    return SshUser(user, passwd)
