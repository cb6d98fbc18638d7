"""Which VMM drives a VM: for a new start the best that is here, for one that runs the one it was started with."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bangerd.config import Config
from bangerd.core.ports import Disks, Driver, Launch, Plan
from bangerd.host import firecracker
from bangerd.host.firecracker_config import CONFIG, Rates
from bangerd.host.qemu import Qemu, find_qemu
from bangerd.model.errors import HostNotReady
from bangerd.model.vm import VM

SEARCHED = "/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin"
NAME = "firecracker"


class Drivers:
    """Implements core.ports.VMM. `reason` says why new VMs get the driver they get."""

    def __init__(self, chosen: Driver, reason: str, others: tuple[Driver, ...], disks: Disks) -> None:
        self._chosen = chosen
        self.reason = reason
        self._by_name = {driver.name: driver for driver in (*others, chosen)}
        self._disks = disks
        self.name = chosen.name
        self.accelerator = chosen.accelerator
        self.capabilities = chosen.capabilities

    async def plan(self, launch: Launch) -> Plan:
        return await self._chosen.plan(launch)

    def of(self, vm: VM) -> Driver:
        """The driver of a VM that runs, and the one that a VM at rest will get."""
        if os.path.lexists(self._disks.run_dir(vm) / "control.sock"):
            name = NAME if os.path.lexists(self._disks.run_dir(vm) / CONFIG) else Qemu.name
            return self._by_name.get(name, self._chosen)
        return self._chosen

    async def pause(self, vm: VM) -> None:
        await self.of(vm).pause(vm)

    async def resume(self, vm: VM) -> None:
        await self.of(vm).resume(vm)

    async def paused(self, vm: VM) -> bool:
        return await self.of(vm).paused(vm)

    async def power_button(self, vm: VM) -> None:
        await self.of(vm).power_button(vm)


async def choose(config: Config, disks: Disks, kvm: Callable[[], tuple[bool, str]]) -> Drivers:
    """Firecracker where KVM works and it is there, else QEMU; or what the admin's `vmm` says. Raises HostNotReady."""
    if config.vmm == Qemu.name:
        return Drivers(_qemu(config, disks, kvm), 'vmm = "qemu" in the admin\'s config', (), disks)
    try:
        microvm = await _firecracker(config, disks)
    except HostNotReady as exc:
        if config.vmm == NAME or config.firecracker_bin:
            raise
        microvm, why_not = None, str(exc)
    else:
        why_not = ""
    works, why = kvm()
    if microvm is not None and config.vmm == NAME:
        if not works:
            raise HostNotReady(f'vmm = "firecracker" needs KVM, and {why}; mend that, or set vmm = "auto"')
        return Drivers(
            microvm, 'vmm = "firecracker" in the admin\'s config', _spare_qemu(config, disks), disks
        )
    if microvm is not None and works:
        return Drivers(microvm, "KVM works, and Firecracker is installed", _spare_qemu(config, disks), disks)
    reason = why_not if works else f"Firecracker needs KVM, and {why}"
    return Drivers(_qemu(config, disks, kvm), reason, () if microvm is None else (microvm,), disks)


async def _firecracker(config: Config, disks: Disks) -> firecracker.Firecracker:
    found = config.firecracker_bin or shutil.which(NAME, path=SEARCHED)
    if not found:
        raise HostNotReady("Firecracker is not installed (no firecracker in /usr/local/bin or /usr/bin)")
    binary = Path(found)
    firecracker.check_binary(binary)
    return firecracker.Firecracker(binary, await firecracker.read_version(binary), disks, Rates())


def _qemu(config: Config, disks: Disks, kvm: Callable[[], tuple[bool, str]]) -> Qemu:
    return Qemu(find_qemu(config.qemu_bin), disks, kvm=kvm()[0])


def _spare_qemu(config: Config, disks: Disks) -> tuple[Driver, ...]:
    """For VMs that were started before Firecracker was here. Without QEMU there are none."""
    try:
        return (Qemu(find_qemu(config.qemu_bin), disks, kvm=True),)
    except HostNotReady:
        return ()
