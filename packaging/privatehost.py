"""What banger needs of a machine on which systemd is not PID 1: a system bus of its own, polkitd, D-Bus activation.

The bus is a `system` bus with the usual policy (nobody may own a name, nobody may call, but for what banger's and
polkit's own policy files allow), polkitd is the real one with banger's actions and one extra rule, and bangerd is
started by the bus on the first call. None of it touches the machine's own bus or polkit; all of it ends with stop().
packaging/demohost.py is the program around it; tests/guest uses it directly.
"""

import fcntl
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import leftovers

TOP = Path(__file__).resolve().parent.parent
NAME = "com.thaloco.Banger1"
POLKIT = "org.freedesktop.PolicyKit1"
POLKITD = "/usr/lib/polkit-1/polkitd"
START_S = 60  # for a service that the bus starts: a busy machine may take longer than the bus's own 25

BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <limit name="service_start_timeout">{start_ms}</limit>
  <servicedir>{services}</servicedir>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Introspectable"/>
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Properties"/>
    <deny send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus"
          send_member="UpdateActivationEnvironment"/>
  </policy>
  <policy user="root">
    <allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>
  </policy>
{includes}
</busconfig>
"""

ACTIVATION = """\
[D-BUS Service]
Name={name}
Exec={command}
User=root
"""

RULE = """\
// {user} may do with its own VMs what a user who sits at the machine may do.
polkit.addRule(function(action, subject) {{
    if (subject.user == "{user}" && action.id.indexOf("com.thaloco.banger1.") == 0
        && !/-(others|any)$/.test(action.id))
        return polkit.Result.YES;
}});
"""


class HostError(Exception):
    """Something could not be started or ended; the sentence says what."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things are. `within` is a command prefix that enters another network namespace."""

    runtime: Path
    state: Path
    users: tuple[str, ...]
    python: Path = field(default_factory=lambda: Path(sys.executable))
    libexec: Path = TOP / "service/native/build"
    policy: Path = TOP / "polkit/com.thaloco.banger1.policy"
    bus_policy: Path = TOP / "packaging/dbus/com.thaloco.Banger1.conf"
    config: str = ""  # text of banger.toml
    rules: str = ""  # further polkit rules
    within: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        return f"unix:path={self.runtime}/bus"

    @property
    def log(self) -> Path:
        return self.runtime / "log"

    @property
    def service_argv(self) -> tuple[str, ...]:
        return (
            str(self.python), "-m", "bangerd",
            "--state-dir", str(self.state),
            "--runtime-dir", str(self.runtime / "banger"),
            "--libexec-dir", str(self.libexec),
            "--config", str(self.runtime / "banger.toml"),
            "--bus-address", self.address,
            "--supervisor", "process",
        )  # fmt: skip


