"""A machine for guest tests: a private host in a network namespace of its own, and users who call banger there."""

import ast
import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import struct
import subprocess
import termios
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import leftovers
from privatehost import HostError, Layout, PrivateHost
from tests import schemas
from tests.patience import Popen, patience

# Accounts of every Debian system. A polkit rule lets the first two use banger; STRANGER has none.
ALICE, BOB, STRANGER = "games", "news", "nobody"
IMAGE = "debian-bookworm"
_SERVICE = Path(__file__).parents[2] / "service/bangerd"
WORKERS, MISE = _SERVICE / "workers", _SERVICE / "model/mise.py"


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str
    seconds: float


class Netns:
    """A network namespace with nothing but loopback."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.within = ("nsenter", f"--net=/run/netns/{name}", "--")
        subprocess.run(["ip", "netns", "add", name], check=True)
        subprocess.run([*self.within, "ip", "link", "set", "lo", "up"], check=True)

    def processes(self) -> dict[int, str]:
        """Pid and command line of every process in it."""
        inode = Path(f"/run/netns/{self.name}").stat()
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.path.samestat((folder / "ns/net").stat(), inode):
                    words = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(folder.name)] = words.decode("utf-8", "replace").strip()
            except OSError:  # it ended meanwhile
                continue
        return found

    def close(self) -> None:
        """Remove it. AssertionError if a process was left in it."""
        left = self.processes()
        leftovers.end(left)
        subprocess.run(["ip", "netns", "delete", self.name], check=True)
        assert not left, f"processes left in the namespace: {left}"


class Machine:
    """A private host in its own namespace, with the images and kernels of a library folder."""

    def __init__(self, name: str, folder: Path, library: Path, config: str = "", rules: str = "") -> None:
        """`library` has images and kernels; if it is on another file system than `folder`, they are mounted there."""
        self.netns = Netns(name)
        self.folder = folder
        self.state = folder / "state"
        self._mounts: list[Path] = []
        for kind in ("images", "kernels"):
            if folder.stat().st_dev == library.stat().st_dev:
                shutil.copytree(library / kind, self.state / kind, copy_function=os.link)
            else:
                (self.state / kind).mkdir(parents=True)
                subprocess.run(["mount", "--bind", library / kind, self.state / kind], check=True)
                self._mounts.append(self.state / kind)
        self.layout = Layout(
            runtime=Path("/run") / name,
            state=self.state,
            users=(ALICE, BOB),
            # Uids of its own: everything at a VM's uid is killed when the VM ends, on all of this kernel.
            config=f"uid_first = {600_000_000 + os.getpid() % 100_000 * 1000}\n{config}",
            rules=rules,
            within=self.netns.within,
        )
        self.host = PrivateHost(self.layout)

    def start(self) -> None:
        self.host.start()
        self.host.activate()

    def close(self) -> None:
        try:
            self.host.stop()
        finally:
            for place in self._mounts:
                subprocess.run(["umount", place], check=True)
            self.netns.close()
            shutil.rmtree(self.folder / "state")

    def user(self, name: str) -> "User":
        home = self.folder / f"home-{name}"
        if not home.exists():
            home.mkdir(mode=0o700)
            shutil.chown(home, name)
        return User(self, name, home)

    def running_traces(self) -> list[str]:
        """What is there of VMs that run: processes, links, tables. Empty when none does."""
        programs = ("banger-shim", "qemu-system", "firecracker")
        found = [line for line in self.netns.processes().values() if any(name in line for name in programs)]
        return [*found, *leftovers.links(self.netns.within), *leftovers.tables(self.netns.within)]

    def traces(self) -> list[str]:
        """The same, and the folders of VMs that are stored (a stopped one keeps its log). Empty without any VM."""
        folders = (self.state / "vm", self.layout.runtime / "banger/vm")
        return [*self.running_traces(), *(entry for folder in folders for entry in self._entries(folder))]

    def _entries(self, folder: Path) -> list[str]:
        return [str(entry) for entry in folder.iterdir()] if folder.is_dir() else []

    def crash_at(self, points: str) -> None:
        """Have the next bangerd die at these points (core/hook.py); "" for a healthy one. The present one ends."""
        self.host.set_environment(*([f"BANGER_CRASH_AT={points}"] if points else []))
        if (pid := self.host.service_pid()) is not None:
            leftovers.end([pid])

    def kill_service(self) -> int:
        """kill -9 of bangerd; its pid."""
        pid = self.host.service_pid()
        assert pid is not None, "bangerd does not run"
        leftovers.end([pid])
        return pid


@dataclass(frozen=True, slots=True)
class User:
    """An unprivileged user of a machine."""

    machine: Machine
    name: str
    home: Path

    def command(self, *argv: str) -> tuple[list[str], dict[str, str]]:
        return self.machine.host.command(self.name, argv, home=str(self.home))

    def popen(self, *argv: str, **more: Any) -> Popen:
        command, env = self.command(*argv)
        return Popen(command, env=env, cwd=self.home, **more)

    def run(self, *argv: str, stdin: bytes = b"", timeout_s: float = 120) -> Done:
        """Run to the end, streams captured."""
        start = time.monotonic()
        command, env = self.command(*argv)
        done = subprocess.run(
            command,
            env=env,
            cwd="/",
            input=stdin,
            capture_output=True,
            timeout=patience(timeout_s),
            check=False,
        )
        seconds = time.monotonic() - start
        return Done(
            done.returncode,
            done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
            seconds,
        )

    def banger(self, *args: str, stdin: bytes = b"", timeout_s: float = 120) -> Done:
        return self.run("banger", *args, stdin=stdin, timeout_s=timeout_s)

    def ok(self, *args: str, stdin: bytes = b"", timeout_s: float = 120) -> str:
        """The output of a call of banger that must succeed."""
        done = self.banger(*args, stdin=stdin, timeout_s=timeout_s)
        assert done.status == 0, f"banger {' '.join(args)}: {done}\n{self.machine.host.log_tail(40)}"
        return done.out

    def json(self, *args: str) -> Any:
        """What a command prints with --json; AssertionError if its documentation says otherwise."""
        value = json.loads(self.ok(*args, "--json"))
        schemas.check(schemas.command_of(args), value)
        return value

    def state(self, vm: str) -> str:
        return str(self.json("vm", "show", vm)["state"])


class Terminal:
    """A command on a pseudo-terminal that we play the person at."""

    def __init__(self, user: User, *argv: str, rows: int = 24, columns: int = 80) -> None:
        self.master, slave = os.openpty()
        self.resize(rows, columns)
        command, env = user.command(*argv)
        command = ["setsid", "--ctty", *command]
        self.process = Popen(
            command, env=env | {"TERM": "xterm-256color"}, cwd="/", stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        self.seen = ""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, pattern: str, timeout_s: float = 60) -> re.Match[str]:
        """Read until `pattern` appears in what has not been matched yet."""
        deadline = time.monotonic() + patience(timeout_s)
        while not (match := re.search(pattern, self.seen)):
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.master], [], [], max(left, 0))
            assert ready, f"no {pattern!r} within {patience(timeout_s):g} s; there is {self.seen[-2000:]!r}"
            try:
                data = os.read(self.master, 65536)
            except OSError:  # Linux's end of file of a pseudo-terminal
                data = b""
            assert data, f"the terminal ended without {pattern!r}: {self.seen[-2000:]!r}"
            self.seen += data.decode("utf-8", "replace")
        self.seen = self.seen[match.end() :]
        return match

    def wait(self, timeout_s: float = 60) -> int:
        """Drain it and return the command's status."""
        deadline = time.monotonic() + patience(timeout_s)
        while time.monotonic() < deadline:
            ready, _, _ = select.select([self.master], [], [], max(deadline - time.monotonic(), 0))
            try:
                data = os.read(self.master, 65536) if ready else b""
            except OSError:
                data = b""
            if not data:
                break
            self.seen += data.decode("utf-8", "replace")
        return self.process.wait(max(deadline - time.monotonic(), 1))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)


