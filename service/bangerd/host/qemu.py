"""The QEMU driver: command line and QMP. KVM where it works, TCG where not."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from qemu.qmp import QMPClient, QMPError

from bangerd.core.ports import Disks
from bangerd.core.vmm import NO_LIMITS, Capability, Disk, Launch, Plan, Rates, disk_roles
from bangerd.host.elf import needs_libraries
from bangerd.host.program import check_program
from bangerd.host.thread import in_thread
from bangerd.host.vmsock import dial
from bangerd.model.errors import HostNotReady, StepFailed
from bangerd.model.vm import MIB, VM

QMP_S = 10.0
MESSAGE_LIMIT = 64 * 1024
EVENTS = 1000  # QEMU tells a few while it does what it is asked
CHANNEL_FD = 3  # where the shim puts the guest channel
TCG_CACHE_MIB = 128  # without a bound the translation cache grows to a gigabyte; 128 is as fast
# QEMU before 8 translates code anew for each address that it is loaded at: with address randomization every new
# process starts from nothing (36 ms for `true` instead of 9). An emulated guest is no place where that protects.
TCG_CMDLINE = "norandmaps"
OVERHEAD = 192 * MIB
THREADS = 127  # its pool for disk requests (64 at most), and its own few
BINARY = "qemu-system-x86_64"


class Qemu:
    """Implements core.vmm.Driver."""

    name = "qemu"
    capabilities = frozenset(Capability) - {Capability.NETWORK_RATE, Capability.METRICS, Capability.SNAPSHOT}

    def __init__(self, binary: str, disks: Disks, rates: Rates = NO_LIMITS, *, kvm: bool) -> None:
        self._binary = binary
        self._disks = disks
        self._rates = rates
        self.accelerator = "kvm" if kvm else "tcg"

    async def check(self) -> None:
        find_qemu(self._binary)

    async def plan(self, launch: Launch) -> Plan:
        # Links followed: what it loads is beside the program itself, and its unit sees that alone.
        binary = str(Path(find_qemu(self._binary)).resolve())
        return Plan(
            argv=tuple(_argv(binary, launch, self._rates)),
            devices=("/dev/net/tun", "/dev/kvm") if launch.kvm else ("/dev/net/tun",),
            memory_overhead=OVERHEAD + (0 if launch.kvm else TCG_CACHE_MIB * MIB),
            channel="fd",
            threads=THREADS,
            needs_libraries=await in_thread(needs_libraries, Path(binary)),
            translates=not launch.kvm,
        )

    def meaning(self, status: int) -> str:
        return ""

    async def pause(self, vm: VM) -> None:
        await self._command(vm, "stop")

    async def resume(self, vm: VM) -> None:
        await self._command(vm, "cont")

    async def paused(self, vm: VM) -> bool:
        answer = await self._command(vm, "query-status")
        return isinstance(answer, dict) and answer.get("status") == "paused"

    async def power_button(self, vm: VM) -> None:
        # Not ACPI's button: its driver is a module that images without udev do not load.
        keys = [{"type": "qcode", "data": key} for key in ("ctrl", "alt", "delete")]
        await self._command(vm, "send-key", {"keys": keys})

    async def balloon(self, vm: VM, amount: int) -> None:
        await self._command(vm, "balloon", {"value": vm.spec.memory - amount})

    async def limit(self, vm: VM, rates: Rates) -> None:
        if rates.network:
            raise self._lacks(Capability.NETWORK_RATE)
        others = dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
        for index, _ in enumerate(disk_roles(vm)):
            await self._command(
                vm, "block_set_io_throttle", {"device": f"disk{index}", "bps": rates.disk, **others}
            )

    async def metrics(self, vm: VM) -> dict[str, object]:
        raise self._lacks(Capability.METRICS)

    async def snapshot(self, vm: VM, state: str, memory: str) -> None:
        raise self._lacks(Capability.SNAPSHOT)

    async def restore(self, vm: VM, state: str, memory: str, *, resume: bool) -> None:
        raise self._lacks(Capability.SNAPSHOT)

    def _lacks(self, what: Capability) -> HostNotReady:
        return HostNotReady(f"QEMU has no {what} here; Firecracker has it")

    async def _command(self, vm: VM, command: str, arguments: dict[str, object] | None = None) -> object:
        try:
            async with asyncio.timeout(QMP_S), self._session(vm) as qmp:
                return await qmp.execute(command, arguments)
        except (QMPError, OSError, TimeoutError) as exc:
            raise StepFailed(
                f"QEMU of '{vm.name}' did not do '{command}': {str(exc) or 'no answer in time'}"
            ) from exc

    @asynccontextmanager
    async def _session(self, vm: VM) -> AsyncIterator[QMPClient]:
        sock = dial(self._disks.run_dir(vm) / "qmp.sock", vm.uid)
        qmp = QMPClient(f"vm-{vm.sid}")
        qmp.logger.setLevel("CRITICAL")  # what fails is raised; the library would log it as well
        qmp.readbuflen = MESSAGE_LIMIT
        qmp.events.event_filter = _Events().are_wanted
        try:
            await qmp.connect(sock)
            yield qmp
        finally:
            await qmp.disconnect()
            sock.close()


class _Events:
    """Of one session. The library would keep them all, and a VMM that was broken into has as many as it likes."""

    def __init__(self) -> None:
        self._left = EVENTS

    def are_wanted(self, _event: object) -> bool:
        self._left -= 1
        if self._left < 0:
            raise QMPError(f"it told more than {EVENTS} events")
        return False


def find_qemu(configured: str) -> str:
    """The binary's path. Raises HostNotReady."""
    found = configured if "/" in configured else shutil.which(configured or BINARY)
    if not found:
        raise HostNotReady(
            f"{configured or BINARY} is not installed; Debian, Ubuntu: apt install qemu-system-x86,"
            " Fedora: dnf install qemu-system-x86-core, Arch: pacman -S qemu-system-x86"
        )
    check_program(found)
    return found


