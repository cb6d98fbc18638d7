"""What the use cases need from the host: Protocols, implemented in host/, store/ and bus/, faked in tests/fakes."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bangerd.model.cache import Cache
from bangerd.model.image import Image, Kernel
from bangerd.model.network import Pool
from bangerd.model.reference import Reference
from bangerd.model.vm import VM, ExitRecord, Unit


@dataclass(frozen=True, slots=True)
class UnitSpec:
    """One VM's unit: the shim with its VMM, under the VM's own uid."""

    vm: VM
    argv: tuple[str, ...]  # the shim's whole command line
    run_dir: Path  # read and written by the unit
    read_write: tuple[Path, ...]  # further files: the VM's disk
    read_only: tuple[Path, ...]  # image, kernel, modules
    devices: tuple[str, ...]  # "/dev/kvm", "/dev/net/tun"
    memory_max: int  # bytes, VMM overhead included
    file_max: int  # bytes: the largest file that it may write
    programs: tuple[Path, ...]  # all that it may execute: the shim and the VMM
    threads: int  # at most, beside one per vCPU
    needs_libraries: bool = False  # one of the programs: it is linked dynamically, or a script
    translates: bool = False  # the guest's code, into memory that is written and executed
    files: tuple[tuple[str, bytes | None], ...] = ()  # what the VMM finds in the run dir: Plan.files
    lifeline: int | None = None  # descriptor that becomes the shim's stdin; the caller keeps its own copy


class Supervisor(Protocol):
    """Starts and ends units, and says which there are. host/systemd.py or host/supervisor.py."""

    isolates_owners: bool  # False: VMs of two owners are not kept apart from one another

    async def start(self, spec: UnitSpec) -> None:
        """Return when the shim runs. Raises StepFailed."""

    async def stop(self, sid: str) -> None:
        """End the unit at once (SIGKILL to all of it) and wait until it is gone. No unit is no error."""

    async def forget(self, sid: str) -> None:
        """Drop what is left of a failed unit (reset-failed)."""

    async def observe(self, sid: str) -> Unit: ...

    async def list_sids(self) -> frozenset[str]:
        """All units with banger's prefix, whether known to the database or not."""

    async def lacked_memory(self, sid: str) -> bool:
        """Whether the kernel ended a part of this failed unit for want of memory. False also if nobody knows."""

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call `changed(sid)` whenever a unit's state may have changed."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class GuestStatus:
    """What the shim says of its guest; hostile data, checked for shape and size."""

    ready: bool = False
    sessions: int = 0
    memory_total: int = 0
    memory_available: int = 0
    ports: tuple[int, ...] = ()
    timings_ms: dict[str, int] = field(default_factory=dict)  # since the shim's start


class Shims(Protocol):
    """Talks to the shims of running VMs through their control sockets."""

    async def status(self, vm: VM) -> GuestStatus:
        """Raises GuestFailed when the shim does not answer."""

    def watch(self, changed: Callable[[str], None]) -> None:
        """Call `changed(sid)` when an attached VM's guest changes its state or its shim goes away."""

    def attach(self, vm: VM) -> None:
        """Follow the shim of a VM that runs. Twice is no error; ends with the shim."""

    async def stop(self, vm: VM, grace_s: float) -> None:
        """Have the guest power off; after `grace_s` the shim kills the VMM. Returns at once."""

    async def set_clock(self, vm: VM) -> None: ...  # the guest's, to the host's
    async def open_session(self, vm: VM, port: int) -> int:
        """A connected descriptor to the guest program. The caller closes it."""

    def read_exit(self, vm: VM) -> ExitRecord | None:
        """How the run ended whose unit is gone: its record, LOST when a run left none, None when none was."""

    def open_log(self, vm: VM) -> int:
        """The console log, opened for reading. WrongState: there is none; StepFailed: it is not the VM's own."""

    def console_tail(self, vm: VM) -> tuple[str, ...]:
        """The console's last lines, some kilobytes of them, printable characters only."""

    def vmm_tail(self, vm: VM) -> tuple[str, ...]:
        """The same of what the VMM, or the shim about it, wrote."""


class Disks(Protocol):
    """Files of VMs. host/disk.py."""

    async def ensure_disk(self, vm: VM) -> None: ...
    def has_disk(self, vm: VM) -> bool: ...
    async def remove_disk(self, vm: VM) -> None: ...
    async def write_files(self, vm: VM, files: Sequence[tuple[str, bytes | None]]) -> None:
        """Put files (None: named pipes) of the VM's own into its run dir, in place of any that are there."""

    async def ensure_run_dir(self, vm: VM, seed: bytes) -> None:
        """A fresh one: what an earlier run left is removed, the seed is written anew."""

    def has_run_dir(self, vm: VM) -> bool: ...
    def is_fresh(self, vm: VM) -> bool:
        """The run dir has a seed, no socket and no exit record."""

    async def remove_run_dir(self, vm: VM) -> None: ...
    def list_sids(self) -> frozenset[str]:
        """All VMs of which any file is left, in the state or the runtime folder."""

    async def remove_stray(self, sid: str) -> None:
        """Remove all files of a VM that is not stored."""

    def total_bytes(self) -> int:
        """Size of the file system that holds the disks."""

    def disk_path(self, vm: VM) -> Path: ...
    def run_dir(self, vm: VM) -> Path: ...
    def free_bytes(self) -> int: ...