class PrivateHost:
    """One such host. A context manager; start() and stop() may be used again and again."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "DBUS_SYSTEM_BUS_ADDRESS": layout.address,
        }
        self._bus: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    def __enter__(self) -> "PrivateHost":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- up

    def start(self) -> None:
        """Bus and polkitd are up on return; bangerd follows on the first call. Raises HostError."""
        self._take_lock()
        self.sweep()
        try:
            self._write()
            self._start_bus()
            self._start_polkit()
        except BaseException:
            self.stop()
            raise

    def sweep(self) -> None:
        """End what an earlier host at the same place left, because it was killed."""
        left = leftovers.processes(self.layout.runtime)
        if stubborn := leftovers.end(left):
            raise HostError(f"cannot end {', '.join(left[pid] for pid in stubborn)}; end it by hand")

    def _take_lock(self) -> None:
        self.layout.runtime.mkdir(parents=True, exist_ok=True, mode=0o711)
        lock = os.open(self.layout.runtime, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise HostError(f"another one runs at {self.layout.runtime}; wait for it to end") from None
        self._lock = lock

    def _write(self) -> None:
        layout = self.layout
        runtime = layout.runtime
        for entry in runtime.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        for needed in (layout.policy, layout.bus_policy, layout.libexec / "banger-shim", Path(POLKITD)):
            if not needed.exists():
                raise HostError(f"{needed} is missing; packaging/prepare makes or installs it")
        for name in ("services", "actions", "rules.d"):
            (runtime / name).mkdir(mode=0o755)
        layout.state.mkdir(parents=True, exist_ok=True, mode=0o711)
        (runtime / "banger.toml").write_text(layout.config)
        # polkit's own policy lets its callers call it; banger's lets people call banger.
        policies = (Path("/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf"), layout.bus_policy)
        includes = "\n".join(f"  <include>{path}</include>" for path in policies)
        config = BUS.format(
            address=layout.address, services=runtime / "services", includes=includes, start_ms=START_S * 1000
        )
        (runtime / "bus.conf").write_text(config)
        for name, script in ((NAME, "start-bangerd"), (POLKIT, "start-polkitd")):
            activation = ACTIVATION.format(name=name, command=f"/bin/sh {runtime}/{script}")
            (runtime / "services" / f"{name}.service").write_text(activation)
        self.set_environment()
        # By the bus too, as on every machine without systemd: should polkitd end, the next question starts it again.
        # (A package's script in some chroot of this machine may stop every polkitd that it sees.)
        command = [
            "exec", sys.executable, str(TOP / "packaging/privatemounts.py"),
            "--bind", str(runtime / "actions"), "/usr/share/polkit-1/actions",
            "--bind", str(runtime / "rules.d"), "/etc/polkit-1/rules.d",
            "--", POLKITD, "--no-debug",
        ]  # fmt: skip
        (runtime / "start-polkitd").write_text(f"{shlex.join(command)}\n")
        for policy in (layout.policy, Path("/usr/share/polkit-1/actions/org.freedesktop.policykit.policy")):
            shutil.copy(policy, runtime / "actions")
        (runtime / "rules.d/40-further.rules").write_text(layout.rules)
        for user in layout.users:
            (runtime / "rules.d" / f"50-banger-{user}.rules").write_text(RULE.format(user=user))

    def set_environment(self, *variables: str) -> None:
        """NAME=value that bangerd gets beside the bus's environment, from its next start on (tests' hooks)."""
        command = ["exec", "env", "PYTHONDONTWRITEBYTECODE=1", *variables, *self.layout.service_argv]
        (self.layout.runtime / "start-bangerd").write_text(f"{shlex.join(command)}\n")

    def _start_bus(self) -> None:
        # Should we be killed, the bus goes too, and with the bus bangerd.
        argv = ["setpriv", "--pdeathsig=KILL", "--", "dbus-daemon"]
        argv += [f"--config-file={self.layout.runtime}/bus.conf", "--nofork", "--nopidfile"]
        with self.layout.log.open("ab") as log:
            # In a session of its own: a Ctrl-C at the terminal is not for it, nor for what it starts.
            self._bus = subprocess.Popen(
                [*self.layout.within, *reaching(self.layout.state), *argv, "--nosyslog", "--print-address=1"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=self.env, cwd="/",
                start_new_session=True,
            )  # fmt: skip
        assert self._bus.stdout is not None
        with self._bus.stdout:
            ready = self._bus.stdout.readline()  # one line when it listens, end of file when it cannot
        if not ready:
            raise HostError(f"the private system bus does not start: {self.log_tail()}")

    def _start_polkit(self) -> None:
        if self.call("StartServiceByName", f"string:{POLKIT}", "uint32:0", timeout_s=START_S) is None:
            raise HostError(f"polkitd does not start: {self.log_tail()}")

    # -- the bus, as root

    def call(self, member: str, *args: str, timeout_s: float = 10.0) -> str | None:
        """Call a method of the bus itself; the reply's text, None if it failed."""
        argv = ["dbus-send", f"--bus={self.layout.address}", "--print-reply=literal"]
        argv += [f"--reply-timeout={int(timeout_s * 1000)}", "--dest=org.freedesktop.DBus", "/"]
        done = subprocess.run(
            [*argv, f"org.freedesktop.DBus.{member}", *args],
            capture_output=True, text=True, check=False, timeout=timeout_s + 5, env=self.env,
        )  # fmt: skip
        return done.stdout.strip() if done.returncode == 0 else None

    @property
    def bus_pid(self) -> int:
        """Pid of the bus daemon; 0 when the host is down."""
        return self._bus.pid if self._bus else 0

    def service_pid(self, name: str = NAME) -> int | None:
        """Pid of the running bangerd, or of who else owns `name`."""
        reply = self.call("GetConnectionUnixProcessID", f"string:{name}")
        return int(reply.split()[-1]) if reply else None

    def activate(self) -> int:
        """Have the bus start bangerd, as a first call would. Returns its pid; raises HostError with its last words."""
        if self.call("StartServiceByName", f"string:{NAME}", "uint32:0", timeout_s=START_S) is None:
            raise HostError(f"bangerd does not start: {self.log_tail()}")
        pid = self.service_pid()
        if pid is None:
            raise HostError(f"bangerd ended at once: {self.log_tail()}")
        return pid

    def log_tail(self, lines: int = 12) -> str:
        text = self.layout.log.read_text(errors="replace") if self.layout.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "it said nothing"

    # -- users

    def command(self, user: str, argv: Sequence[str], *, home: str = "") -> tuple[list[str], dict[str, str]]:
        """Command line and environment that run `argv` as an unprivileged user to whom this host is the machine."""
        env = self.env | user_environment(user, self.layout.python.parent)
        return as_user(user, argv), env | ({"HOME": home} if home else {})

    # -- down

    def stop(self) -> None:
        """End the VMs, bangerd, polkitd and the bus, in this order, and see that nothing is left. Raises HostError."""
        if self._lock is None:
            return
        trouble = []
        try:
            trouble += self._stop_vms()
            if self._bus is not None:
                trouble += self._stop_services()
            trouble += self._left()
        finally:
            os.close(self._lock)
            self._lock = None
        if trouble:
            raise HostError("left behind, and removed by force: " + "; ".join(trouble))

    def _stop_services(self) -> list[str]:
        """bangerd first, which may ask polkit to its end; the bus last."""
        assert self._bus is not None
        trouble = [
            f"{name} did not end within 60 s of SIGTERM"
            for name in (NAME, POLKIT)
            if (pid := self.service_pid(name)) and leftovers.end([pid], signal.SIGTERM, 60)
        ]
        if (status := self._bus.poll()) is not None:
            trouble.append(f"the bus had ended by itself, with status {status}: {self.log_tail()}")
        leftovers.end([self._bus.pid], signal.SIGTERM, 10)
        self._bus.kill()
        self._bus.wait()
        self._bus = None
        return trouble

    def _stop_vms(self) -> list[str]:
        """Ask every shim to end its guest; bangerd then takes down what belonged to it."""
        folder = self.layout.runtime / "banger/vm"

        def busy() -> bool:
            return any(folder.glob("*/control.sock")) or bool(leftovers.links(self.layout.within))

        if self._bus is None or not busy():
            return []
        self.activate()  # it may have been killed
        for control in folder.glob("*/control.sock"):
            tell(control, "STOP 8")
        deadline = time.monotonic() + 30
        while busy():
            if time.monotonic() > deadline:
                return [f"bangerd did not clean up within 30 s: {self.log_tail()}"]
            time.sleep(0.05)
        return []

    def _left(self) -> list[str]:
        """What is still there of this host, in words; it is gone afterwards, with the runtime folder."""
        within = self.layout.within
        found = leftovers.processes(self.layout.runtime)
        words = [f"process {pid} ({line})" for pid, line in found.items()]
        words += [f"interface {name}" for name in leftovers.links(within)]
        words += [f"nft table {name}" for name in leftovers.tables(within)]
        leftovers.end(found)
        leftovers.clear_network(within)
        shutil.rmtree(self.layout.runtime)
        return words


