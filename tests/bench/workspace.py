"""A repository on its way into a guest, against `tar | ssh`, the way without banger."""

import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.bench.host import Host

PLACE = "/root/bench-repo"


@contextmanager
def made(host: Host, files: int) -> Iterator[Path]:
    """A repository of the user's with so many files, packed, of sizes as sources have them (4 KB on average)."""
    repo = host.user.home / "bench-repo"
    random = Random(files)
    words = [
        bytes(random.choices(b"abcdefghijklmnopqrstuvwxyz_", k=random.randint(2, 12))) for _ in range(5000)
    ]
    for number in range(files):
        if number % 25 == 0:
            folder = repo / f"part{number // 625}/module{number // 25}"
            folder.mkdir(parents=True)
        text = b" ".join(random.choices(words, k=int(random.expovariate(1 / 550)) + 1))
        (folder / f"file{number}.py").write_bytes(text + b"\n")
    subprocess.run(["chown", "-R", host.user.name, repo], check=True)
    git = f"git -C {repo} -c gc.auto=0 -c user.name=b -c user.email=b@x"
    script = f"{git} init -q && {git} add . && {git} commit -qm all && {git} gc -q"
    done = host.user.run("sh", "-c", script, timeout_s=900)
    if done.status:
        raise RuntimeError(done.err)
    try:
        yield repo
    finally:
        shutil.rmtree(repo)


@dataclass(frozen=True, slots=True)
class Guest:
    """A VM that runs, reached by ssh, too."""

    host: Host
    vm: str

    def ssh(self) -> str:
        """The command line of ssh to it, for a shell; the first call makes a key and puts it there."""
        key = self.host.user.home / "bench-key"
        if not key.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
            for path in (key, key.with_suffix(".pub")):
                subprocess.run(["chown", self.host.user.name, path], check=True)
            public = key.with_suffix(".pub").read_text()
            self.run(
                f"mkdir -p -m 700 /root/.ssh && echo {shlex.quote(public.strip())} >> /root/.ssh/authorized_keys"
            )
        address = self.host.user.json("vm", "show", self.vm)["address"]
        options = (
            "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -o BatchMode=yes"
        )
        return f"ssh -i {key} {options} root@{address.partition('/')[0]}"

    def run(self, script: str) -> None:
        self.host.user.ok("vm", "exec", self.vm, "--", "sh", "-c", script, timeout_s=600)

    def timed(self, *argv: str) -> float:
        """Run it as the user, in the network that the guest is in; milliseconds."""
        command, env = self.host.user.command(*argv)
        begun = time.perf_counter()
        done = subprocess.run(
            [*self.host.machine.netns.within, *command],
            env=env, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=900,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.stderr}")
        return (time.perf_counter() - begun) * 1000

    def clear(self) -> None:
        """Between the turns; what was written is on the disk before the next begins."""
        self.run(f"rm -rf {PLACE}; sync")


def commands(guest: Guest, repo: Path) -> Iterator[tuple[str, list[str]]]:
    """What is compared, by name: three ways to have the repository there."""
    ssh = guest.ssh()
    yield "banger vm workspace prepare", ["banger", "vm", "workspace", "prepare", guest.vm, str(repo)]
    unpack = shlex.quote(f"mkdir {PLACE} && tar x -C {PLACE}")
    yield "tar c | ssh tar x, with .git", ["sh", "-c", f"tar c -C {repo} . | {ssh} {unpack}"]
    yield "tar c | ssh tar x, without", ["sh", "-c", f"tar c -C {repo} --exclude ./.git . | {ssh} {unpack}"]
