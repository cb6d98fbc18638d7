"""The QEMU driver: command line and QMP. KVM where it works, TCG where not."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from qemu.qmp import QMPClient, QMPError

from bangerd.core.ports import Disk, Disks, Launch, Plan
from bangerd.host.vmsock import dial
from bangerd.model.errors import HostNotReady, StepFailed
from bangerd.model.vm import MIB, VM

QMP_S = 10.0
MESSAGE_LIMIT = 64 * 1024
CHANNEL_FD = 3  # where the shim puts the guest channel
TCG_CACHE_MIB = 128  # without a bound the translation cache grows to a gigabyte; 128 is as fast
# QEMU before 8 translates code anew for each address that it is loaded at: with address randomization every new
# process starts from nothing (36 ms for `true` instead of 9). An emulated guest is no place where that protects.
TCG_CMDLINE = "norandmaps"
OVERHEAD = 192 * MIB
BINARY = "qemu-system-x86_64"


class Qemu:
    """Implements core.ports.VMM."""

    name = "qemu"
    capabilities = frozenset({"pause"})

    def __init__(self, binary: str, disks: Disks, *, kvm: bool) -> None:
        self._binary = binary
        self._disks = disks
        self._kvm = kvm
        self.accelerator = "kvm" if kvm else "tcg"

    async def plan(self, launch: Launch) -> Plan:
        return Plan(
            argv=tuple(_argv(self._binary, launch)),
            devices=("/dev/net/tun", "/dev/kvm") if launch.kvm else ("/dev/net/tun",),
            memory_overhead=OVERHEAD + (0 if launch.kvm else TCG_CACHE_MIB * MIB),
            channel="fd",
        )

    async def pause(self, vm: VM) -> None:
        await self._command(vm, "stop")

    async def resume(self, vm: VM) -> None:
        await self._command(vm, "cont")

    async def paused(self, vm: VM) -> bool:
        answer = await self._command(vm, "query-status")
        return isinstance(answer, dict) and answer.get("status") == "paused"

    async def power_button(self, vm: VM) -> None:
        await self._command(vm, "system_powerdown")

    async def _command(self, vm: VM, command: str) -> object:
        try:
            async with asyncio.timeout(QMP_S), self._session(vm) as qmp:
                return await qmp.execute(command)
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
        try:
            await qmp.connect(sock)
            yield qmp
        finally:
            await qmp.disconnect()
            sock.close()


def find_qemu(configured: str) -> str:
    """The binary's path. Raises HostNotReady."""
    found = (
        configured if configured and os.access(configured, os.X_OK) else shutil.which(configured or BINARY)
    )
    if not found:
        raise HostNotReady(
            f"{configured or BINARY} is not installed; Debian, Ubuntu: apt install qemu-system-x86,"
            " Fedora: dnf install qemu-system-x86-core, Arch: pacman -S qemu-system-x86"
        )
    return found


def _argv(binary: str, launch: Launch) -> list[str]:
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
        argv += _disk(index, disk)
    argv += ["-netdev", f"tap,id=net0,ifname={vm.tap},script=no,downscript=no"]
    argv += ["-device", f"virtio-net-pci,netdev=net0,mac={vm.mac},romfile="]
    return argv


def _disk(index: int, disk: Disk) -> list[str]:
    path = str(disk.path)
    if "," in path:
        path = path.replace(",", ",,")  # QEMU's own escape in option strings
    mode = "on" if disk.read_only else "off"
    drive = f"if=none,id=disk{index},format=raw,file={path},readonly={mode}"
    # Read-only files are shared by many VMs; a lock on them would need write access to the file.
    drive += ",file.locking=off" if disk.read_only else ",discard=unmap,detect-zeroes=unmap"
    return ["-drive", drive, "-device", f"virtio-blk-pci,drive=disk{index},serial={disk.role}"]
