"""What a VMM is to the core: how one is started, what it can do, what can be asked of it while it runs."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from bangerd.model.vm import VM


@dataclass(frozen=True, slots=True)
class Launch:
    """What a driver needs to know for one start. Disks in the order of the seed: seed, image, modules, own disk."""

    vm: VM
    run_dir: Path
    kernel: Path  # bzImage
    elf: Path  # the same kernel's ELF file
    initrd: Path
    cmdline: str
    disks: tuple["Disk", ...]
    kvm: bool


@dataclass(frozen=True, slots=True)
class Disk:
    path: Path
    role: str  # "seed", "image", "modules", "data", "cache0"
    read_only: bool


def disk_roles(vm: VM) -> tuple[str, ...]:
    """Of each disk of the VM, in the order in which it has them."""
    return ("seed", "image", "modules", "data", *(f"cache{n}" for n in range(len(vm.spec.caches))))


@dataclass(frozen=True, slots=True)
class Plan:
    """What the shim shall start."""

    argv: tuple[str, ...]
    devices: tuple[str, ...]
    memory_overhead: int  # bytes the VMM needs beside the guest's memory
    channel: str  # shim option that says how to reach the guest program: "fd" or "vsock:<path>"
    read_only: tuple[Path, ...] = ()
    files: tuple[tuple[str, bytes | None], ...] = ()  # name and content, None: a named pipe, in the run dir
    sockets: tuple[str, ...] = ()  # what it makes there, and wants out of the way before each start
    threads: int = 128  # at most, beside one per vCPU
    needs_libraries: bool = True  # it is no static program
    translates: bool = False  # the guest's code, into memory that is written and executed


class Capability(StrEnum):
    """What not every VMM can do. docs/vmm.md explains each, and where it is missing."""

    PAUSE = "pause"
    POWER_BUTTON = "power-button"
    ENTROPY = "entropy"
    BALLOON = "balloon"
    FREE_PAGE_REPORTING = "free-page-reporting"
    DISK_RATE = "disk-rate"
    NETWORK_RATE = "network-rate"
    METRICS = "metrics"
    SNAPSHOT = "snapshot"


@dataclass(frozen=True, slots=True)
class Rates:
    """Upper bounds in bytes per second: of each disk, and of the network in each direction. 0: none."""

    disk: int = 0
    network: int = 0


NO_LIMITS = Rates()


class Driver(Protocol):
    """Turns a Launch into a command line, and talks to a running VMM.

    A VMM that does not answer, or refuses, is a StepFailed; what `capabilities` lacks is a HostNotReady.
    """

    name: str
    accelerator: str  # "kvm" or "tcg"
    capabilities: frozenset[Capability]

    async def check(self) -> None: ...  # raises HostNotReady when this VMM cannot be started
    async def plan(self, launch: Launch) -> Plan:
        """Raises HostNotReady when this VMM cannot be started, or not with this kernel."""

    def meaning(self, status: int) -> str:
        """What the VMM means by an exit status; "" when that is not known."""

    async def pause(self, vm: VM) -> None: ...
    async def resume(self, vm: VM) -> None: ...
    async def paused(self, vm: VM) -> bool: ...
    async def power_button(self, vm: VM) -> None:
        """Ask the guest to go down without its agent, by Ctrl-Alt-Del: its init reboots, which ends the VMM."""

    async def balloon(self, vm: VM, amount: int) -> None:
        """Take `amount` bytes of memory from the guest in all; 0 gives everything back. Returns when it is asked."""

    async def limit(self, vm: VM, rates: Rates) -> None:
        """Other upper bounds for a VM that runs."""

    async def metrics(self, vm: VM) -> dict[str, object]:
        """The VMM's own counters, under its own names. Hostile data, capped in size."""

    async def snapshot(self, vm: VM, state: str, memory: str) -> None:
        """Write a paused VM to two files of these names in its run folder."""

    async def restore(self, vm: VM, state: str, memory: str, *, resume: bool) -> None:
        """Load such files into a VMM that was started without a configuration, for a VM of the same tap and vsock. The
        guest's clock stood still: Shims.set_clock once it runs."""


class VMM(Protocol):
    """The driver that new starts get, and for VMs that run the one that they were started with. host/drivers.py."""

    @property
    def name(self) -> str: ...
    @property
    def accelerator(self) -> str:
        """Empty while there is none that could be started."""

    @property
    def capabilities(self) -> frozenset[Capability]: ...
    @property
    def reason(self) -> str:
        """Why this one, for people."""

    @property
    def missing(self) -> tuple[str, ...]:
        """What the config asks for and this one cannot do: a sentence each, for people."""

    async def check(self) -> None: ...  # as a Driver's

    async def plan(self, launch: Launch) -> Plan: ...
    def of(self, vm: VM) -> Driver: ...
