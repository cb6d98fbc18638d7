"""The client as users have it: a process of its own, on a private bus with a stand-in for the service."""

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parents[3]
SERVICE = Path(__file__).with_name("service.py")
NATIVE = TOP / "service/native/build"

CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>system</type><listen>unix:path={socket}</listen><auth>EXTERNAL</auth>
<policy context="default"><allow user="*"/><allow own="*"/><allow send_destination="*"/>
<allow receive_sender="*"/></policy></busconfig>
"""


@dataclass
class Done:
    """How a run of the client ended."""

    status: int
    out: bytes
    err: str
    took_s: float

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        return json.loads(self.err.splitlines()[-1])


@dataclass
class Lab:
    """A private bus, the stand-in service on it, and the client."""

    folder: Path
    address: str
    guest: Path
    service: subprocess.Popen[bytes] | None = None
    scenario: dict[str, Any] = field(default_factory=dict)
    log: Path = Path("/nonexistent")

    @property
    def env(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(TOP / "client"),
            "DBUS_SYSTEM_BUS_ADDRESS": self.address,
            "LC_ALL": "C.UTF-8",
            "TERM": "xterm",
            "PYTHONWARNINGS": "error,ignore::ImportWarning",  # PyGObject's importer
            # Whoever runs the tests has a name in git, which would be brought into the guest.
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
        }

    @property
    def ssh_keys(self) -> list[str]:
        """The key that the client made for its user, as CreateVM gets it."""
        return [(self.folder / ".local/state/banger/ssh/id_ed25519.pub").read_text().strip()]

    def set(self, **scenario: Any) -> None:
        """Change what the service does from the next call on."""
        self.scenario |= scenario
        file = self.folder / "scenario.new"
        file.write_text(json.dumps(self.scenario))
        file.rename(self.folder / "scenario")

    def reset(self, log: Path) -> None:
        """Back to a scenario that is nothing special, and calls that go to `log`."""
        self.log = log
        self.scenario = {"calls": str(log)}
        self.set(vms=[{"name": "web", "state": "running", "owner": os.getuid()}], images=["debian"])

    def begin(self) -> None:
        argv = [sys.executable, str(SERVICE), str(self.folder / "scenario")]
        env = {**self.env, "PYTHONWARNINGS": "", "GUEST": str(self.guest)}  # dbus-next warns
        self.service = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE)
        assert self.service.stdout is not None
        assert self.service.stdout.readline() == b"ready\n"

    def end(self) -> None:
        if self.service is not None:
            self.service.kill()
            self.service.wait()
            assert self.service.stdout is not None
            self.service.stdout.close()
            self.service = None

    def argv(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "banger", *words]

    def run(
        self,
        *words: str,
        stdin: bytes = b"",
        timeout: float = 20,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Done:
        """Run the client to its end."""
        began = time.monotonic()
        env = {**self.env, **(env or {})}
        done = subprocess.run(
            self.argv(*words),
            input=stdin,
            capture_output=True,
            env=env,
            cwd=cwd,
            timeout=timeout,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode(), time.monotonic() - began)

    def spawn(self, *words: str, **how: Any) -> subprocess.Popen[bytes]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(self.argv(*words), **{**pipes, "env": self.env, **how})

    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()] if self.log.exists() else []

    def members(self) -> list[str]:
        return [call["member"] for call in self.calls()]

    def wait_for(self, member: str, *, count: int = 1, timeout_s: float = 15) -> None:
        """Return when the service has seen `count` calls of `member`."""
        deadline = time.monotonic() + timeout_s
        while self.members().count(member) < count:
            assert time.monotonic() < deadline, f"no {member} among {self.members()}"
            time.sleep(0.02)


class Terminal:
    """A terminal with a client in it."""

    def __init__(self, argv: list[str], env: dict[str, str], size: tuple[int, int] = (24, 80)) -> None:
        self.master, self.slave = pty.openpty()
        self.resize(*size)
        self.seen = b""

        # setsid -c: a session of its own whose controlling terminal is standard input.
        self.process = subprocess.Popen(
            ["setsid", "-c", *argv], env=env, stdin=self.slave, stdout=self.slave, stderr=self.slave
        )

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read(self, timeout_s: float) -> bool:
        """Take in what has appeared; False when nothing did."""
        if not select.select([self.master], [], [], timeout_s)[0]:
            return False
        try:
            self.seen += os.read(self.master, 65536)
        except OSError:  # EIO: everything that had it open has gone
            return False
        return True

    def expect(self, text: str, timeout_s: float = 15) -> str:
        """Wait until `text` appears; return and forget all up to its end."""
        deadline = time.monotonic() + timeout_s
        while text.encode() not in self.seen:
            assert self.read(max(0.01, deadline - time.monotonic())) or time.monotonic() < deadline, (
                f"no {text!r} in {self.seen!r}"
            )
        before, _, self.seen = self.seen.partition(text.encode())
        return before.decode() + text

    def wait(self, timeout_s: float = 15) -> int:
        """Wait for the client's end, taking in its last words."""
        deadline = time.monotonic() + timeout_s
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"still running: {self.seen!r}"
            self.read(0.02)
        while self.read(0.05):
            pass
        return self.process.returncode

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.master)
        os.close(self.slave)


