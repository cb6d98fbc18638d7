"""In-memory stand-ins for the ports, below the layer under test: a host whose effects can be looked at and broken."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

from bangerd.config import Config
from bangerd.core.effects import Ports
from bangerd.core.hook import hook_from
from bangerd.core.ports import GuestStatus, Order, Progress, UnitSpec
from bangerd.model.errors import (
    GuestFailed,
    LimitReached,
    NoSuchImage,
    StepFailed,
    VMExists,
    WrongState,
)
from bangerd.model.image import Image, Kernel
from bangerd.model.network import Pool
from bangerd.model.reference import Reference
from bangerd.model.vm import GIB, VM, ExitReason, ExitRecord, Unit
from tests.fakes.caches import FakeCaches
from tests.fakes.vmm import FakeVMM
from tests.fakes.world import IMAGE, KERNEL, FakeGuest, World


class FakeSupervisor:
    def __init__(self, world: World, *, isolates_owners: bool = True) -> None:
        self._world = world
        self.isolates_owners = isolates_owners

    async def start(self, spec: UnitSpec) -> None:
        sid = spec.vm.sid
        self._world.effect("start", sid)
        lifeline = None if spec.lifeline is None else os.dup(spec.lifeline)
        guest = self._world.guests[sid] = FakeGuest(spec, lifeline)
        self._world.units[sid] = Unit.ACTIVE
        self._world.stale.add(sid)
        if self._world.boots:
            guest.ready = True
        asyncio.get_running_loop().call_soon(self._world.changed, sid)

    async def stop(self, sid: str) -> None:
        self._world.effect("kill", sid)
        self._world.end(sid, None)

    async def forget(self, sid: str) -> None:
        self._world.effect("forget", sid)
        self._world.units[sid] = Unit.ABSENT

    async def observe(self, sid: str) -> Unit:
        return self._world.units.get(sid, Unit.ABSENT)

    async def lacked_memory(self, sid: str) -> bool:
        return self._world.memory_lacked

    async def list_sids(self) -> frozenset[str]:
        return frozenset(sid for sid, unit in self._world.units.items() if unit is not Unit.ABSENT)

    def watch(self, changed: Callable[[str], None]) -> None:
        self._world.changed = changed

    async def close(self) -> None: ...


class FakeShims:
    def __init__(self, world: World) -> None:
        self._world = world

    def _guest(self, vm: VM) -> FakeGuest:
        if vm.sid not in self._world.guests:
            raise GuestFailed(f"the shim of '{vm.name}' cannot be reached")
        return self._world.guests[vm.sid]

    async def status(self, vm: VM) -> GuestStatus:
        return GuestStatus(ready=self._guest(vm).ready, memory_total=2**29, memory_available=2**28)

    def watch(self, changed: Callable[[str], None]) -> None: ...
    def attach(self, vm: VM) -> None: ...

    async def stop(self, vm: VM, grace_s: float) -> None:
        self._world.effect("stop", vm.sid)
        self._guest(vm)
        if self._world.stops:
            record = ExitRecord(ExitReason.STOP, ready=True, at=1)
            asyncio.get_running_loop().call_soon(self._world.end, vm.sid, record)

    async def set_clock(self, vm: VM) -> None:
        self._world.effect("clock", vm.sid)

    async def open_session(self, vm: VM, port: int) -> int:
        self._guest(vm)
        reader, writer = os.pipe()
        os.close(writer)
        return reader

    def read_exit(self, vm: VM) -> ExitRecord | None:
        if vm.sid in self._world.exits:
            return self._world.exits[vm.sid]
        return ExitRecord(ExitReason.LOST) if vm.sid in self._world.stale else None

    def open_log(self, vm: VM) -> int:
        if vm.sid not in self._world.run_dirs:
            raise WrongState(f"VM '{vm.name}' has no console log")
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def console_tail(self, vm: VM) -> tuple[str, ...]:
        return self._world.console

    def vmm_tail(self, vm: VM) -> tuple[str, ...]:
        return self._world.vmm_words


class FakeDisks:
    def __init__(self, world: World) -> None:
        self._world = world

    async def ensure_disk(self, vm: VM) -> None:
        self._world.effect("ensure_disk", vm.sid)
        self._world.disks.add(vm.sid)

    def has_disk(self, vm: VM) -> bool:
        return vm.sid in self._world.disks

    async def remove_disk(self, vm: VM) -> None:
        self._world.effect("remove_disk", vm.sid)
        self._world.disks.discard(vm.sid)

    async def write_files(self, vm: VM, files: Sequence[tuple[str, bytes | None]]) -> None: ...

    async def ensure_run_dir(self, vm: VM, seed: bytes) -> None:
        self._world.effect("ensure_run_dir", vm.sid)
        self._world.run_dirs[vm.sid] = seed
        self._world.stale.discard(vm.sid)
        self._world.exits.pop(vm.sid, None)

    def has_run_dir(self, vm: VM) -> bool:
        return vm.sid in self._world.run_dirs

    def is_fresh(self, vm: VM) -> bool:
        return vm.sid in self._world.run_dirs and vm.sid not in self._world.stale

    async def remove_run_dir(self, vm: VM) -> None:
        self._world.effect("remove_run_dir", vm.sid)
        self._forget(vm.sid)

    def _forget(self, sid: str) -> None:
        self._world.run_dirs.pop(sid, None)
        self._world.exits.pop(sid, None)
        self._world.stale.discard(sid)

    def list_sids(self) -> frozenset[str]:
        return frozenset(self._world.disks) | frozenset(self._world.run_dirs)

    async def remove_stray(self, sid: str) -> None:
        self._world.disks.discard(sid)
        self._forget(sid)

    def total_bytes(self) -> int:
        return 100 * GIB

    def free_bytes(self) -> int:
        return 50 * GIB

    def disk_path(self, vm: VM) -> Path:
        return Path("/fake/state") / vm.sid / "disk.ext4"

    def run_dir(self, vm: VM) -> Path:
        return Path("/fake/run") / vm.sid


class FakeNetwork:
    def __init__(self, world: World) -> None:
        self._world = world
        self.pool = Pool(IPv4Network("172.16.0.0/24"))

    async def ensure_tap(self, vm: VM) -> None:
        self._world.effect("ensure_tap", vm.sid)
        self._world.taps.add(vm.sid)

    async def remove_tap(self, sid: str) -> None:
        self._world.effect("remove_tap", sid)
        self._world.taps.discard(sid)

    async def list_sids(self) -> frozenset[str]:
        return frozenset(self._world.taps)

    async def apply(self, vms: Sequence[VM]) -> None:
        self._world.effect("apply", str(len(vms)))
        self._world.rules = tuple(sorted(vm.sid for vm in vms))

    async def problems(self) -> list[str]:
        return []

    def nameservers(self) -> tuple[str, ...]:
        return ("192.0.2.53",)

    async def close(self) -> None: ...


class FakeLibrary:
    def __init__(self, world: World) -> None:
        self._world = world
        self.pause: asyncio.Event | None = None  # a pull waits for it

    def images(self) -> tuple[Image, ...]:
        return tuple(self._world.images)

    def kernels(self) -> tuple[Kernel, ...]:
        return tuple(self._world.kernels)

    def image_path(self, image: Image) -> Path:
        return Path("/fake/images") / image.id / "rootfs.squashfs"

    def elf_path(self, kernel: Kernel) -> Path:
        return Path("/fake/kernels", kernel.id, "vmlinux")

    def kernel_paths(self, kernel: Kernel) -> tuple[Path, Path, Path]:
        folder = Path("/fake/kernels") / kernel.id
        return folder / "vmlinuz", folder / "initrd", folder / "modules.squashfs"

    def catalog(self) -> tuple[str, ...]:
        return ("debian-bookworm", "debian-trixie")

    async def pull_image(self, name: str, report: Callable[[Progress], None]) -> Image:
        report(Progress("download", 1, 2))
        if self.pause is not None:
            await self.pause.wait()
        self._world.effect("pull", name)
        image = replace(IMAGE, id=f"{len(self._world.images):012x}", name=name, created_at=int(time.time()))
        self._world.images.append(image)
        return image

    async def pull_reference(
        self, reference: Reference, order: Order, report: Callable[[Progress], None]
    ) -> Image:
        return await self._own(order, report, reference=str(reference))

    async def import_image(self, source: int, order: Order, report: Callable[[Progress], None]) -> Image:
        self._world.effect("read", os.read(source, 100).decode())
        return await self._own(order, report)

    async def _own(self, order: Order, report: Callable[[Progress], None], **more: str) -> Image:
        report(Progress("download", 1, 2))
        if self.pause is not None:
            await self.pause.wait()
        self._world.effect("make", order.name)
        image = replace(
            IMAGE,
            id=f"a{len(self._world.images):011x}",
            name=order.name,
            owner_uid=order.owner_uid,
            owner_name=order.owner_name,
            size=min(order.room, 1000),
            created_at=int(time.time()),
            **more,
        )
        self._world.images.append(image)
        return image

    async def pull_kernel(self, name: str, report: Callable[[Progress], None]) -> Kernel:
        report(Progress("download", 1, 2))
        self._world.kernels.append(KERNEL)
        return KERNEL

    async def remove_image(self, image: Image) -> None:
        if image not in self._world.images:
            raise NoSuchImage(image.name)
        self._world.images.remove(image)

    async def remove_kernel(self, kernel: Kernel) -> None:
        self._world.kernels.remove(kernel)

    async def collect(self) -> None: ...


class FakeStore:
    def __init__(self, world: World) -> None:
        self._world = world

    async def load(self) -> tuple[VM, ...]:
        return tuple(self._world.rows.values())

    async def insert(self, vm: VM) -> None:
        self._world.effect("insert", vm.sid)
        if any(vm.name == row.name for row in self._world.rows.values()):
            raise VMExists(vm.name)
        self._world.rows[vm.sid] = vm

    async def save(self, vm: VM) -> None:
        self._world.effect("save", vm.sid)
        if vm.sid not in self._world.rows:
            raise StepFailed(f"{vm.sid} is not stored")
        self._world.rows[vm.sid] = vm

    async def delete(self, vm: VM) -> None:
        self._world.effect("delete", vm.sid)
        del self._world.rows[vm.sid]

    async def lease_uid(self, first: int, count: int, in_use: frozenset[int]) -> int:
        taken = in_use | {vm.uid for vm in self._world.rows.values()}
        for offset in range(count):
            uid = first + (self._world.last_uid + 1 + offset) % count
            if uid not in taken:
                self._world.last_uid = uid - first
                return uid
        raise LimitReached("no uid is free")


class FakeHost:
    def __init__(self, world: World) -> None:
        self._world = world

    def boot_id(self) -> str:
        return self._world.boot

    def cpus(self) -> int:
        return 8

    def memory(self) -> int:
        return 32 * GIB

    def kvm(self) -> tuple[bool, str]:
        return self._world.kvm

    def new_host_key(self) -> tuple[str, str]:
        return "the private key\n", "ssh-ed25519 AAAAfake"

    def user_name(self, uid: int) -> str:
        return {0: "root", 1000: "alice", 1001: "bob"}.get(uid, str(uid))

    def uids_in_use(self, first: int, count: int) -> frozenset[int]:
        return frozenset()


def fake_ports(world: World, config: Config | None = None, *, isolates_owners: bool = True) -> Ports:
    """All ports over one world."""
    return Ports(
        config=config or Config(),
        host=FakeHost(world),
        store=FakeStore(world),
        disks=FakeDisks(world),
        caches=FakeCaches(world),
        network=FakeNetwork(world),
        supervisor=FakeSupervisor(world, isolates_owners=isolates_owners),
        shims=FakeShims(world),
        library=FakeLibrary(world),
        vmm=FakeVMM(world),
        shim=Path("/fake/banger-shim"),
        hook=hook_from({}),
    )
