"""A system bus and a polkitd with banger's bus policy, actions and rules, and users that exist only there."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from privatehost import BUS, START_S

TOP = Path(__file__).parents[2]
POLKITD = "/usr/lib/polkit-1/polkitd"
ALICE, BOB, CAROL, BOSS = 1000, 1001, 1002, 1003  # alice and bob are developers, boss may do anything

PASSWD = "".join(
    f"{name}:x:{uid}:{uid}::/nonexistent:/usr/sbin/nologin\n"
    for name, uid in (("alice", ALICE), ("bob", BOB), ("carol", CAROL), ("boss", BOSS))
)
GROUP = "".join(f"{name}:x:{gid}:\n" for name, gid in (("alice", ALICE), ("bob", BOB), ("carol", CAROL)))
DEVS = 2000
GROUP += f"boss:x:{BOSS}:\ndevs:x:{DEVS}:alice,bob\n"


def groups_of(uid: int) -> list[int]:
    """Beside its own; polkit 126 believes what the process has, older ones what the group file says."""
    return [DEVS] if uid in (ALICE, BOB) else []


BUS_OPTIONS = ("--nofork", "--nosyslog", "--nopidfile", "--print-address=1")

BOSS_RULE = """\
polkit.addRule(function(action, subject) {
    if (action.id.indexOf("com.thaloco.banger1.") == 0 && subject.user == "boss")
        return polkit.Result.YES;
});
"""

# polkit's and banger's policies, and what a test adds; the rest is the private host's own configuration.
INCLUDES = """\
  <include>/usr/share/dbus-1/system.d/org.freedesktop.PolicyKit1.conf</include>
  <include>{policy}</include>
  {limits}"""


@dataclass(frozen=True, slots=True)
class Rig:
    address: str
    bus_pid: int
    polkit_pid: int
    folder: Path


@contextmanager
def rig(rules: Sequence[Path] = (), *, polkit: bool = True, limits: str = "") -> Iterator[Rig]:
    """`rules` are the rules that polkitd knows, beside that for the boss; `limits` are lines of the bus's config."""
    # pytest's own folders are for its user alone, and other users come to this one.
    with (
        TemporaryDirectory(prefix="banger-bus-") as folder,
        _running(Path(folder), rules, polkit=polkit, limits=limits) as bus,
    ):
        yield bus


@contextmanager
def _running(folder: Path, rules: Sequence[Path], *, polkit: bool, limits: str) -> Iterator[Rig]:
    folder.chmod(0o711)
    for name in ("actions", "rules.d", "services"):
        (folder / name).mkdir(mode=0o755)
    for policy in (TOP / "polkit/com.thaloco.banger1.policy",):
        (folder / "actions" / policy.name).write_text(policy.read_text())
    (folder / "rules.d/10-boss.rules").write_text(BOSS_RULE)
    for rule in rules:
        (folder / "rules.d" / rule.name).write_text(rule.read_text())
    (folder / "passwd").write_text(_system_accounts("/etc/passwd") + PASSWD)
    (folder / "group").write_text(_system_accounts("/etc/group") + GROUP)
    socket = folder / "bus"
    policy = TOP / "packaging/dbus/com.thaloco.Banger1.conf"
    address = f"unix:path={socket}"
    includes = INCLUDES.format(policy=policy, limits=limits)
    services = folder / "services"
    config = BUS.format(address=address, services=services, includes=includes, start_ms=START_S * 1000)
    (folder / "bus.conf").write_text(config)
    with (folder / "log").open("wb") as log:
        bus = subprocess.Popen(
            [*_with_users(folder), "dbus-daemon", f"--config-file={folder}/bus.conf", *BUS_OPTIONS],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
        authority: subprocess.Popen[bytes] | None = None
        try:
            assert bus.stdout is not None
            with bus.stdout:
                assert bus.stdout.readline(), (folder / "log").read_text()
            if polkit:
                authority = _start_polkit(folder, address, log)
            yield Rig(address, bus.pid, authority.pid if authority else 0, folder)
        finally:
            ended = authority.poll() if authority else None
            for child in (authority, bus):
                if child is not None:
                    child.terminate()
                    child.wait(10)
        assert ended is None, f"polkitd ended by itself with {ended}: {(folder / 'log').read_text()}"


def _system_accounts(file: str) -> str:
    """Without the people of this machine."""
    lines = Path(file).read_text().splitlines(keepends=True)
    return "".join(line for line in lines if int(line.split(":")[2]) < 1000)


def _with_users(folder: Path, *binds: tuple[Path, str]) -> list[str]:
    """A command prefix: with our users in place of this machine's."""
    argv = [sys.executable, str(TOP / "packaging/privatemounts.py")]
    for source, target in ((folder / "passwd", "/etc/passwd"), (folder / "group", "/etc/group"), *binds):
        argv += ["--bind", str(source), target]
    return [*argv, "--"]


def _start_polkit(folder: Path, address: str, log: object) -> subprocess.Popen[bytes]:
    argv = _with_users(
        folder,
        (folder / "actions", "/usr/share/polkit-1/actions"),
        (folder / "rules.d", "/etc/polkit-1/rules.d"),
    )
    child = subprocess.Popen(
        [*argv, POLKITD, "--no-debug"],
        stdin=subprocess.DEVNULL,
        stdout=log,  # type: ignore[call-overload]
        stderr=log,
        env={"PATH": "/usr/bin:/bin", "DBUS_SYSTEM_BUS_ADDRESS": address},
    )
    deadline = time.monotonic() + 20
    while not _has_owner(address, "org.freedesktop.PolicyKit1"):
        assert child.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline, (folder / "log").read_text()
        time.sleep(0.02)
    return child


def _has_owner(address: str, name: str) -> bool:
    argv = ["dbus-send", f"--bus={address}", "--print-reply=literal", "--dest=org.freedesktop.DBus", "/"]
    done = subprocess.run(
        [*argv, "org.freedesktop.DBus.NameHasOwner", f"string:{name}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "true" in done.stdout