@contextmanager
def private_bus(folder: Path) -> Iterator[str]:
    """A bus daemon; gives its address."""
    config = folder / "bus.conf"
    config.write_text(CONFIG.format(socket=folder / "bus"))
    ready, notify = os.pipe()
    argv = ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--nosyslog"]
    daemon = subprocess.Popen(
        [*argv, f"--print-address={notify}"], pass_fds=[notify], stderr=subprocess.DEVNULL
    )
    os.close(notify)
    try:
        assert os.read(ready, 100)
        yield f"unix:path={folder / 'bus'}"
    finally:
        os.close(ready)
        daemon.terminate()
        daemon.wait(10)


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a shim with the real guest program behind it, run as a plain process."""
    folder = tmp_path_factory.mktemp("guest")
    # With a /run of its own: what the client puts there stays away from this machine's.
    argv = [
        "unshare",
        "--mount",
        "sh",
        "-ec",
        'mount -t tmpfs tmpfs /run; exec "$@"',
        "sh",
        NATIVE / "banger-shim",
        "--dir",
        folder,
        "--channel",
        "fd",
        "--",
        NATIVE / "banger-guest",
        "--agent-fd",
        "3",
    ]
    shim = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not (folder / "guest.sock").exists():
            assert time.monotonic() < deadline, "the shim does not come up"
            time.sleep(0.01)
        yield folder / "guest.sock"
    finally:
        shim.terminate()  # asks the guest program to end, which cannot power off a machine here
        shim.terminate()
        shim.wait(15)


@contextmanager
def stand(folder: Path, guest: Path) -> Iterator[Lab]:
    with private_bus(folder) as address:
        lab = Lab(folder, address, guest)
        lab.reset(folder / "calls")
        lab.begin()
        try:
            yield lab
        finally:
            lab.end()


@pytest.fixture(scope="session")
def shared(guest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with stand(tmp_path_factory.mktemp("stand"), guest) as lab:
        yield lab


@pytest.fixture
def lab(shared: Lab, tmp_path: Path) -> Lab:
    """A service whose scenario is nothing special yet. Tests that end it take `mortal`."""
    shared.reset(tmp_path / "calls")
    return shared


@pytest.fixture
def mortal(guest: Path, tmp_path: Path) -> Iterator[Lab]:
    """A service and a bus of the test's own."""
    with stand(tmp_path, guest) as lab:
        yield lab


@pytest.fixture
def terminal(lab: Lab) -> Iterator[Callable[..., Terminal]]:
    """Start a client in a terminal: terminal("vm", "exec", "web", size=(24, 80))."""
    opened: list[Terminal] = []

    def begin(*words: str, size: tuple[int, int] = (24, 80), **env: str) -> Terminal:
        opened.append(Terminal(lab.argv(*words), {**lab.env, **env}, size))
        return opened[-1]

    yield begin
    for one in opened:
        one.close()
