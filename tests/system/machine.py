"""A booted Debian machine with systemd as PID 1, in systemd-nspawn: `Machine.boot("bookworm")`.

It has its own network (none but loopback), D-Bus, polkit and logind, and starts in a second. Its root is made
once by mmdebstrap and kept in the cache; what a machine writes goes to a tmpfs and is gone when it is powered
off. MemoryMax=, CPUQuota= and TasksMax= have no effect in it; device policies, uids, mount views and seccomp do.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Literal, Self

from tests.patience import patience
from tests.system.debian_root import REPO, base_root

_CGROUP = Path("/sys/fs/cgroup")
# Each machine in a cgroup of its own, in each hierarchy that systemd in it looks at.
_CGROUPS = (
    [_CGROUP] if (_CGROUP / "cgroup.controllers").exists() else [_CGROUP / "unified", _CGROUP / "systemd"]
)
_numbers = itertools.count(1)

Session = Literal["none", "active", "inactive", "remote"]


class MachineError(AssertionError):
    """A command in the machine failed, or the machine itself."""


class Machine:
    """Made by `boot`. Commands run as services of the machine's systemd, so with the powers it gives them."""

    def __init__(self, suite: str, name: str, work: Path) -> None:
        self.suite = suite
        self.name = name
        self._work = work
        self.root = work / "root"  # the machine's file system, read and written from outside
        self.console = work / "console.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.leader = 0  # its PID 1, seen from outside

    @classmethod
    @contextlib.contextmanager
    def boot(
        cls,
        suite: str = "bookworm",
        *,
        binds: Mapping[Path, str] | None = None,
        overlays: Mapping[Path, str] | None = None,
    ) -> Iterator[Self]:
        """A running machine. `binds` are folders outside that are seen inside, read-only; what the machine
        writes to its view of `overlays` is gone afterwards.
        """
        base = base_root(suite)
        with tempfile.TemporaryDirectory(prefix="banger-machine-") as work:
            machine = cls(suite, f"banger-{os.getpid()}-{next(_numbers)}", Path(work))
            try:
                machine._mount(base)
                options = [f"--bind-ro={outside}:{inside}" for outside, inside in (binds or {}).items()]
                for outside, inside in (overlays or {}).items():
                    (machine.root / inside.lstrip("/")).mkdir(parents=True)
                    options.append(f"--overlay={outside}::{inside}")
                machine._start(options)
                yield machine
            finally:
                machine._end()

    # -- commands

    def run(
        self,
        *argv: str,
        user: str = "root",
        session: Session = "none",
        input: bytes | None = None,  # noqa: A002, as in subprocess.run
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        timeout: float = 60,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end. `active`: in a session on the seat; `remote`: as over ssh; `none`: a service.

        Raises MachineError with its output when it fails and `check` is true.
        """
        with self.spawn(*argv, user=user, session=session, env=env, cwd=cwd) as process:
            try:
                out, err = process.communicate(input, patience(timeout))
            except subprocess.TimeoutExpired:
                process.kill()
                raise MachineError(
                    f"{argv} took longer than {patience(timeout)} s\n{self.journal()}"
                ) from None
        done = subprocess.CompletedProcess(
            argv, process.returncode, out.decode(errors="replace"), err.decode(errors="replace")
        )
        if check and done.returncode:
            said = f"{done.stdout}\n{done.stderr}\n{self.journal(lines=40)}"
            raise MachineError(f"{argv} ended with {done.returncode}\n{said}")
        return done

    @contextlib.contextmanager
    def spawn(
        self,
        *argv: str,
        user: str = "root",
        session: Session = "none",
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: int | IO[bytes] = subprocess.PIPE,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A command that runs meanwhile, with three pipes. Ended on the way out if it still runs."""
        options = [f"--property=User={user}", f"--working-directory={cwd}"]
        environment = {"PATH": "/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin", "LC_ALL": "C.UTF-8"}
        environment |= env or {}
        if session != "none":
            options.append("--property=PAMName=banger-test")
        with contextlib.ExitStack() as stack:
            if session in ("active", "inactive"):
                environment["XDG_SEAT"] = "seat0"
            command = list(argv)
            if session == "inactive":
                # Waits for its first line, so that another session can become the active one in between.
                command = ["sh", "-c", 'read -r _ && exec "$@"', "sh", *argv]
            options += [f"--setenv={key}={value}" for key, value in environment.items()]
            before = self._sessions_of(user) if session == "inactive" else 0
            process = subprocess.Popen(
                [*self._systemd_run(), *options, "--", *command],
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            stack.enter_context(process)
            stack.callback(_finish, process)
            if session == "inactive":
                self._wait(lambda: self._sessions_of(user) > before, "the session")
                stack.enter_context(self.spawn("sleep", "infinity", user="nobody", session="active"))
                self._wait(lambda: self._user_at_the_seat() == "nobody", "the other session")
                assert process.stdin is not None
                process.stdin.write(b"\n")
                process.stdin.flush()
            yield process

    def sh(self, script: str, **kwargs: object) -> str:
        """Run a shell script as root, or as `user=`, and return its output."""
        return self.run("sh", "-euc", script, **kwargs).stdout  # type: ignore[arg-type]

    def journal(self, unit: str = "", lines: int = 80) -> str:
        """The last lines of the machine's journal."""
        chosen = ["-u", unit] if unit else []
        done = subprocess.run(
            [*self._enter(), "journalctl", "--no-pager", "-q", "-n", str(lines), *chosen],
            capture_output=True, text=True, check=False, timeout=patience(20),
        )  # fmt: skip
        return done.stdout

    def copy_in(self, source: Path, dest: str) -> None:
        """Copy a file or folder to a path inside."""
        target = self.root / dest.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(source, target)

    def copy_repo(self, dest: str = "/usr/src/banger") -> None:
        """The checkout as a user would have cloned it, changes included, build products not."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=REPO, capture_output=True, check=True,
        ).stdout  # fmt: skip
        for name in listed.decode().split("\0"):
            if name and (REPO / name).is_file():
                self.copy_in(REPO / name, f"{dest}/{name}")

    @property
    def bus_address(self) -> str:
        """Of the machine's system bus, for a client outside that runs as root."""
        return f"unix:path=/proc/{self.leader}/root/run/dbus/system_bus_socket"

    # -- life

    def _mount(self, base: Path) -> None:
        _sh("mount", "-t", "tmpfs", "-o", "mode=0755", "banger-machine", str(self._work))
        for name in ("upper", "work", "root"):
            (self._work / name).mkdir()
        layers = f"lowerdir={base},upperdir={self._work}/upper,workdir={self._work}/work"
        _sh("mount", "-t", "overlay", "-o", layers, "banger-machine", str(self.root))

    def _start(self, options: list[str]) -> None:
        for cgroup in _CGROUPS:
            (cgroup / self.name).mkdir()
        join = "".join(f"echo $$ >{cgroup}/{self.name}/cgroup.procs;" for cgroup in _CGROUPS)
        argv = [
            "systemd-nspawn", "-q", "-D", str(self.root), "-M", self.name, "--register=no", "--keep-unit",
            "--boot", "--private-network", "--console=pipe", "--link-journal=no",
            # Without these the device and address policies of units, and Landlock, are silently not enforced.
            "--system-call-filter=bpf landlock_create_ruleset landlock_restrict_self",
            "--capability=CAP_BPF,CAP_PERFMON",
            *options,
        ]  # fmt: skip
        with self.console.open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-ec", f'{join} exec "$@"', "sh", *argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                start_new_session=True,
            )
        self._wait(self._find_leader, "PID 1")
        self._wait(lambda: (self.root / "run").is_dir() and self._bus_is_up(), "the system bus")
        state = self._plain("systemctl", "is-system-running", "--wait").strip()
        if state != "running":
            raise MachineError(
                f"the machine is {state}\n{self._plain('systemctl', '--failed')}\n{self._log()}"
            )
        # nspawn makes the node for root alone; a real host's is for everyone.
        self._plain("chmod", "666", "/dev/net/tun")

    def _end(self) -> None:
        process = self._process
        if process is not None:
            # Pulls the plug: the end of its PID 1 is that of all its processes, and nspawn then tidies up.
            if process.poll() is None and self.leader:
                os.kill(self.leader, signal.SIGKILL)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for path in (self.root, self._work):
            if os.path.ismount(path):
                _sh("umount", "-R", str(path))
        for cgroup in _CGROUPS:
            for folder, _, _ in os.walk(cgroup / self.name, topdown=False):
                Path(folder).rmdir()

    def _find_leader(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise MachineError(f"systemd-nspawn ended with {self._process.returncode}\n{self._log()}")
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in children:
            if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                self.leader = int(pid)
        return self.leader > 0

    def _bus_is_up(self) -> bool:
        return Path(f"/proc/{self.leader}/root/run/dbus/system_bus_socket").exists()

    def _wait(self, condition: "object", what: str, timeout: float = 30) -> None:
        assert callable(condition)
        deadline = time.monotonic() + patience(timeout)
        while not condition():
            if time.monotonic() > deadline:
                raise MachineError(f"{what} did not come within {timeout} s\n{self._log()}")
            time.sleep(0.02)

    def _sessions_of(self, user: str) -> int:
        lines = self._plain("loginctl", "list-sessions", "--no-legend").splitlines()
        return sum(1 for line in lines if f" {user} " in f"{line} ")

    def _user_at_the_seat(self) -> str:
        """Whose session is the active one."""
        session = self._plain("loginctl", "show-seat", "seat0", "-p", "ActiveSession", "--value").strip()
        return (
            self._plain("loginctl", "show-session", session, "-p", "Name", "--value").strip()
            if session
            else ""
        )

    def _enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.leader), "-a"]

    def _systemd_run(self) -> list[str]:
        # Through systemd: a process that nsenter starts would keep all of the outside's capabilities.
        return [*self._enter(), "systemd-run", "-q", "--wait", "--pipe", "--collect"]

    def _plain(self, *argv: str) -> str:
        done = subprocess.run(
            [*self._enter(), *argv], capture_output=True, text=True, check=False, timeout=patience(60)
        )
        return done.stdout + done.stderr

    def _log(self) -> str:
        return self.console.read_text(errors="replace")[-4000:]


def _finish(process: subprocess.Popen[bytes]) -> None:
    """End a command that is still running: systemd-run passes the end of its input on, not its own end."""
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    if process.poll() is None:
        process.terminate()  # systemd-run --wait then stops the unit
        try:
            process.wait(patience(15))
        except subprocess.TimeoutExpired:
            process.kill()


def _sh(*argv: str) -> None:
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
