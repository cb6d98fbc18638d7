"""Where the time of a cold `banger vm run --rm -- true` goes.

Three witnesses, none of them a feature of the product: the bus (dbus-monitor), bangerd's own log of its steps, and
the shim's status. All their times are seconds since the epoch of one clock, so they make one timeline.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import shim
from tests.bench.bus import Message, monitored
from tests.bench.cpu import children_ms, used_ms
from tests.bench.host import Host, Timed
from tests.bench.shim import Boot

COMMAND = ("banger", "vm", "run", "--rm", "--", "true")
_STEP = re.compile(r"^bangerd\.core\.machine: @([0-9.]+) ([0-9a-f]{8}): ([A-Z_]+)$", re.MULTILINE)

VMM_CPU = "VMM, until the agent is ready"
UNIT = "unit: shim started"
VMM = "VMM: exec until its devices are made"
SESSION = "session: `true`, and its status"
BOOT = "firmware, kernel, initrd, guest program: until its agent is ready"

# What ends each phase. Every phase begins where the one before it ended, so that they add up to the total.
PHASES = (
    "client: start, imports, bus connection",
    "ResolveSpec, with its polkit check",
    "client: until CreateVM",
    "CreateVM, with its polkit check",
    "disk",
    "run folder and seed",
    "tap and nft",
    UNIT,
    VMM,
    BOOT,
    "bangerd and client take note",
    "VM.Exec, with its polkit check",
    SESSION,
    "Delete, with its polkit check",
    "delete: VMM and shim ended",
    "delete: tap and nft",
    "delete: run folder, disk, record",
    "client: takes note, exits",
)


@dataclass(frozen=True, slots=True)
class Cold:
    """One run: the length of each phase, all polkit checks together, and the whole, in milliseconds; and the CPU time
    of the processes that took part, the VMM's until its guest was ready."""

    phases: dict[str, float]
    cpu: dict[str, float]
    polkit: float
    checks: int
    total: float
    answered: float  # from the start until `true` had run
    guest: dict[str, float]  # what the guest program told of its boot


def traced(host: Host) -> Cold:
    """One cold run with all witnesses. Raises RuntimeError."""
    layout = host.machine.layout
    log_size = layout.log.stat().st_size
    watcher = _Watcher(host.machine.run_folder)
    with monitored(host.machine.host) as messages:
        before = _used(host)
        watcher.start()
        run = host.once(*COMMAND)
        boot = watcher.result()
        after = _used(host)
    cpu = {
        "banger (client)": run.cpu * 1000,
        **{name: after[name] - before[name] for name in after},
        VMM_CPU: boot.cpu,
    }
    with layout.log.open("rb") as file:
        file.seek(log_size)
        log = file.read().decode("utf-8", "replace")
    return timeline(run, messages, steps(log), boot, cpu)


def _used(host: Host) -> dict[str, float]:
    service = host.service_pid()
    pids = {"bangerd": service, "dbus-daemon": host.bus_pid(), "polkitd": host.polkit_pid()}
    return {name: used_ms(pid) for name, pid in pids.items()} | {"nft and the like": children_ms(service)}


def traced_exec(host: Host, name: str) -> dict[str, float]:
    """The phases of `banger vm exec NAME -- true`, in milliseconds."""
    with monitored(host.machine.host) as messages:
        run = host.once("banger", "vm", "exec", name, "--", "true")
    call, reply = _caller(messages), _replier(messages)
    ends = {
        "client: start, imports, bus connection": call("FindVM").at,
        "FindVM, with its polkit check": reply(call("FindVM")).at,
        "VM.Exec, with its polkit check": reply(call("Exec")).at,
        "session, and the client's end": run.end,
    }
    return dict(zip(ends, _lengths(run.start, ends.values()), strict=True))


def _lengths(at: float, ends: Iterable[float]) -> Iterator[float]:
    """Milliseconds from each moment to the next; what ended before the one before it took no time."""
    for end in ends:
        yield max(end - at, 0) * 1000
        at = max(end, at)


class _Watcher(threading.Thread):
    """Waits for the one VM that appears, and follows its shim until the guest is ready."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._boot: Boot | None = None
        self._error = ""

    def run(self) -> None:
        try:
            self._boot = shim.watch(shim.appears(self._folder, "*/control.sock").parent)
        except (RuntimeError, OSError) as exc:
            self._error = str(exc)

    def result(self) -> Boot:
        self.join()
        if self._boot is None:
            raise RuntimeError(f"the shim was not followed: {self._error}")
        return self._boot


def steps(log: str) -> dict[str, float]:
    """When bangerd first took each step."""
    found: dict[str, float] = {}
    for at, _, step in _STEP.findall(log):
        found.setdefault(step, float(at))
    return found


def timeline(
    run: Timed, messages: Iterable[Message], taken: dict[str, float], boot: Boot, cpu: dict[str, float]
) -> Cold:
    """Put the witnesses' times in order. Raises RuntimeError when one of them missed something."""
    seen = list(messages)
    call = _caller(seen)
    reply = _replier(seen)
    client = call("ResolveSpec").sender
    removed = [m.at for m in seen if (m.kind, m.member, m.destination) == ("sig", "JobRemoved", client)]
    if len(removed) != 2:
        raise RuntimeError(f"{len(removed)} jobs ended on the bus, there should be two: create, delete")
    hello = next(m.at for m in seen if m.sender == client)
    gone = taken.get("REMOVE_TAP", removed[1])
    ends = (
        hello,
        reply(call("ResolveSpec")).at,
        call("CreateVM").at,
        reply(call("CreateVM")).at,
        taken["ENSURE_RUN_DIR"],
        taken["ENSURE_TAP"],
        taken["START_UNIT"],
        boot.spawned,
        boot.configured,
        boot.ready,
        call("Exec").at,
        reply(call("Exec")).at,
        call("Delete").at,
        taken.get("KILL_UNIT", call("Delete").at),
        gone,
        taken.get("REMOVE_RUN_DIR", gone),
        removed[1],
        run.end,
    )
    checks = [(reply(m).at - m.at) * 1000 for m in seen if m.member == "CheckAuthorization"]
    return Cold(
        dict(zip(PHASES, _lengths(run.start, ends), strict=True)),
        cpu,
        sum(checks),
        len(checks),
        (run.end - run.start) * 1000,
        (call("Delete").at - run.start) * 1000,
        boot.guest,
    )


def _caller(messages: list[Message]) -> Callable[[str], Message]:
    def find(member: str) -> Message:
        found = next((m for m in messages if (m.kind, m.member) == ("mc", member)), None)
        if found is None:
            raise RuntimeError(f"no call of {member} on the bus")
        return found

    return find


def _replier(messages: list[Message]) -> Callable[[Message], Message]:
    replies = {(m.destination, m.reply_to): m for m in messages if m.kind in ("mr", "err")}

    def find(call: Message) -> Message:
        return replies[call.sender, call.serial]

    return find