class CacheDisks(Protocol):
    """Cache disks: root's at rest, a VM's uid's while it has them. host/caches.py."""

    def path(self, owner_uid: int, name: str) -> Path: ...
    def all(self) -> tuple[Cache, ...]:
        """By owner and name."""

    def lent_to(self, vm: VM) -> frozenset[str]:
        """The names of the VM's caches that are its uid's now."""

    async def lend(self, vm: VM, *, size: int, limit: int) -> None:
        """Make all its caches the VM's uid's; those that are missing are made first.

        New ones have `size` bytes, or as many as there can be. What was lent stays so when a further one cannot be.
        Raises CacheInUse, LimitReached, HostNotReady, StepFailed.
        """

    async def give_back(self, vm: VM) -> None:
        """What the VM has becomes root's. None of its processes may be left."""

    async def remove(self, owner_uid: int, name: str) -> None:
        """No such cache is no error. Raises CacheInUse."""

    async def reclaim(self, vms: Sequence[VM]) -> None:
        """At the service's start: take back what no VM of these has, remove what interrupted steps left."""


class Network(Protocol):
    """Bridge, taps and the nft table. host/network.py."""

    pool: Pool

    async def ensure_tap(self, vm: VM) -> None: ...
    async def remove_tap(self, sid: str) -> None: ...
    async def list_sids(self) -> frozenset[str]:
        """Short ids of all taps with banger's prefix. One netlink dump: cheap enough to ask often."""

    async def apply(self, vms: Sequence[VM]) -> None:
        """Make bridge and rules fit exactly these VMs (all that should have a tap); none: take all down."""

    async def problems(self) -> list[str]:
        """What on this host will keep guests off the network, each with the command that mends it."""

    def nameservers(self) -> tuple[str, ...]:
        """Resolvers that a guest behind NAT can reach."""


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of long work. `total` 0: unknown. `unit` "bytes" or "items"."""

    stage: str
    done: int = 0
    total: int = 0
    unit: str = "bytes"


@dataclass(frozen=True, slots=True)
class Order:
    """An image of a user's own that shall be made. `room`: bytes that the user's images may still come to."""

    name: str
    owner_uid: int
    owner_name: str
    room: int


class Library(Protocol):
    """Images and kernels on disk, and how they are made. host/library.py."""

    def images(self) -> tuple[Image, ...]: ...
    def kernels(self) -> tuple[Kernel, ...]: ...
    def image_path(self, image: Image) -> Path: ...
    def kernel_paths(self, kernel: Kernel) -> tuple[Path, Path, Path]:
        """vmlinuz, initrd, modules.squashfs."""

    def elf_path(self, kernel: Kernel) -> Path: ...
    def catalog(self) -> tuple[str, ...]:
        """Names that can be pulled."""

    async def pull_image(self, name: str, report: Callable[[Progress], None]) -> Image: ...
    async def pull_reference(
        self, reference: Reference, order: Order, report: Callable[[Progress], None]
    ) -> Image:
        """What a registry has; the image that is here already when it is the same."""

    async def import_image(self, source: int, order: Order, report: Callable[[Progress], None]) -> Image:
        """What can be read from the descriptor `source`, which stays the caller's."""

    async def pull_kernel(self, name: str, report: Callable[[Progress], None]) -> Kernel: ...
    async def remove_image(self, image: Image) -> None: ...
    async def remove_kernel(self, kernel: Kernel) -> None: ...
    async def collect(self) -> None:
        """Remove what interrupted builds left."""


class VMStore(Protocol):
    """Stored VMs. store/vms.py. Every method is one transaction."""

    async def load(self) -> tuple[VM, ...]: ...
    async def insert(self, vm: VM) -> None:
        """Raises VMExists."""

    async def save(self, vm: VM) -> None: ...
    async def delete(self, vm: VM) -> None: ...
    async def lease_uid(self, first: int, count: int, in_use: frozenset[int]) -> int:
        """A uid of the range that no stored VM has and that is not `in_use`. Raises LimitReached."""


class Host(Protocol):
    """Facts of this machine. host/facts.py."""

    def boot_id(self) -> str: ...
    def cpus(self) -> int: ...
    def memory(self) -> int:
        """Bytes."""

    def kvm(self) -> tuple[bool, str]:
        """Whether KVM really works, and why (not)."""

    def new_host_key(self) -> tuple[str, str]:
        """A fresh ed25519 key for a guest's sshd: the private key file's text, and the public line."""

    def user_name(self, uid: int) -> str:
        """The name of an account, or the number as text when it has none."""

    def uids_in_use(self, first: int, count: int) -> frozenset[int]:
        """Those of the range that a process, a System V IPC object or a file of banger's carries."""


# Crash tests: awaited with the name of each point as it is reached.
Hook = Callable[[str], Awaitable[None]]
