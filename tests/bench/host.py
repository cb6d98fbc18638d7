"""A private host for measuring: real bus, real polkitd, bangerd as root, and an unprivileged user who calls it.

It lives in a network namespace with an uplink (a link with the default route, and nobody behind it), so that NAT and
forwarding are made as on a real machine, and nothing of this machine is touched.
"""

import compileall
import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from privatehost import POLKIT, TOP, Layout, PrivateHost
from tests.bench.registry import CONFIG, RULE
from tests.bench.stats import Series
from tests.guest.machine import ALICE, Machine

HERE = Path(__file__).parent
QEMU = 'vmm = "qemu"\n'
VMS = 1000  # as many as a machine may have when completion is measured


class TracedLayout(Layout):
    """bangerd logs each step, with the time."""

    __slots__ = ()

    @property
    def service_argv(self) -> tuple[str, ...]:
        python, _, _, *options = super().service_argv
        return (python, str(HERE / "traced.py"), *options, "--verbose")


class BenchMachine(Machine):
    """A machine of the guest tests, traced, and with a way out for NAT."""

    def __init__(self, name: str, folder: Path, library: Path, config: str) -> None:
        super().__init__(name, folder, library, f"max_vms_per_user = {VMS + 10}\n{config}{CONFIG}", RULE)
        self.layout = TracedLayout(**{f.name: getattr(self.layout, f.name) for f in fields(Layout)})
        self.host = PrivateHost(self.layout)

    def start(self) -> None:
        for words in (
            "link add up0 type veth peer name up1",
            "addr add 198.51.100.2/24 dev up0",
            "link set up0 up",
            "link set up1 up",
            "route add default via 198.51.100.1",
        ):
            subprocess.run([*self.netns.within, "ip", *words.split()], check=True)
        super().start()

    @property
    def run_folder(self) -> Path:
        return self.layout.runtime / "banger/vm"


@dataclass(frozen=True, slots=True)
class Timed:
    """One run of a command: seconds since the epoch, and seconds of CPU."""

    name: str
    start: float
    end: float
    cpu: float


class Host:
    """What the measurements need of the machine. Raises RuntimeError when a command fails."""

    def __init__(self, machine: BenchMachine) -> None:
        self.machine = machine
        self.user = machine.user(ALICE)

    def service_pid(self) -> int:
        pid = self.machine.host.service_pid()
        if pid is None:
            raise RuntimeError(f"bangerd does not run: {self.machine.host.log_tail(20)}")
        return pid

    def bus_pid(self) -> int:
        return self.machine.host.bus_pid

    def polkit_pid(self) -> int:
        return self.machine.host.service_pid(POLKIT) or 0

    def turns(self, rounds: int, commands: Mapping[str, Sequence[str]]) -> list[Timed]:
        """Run the commands as the user, turn by turn."""
        argv, env = self.user.command(str(self.machine.layout.python), "-I", str(HERE / "probe.py"))
        order = json.dumps({"rounds": rounds, "commands": commands})
        done = subprocess.run(
            argv, env=env, cwd="/", input=order, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{done.stderr.strip()}\n{self.machine.host.log_tail(20)}")
        return [Timed(*row) for row in json.loads(done.stdout)]

    def once(self, *argv: str) -> Timed:
        return self.turns(1, {argv[0]: argv})[0]

    def series(self, rounds: int, commands: Mapping[str, Sequence[str]]) -> dict[str, Series]:
        """Wall-clock times by name, after one turn that does not count; `<name>.cpu` are the CPU times."""
        found = {key: Series(key) for name in commands for key in (name, f"{name}.cpu")}
        for run in self.turns(rounds + 1, commands)[len(commands) :]:
            found[run.name].add((run.end - run.start) * 1000)
            found[f"{run.name}.cpu"].add(run.cpu * 1000)
        return found


@contextmanager
def running(folder: Path, library: Path, config: str = QEMU) -> Iterator[Host]:
    """Such a host, with bangerd up and its state in `folder`; `config` are lines of banger.toml that say which VMM.

    Everything is taken down afterwards.
    """
    # As installed: an unprivileged user cannot write compiled modules into a checkout of root's.
    for source in ("client", "service"):
        compileall.compile_dir(TOP / source, quiet=1)
    for kind in ("images", "kernels"):
        (library / kind).mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o711)
    machine = BenchMachine(f"bgb{os.getpid()}-{folder.name}", folder, library, config)
    try:
        machine.start()
        yield Host(machine)
    finally:
        machine.close()
