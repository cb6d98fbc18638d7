"""A VM that runs, as the kernel has it: its unit's cgroup, its processes. For tests on this very machine: the lab."""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.system.installed import show, unit_of
from tests.system.machine import Machine

SLICE = Path("/sys/fs/cgroup/banger.slice")


@dataclass(frozen=True, slots=True)
class RunningVM:
    unit: str
    uid: int
    shim: int  # pids
    vmm: int

    @classmethod
    def find(cls, machine: Machine, name: str) -> "RunningVM":
        unit = unit_of(machine, name)
        shown = show(machine, unit, "UID", "MainPID")
        shim = int(shown["MainPID"])
        # KVM's own kernel threads are in the unit's cgroup, too.
        (vmm,) = _read(Path(f"/proc/{shim}/task/{shim}/children")).split()
        return cls(unit, int(shown["UID"]), shim, int(vmm))

    @property
    def sid(self) -> str:
        return self.unit.removeprefix("banger-vm-").removesuffix(".service")

    def cgroup(self, name: str) -> str:
        """The content of a file of the unit's cgroup."""
        return _read(SLICE / self.unit / name).strip()

    def memory_events(self) -> dict[str, int]:
        return {key: int(value) for key, value in map(str.split, self.cgroup("memory.events").splitlines())}

    def pin(self, cpu: int) -> None:
        """All its threads to one CPU."""
        for tid in self.cgroup("cgroup.threads").split():
            subprocess.run(["taskset", "-pc", str(cpu), tid], check=True, stdout=subprocess.DEVNULL)


def cpu_seconds(cgroup: Path) -> float:
    """What a cgroup has used of CPUs so far."""
    fields = dict(line.split() for line in _read(cgroup / "cpu.stat").splitlines())
    return int(fields["usage_usec"]) / 1e6


def cpu_use(cgroups: list[Path], seconds: float) -> list[float]:
    """How many CPUs each of them uses, during so long."""
    start, before = time.monotonic(), [cpu_seconds(cgroup) for cgroup in cgroups]
    time.sleep(seconds)
    took = time.monotonic() - start
    return [(cpu_seconds(cgroup) - old) / took for cgroup, old in zip(cgroups, before, strict=True)]


def threads(pid: int) -> dict[int, dict[str, str]]:
    """Each thread's /proc/…/status."""
    found = {}
    for folder in Path(f"/proc/{pid}/task").iterdir():
        lines = _read(folder / "status").splitlines()
        found[int(folder.name)] = {
            key: value.strip() for key, value in (line.split(":", 1) for line in lines)
        }
    return found


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