def recipe() -> str:
    """Stands for how this checkout makes images and kernels: comments and layout left out."""
    sources = [
        WORKERS / f"{name}.py" for name in ("archive", "build_image", "build_kernel", "customize", "vmlinux")
    ]
    trees = [ast.dump(ast.parse(path.read_text())) for path in (*sources, MISE)]
    return hashlib.sha256("".join(trees).encode()).hexdigest()[:12]


def build_library(cache: Path) -> Path:
    """A state folder below `cache` with image and kernel as this checkout makes them.

    If it is not there, bangerd, in this machine's own network, pulls them. The folders of other recipes stay,
    for other checkouts that share the cache.
    """
    library = cache / f"library-{recipe()}"
    with (cache / "library.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            state = cache / "library.new"
            shutil.rmtree(state, ignore_errors=True)
            _pull(state)
            state.rename(library)
    return library


def _pull(state: Path) -> None:
    layout = Layout(runtime=Path(f"/run/banger-library-{os.getpid()}"), state=state, users=(ALICE,))
    with PrivateHost(layout) as host:
        argv, env = host.command(ALICE, ["banger", "image", "pull", IMAGE], home="/")
        done = subprocess.run(
            argv,
            env=env,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=patience(1800),
        )
        if done.returncode != 0:
            raise HostError(f"pulling {IMAGE}: {done.stdout}{done.stderr}{host.log_tail(40)}")