def _argv(binary: str, launch: Launch, rates: Rates) -> list[str]:
    vm = launch.vm
    accel = "kvm" if launch.kvm else f"tcg,thread=multi,tb-size={TCG_CACHE_MIB}"
    argv = [binary, "-name", f"banger-{vm.sid}", "-M", "q35,usb=off,vmport=off", "-accel", accel]
    argv += [
        "-cpu",
        "host" if launch.kvm else "max",
        "-smp",
        str(vm.spec.vcpu),
        "-m",
        f"{vm.spec.memory // MIB}M",
    ]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    argv += ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    argv += ["-kernel", str(launch.kernel), "-initrd", str(launch.initrd)]
    argv += ["-append", launch.cmdline if launch.kvm else f"{launch.cmdline} {TCG_CMDLINE}"]
    argv += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    argv += ["-chardev", f"socket,id=guest,fd={CHANNEL_FD}", "-device", "virtio-serial-pci"]
    argv += ["-device", "virtserialport,chardev=guest,name=banger.0"]
    argv += ["-qmp", "unix:qmp.sock,server=on,wait=off"]
    for index, disk in enumerate(launch.disks):
        argv += _disk(index, disk, rates.disk)
    argv += ["-netdev", f"tap,id=net0,ifname={vm.tap},script=no,downscript=no"]
    argv += ["-device", f"virtio-net-pci,netdev=net0,mac={vm.mac},romfile="]
    argv += ["-device", "virtio-balloon-pci,deflate-on-oom=on,free-page-reporting=on"]
    argv += ["-device", "virtio-rng-pci"]
    return argv


def _disk(index: int, disk: Disk, rate: int) -> list[str]:
    path = str(disk.path)
    if "," in path:
        path = path.replace(",", ",,")  # QEMU's own escape in option strings
    mode = "on" if disk.read_only else "off"
    drive = f"if=none,id=disk{index},format=raw,file={path},readonly={mode}"
    # Read-only files are shared by many VMs; a lock on them would need write access to the file.
    drive += ",file.locking=off" if disk.read_only else ",discard=unmap,detect-zeroes=unmap"
    if rate:
        drive += f",throttling.bps-total={rate}"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive=disk{index},serial={disk.role}"]