def user_environment(user: str, programs: Path) -> dict[str, str]:
    """What a login would set; `programs` is where banger is."""
    return {
        "HOME": pwd.getpwnam(user).pw_dir,
        "USER": user,
        "LOGNAME": user,
        "SHELL": "/bin/bash",
        "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
        "LC_ALL": "C.UTF-8",
        "TERM": os.environ.get("TERM", "dumb"),
    }


def as_user(user: str, argv: Sequence[str]) -> list[str]:
    """The command line that runs `argv` as `user`, with no capability, gone when its parent is gone."""
    entry = pwd.getpwnam(user)
    drop = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups"]
    drop += ["--inh-caps=-all", "--bounding-set=-all", "--pdeathsig=TERM", "--"]
    return [*reaching(), *drop, *argv]


def reaching(*folders: Path) -> list[str]:
    """A command prefix: the checkout and `folders` are within everybody's reach, even in a folder of root's own."""
    options = [word for folder in (TOP, *folders) for word in ("--reach", str(folder))]
    return [sys.executable, str(TOP / "packaging/privatemounts.py"), *options, "--"]


def tell(control: Path, line: str) -> None:
    """Send one command to a shim; one that just ended needs none."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(5)
        try:
            sock.connect(str(control))
            sock.sendall(line.encode() + b"\n")
            sock.recv(256)
        except OSError:
            return
