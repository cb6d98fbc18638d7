"""Which VMM drives a VM: for a new start the best that is here, for one that runs the one it was started with."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bangerd.config import Config
from bangerd.core.ports import Disks
from bangerd.core.vmm import Capability, Driver, Launch, Plan, Rates
from bangerd.host import firecracker
from bangerd.host.firecracker_config import CONFIG, OLDEST
from bangerd.host.qemu import BINARY, Qemu
from bangerd.model.errors import HostNotReady
from bangerd.model.vm import VM

SEARCHED = "/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin"
NAME = "firecracker"


class Drivers:
    """Implements core.vmm.VMM. `others` talk to VMs that were started with what is not chosen any more."""

    def __init__(
        self,
        chosen: Driver,
        reason: str,
        others: tuple[Driver, ...],
        disks: Disks,
        config: Config,
        *,
        refusal: str = "",
    ) -> None:
        self._chosen = chosen
        self._reason = reason
        self.refusal = refusal
        self._by_name = {driver.name: driver for driver in (*others, chosen)}
        self._disks = disks
        self._config = config
        self.name = chosen.name
        self.accelerator = chosen.accelerator

    @property
    def reason(self) -> str:
        if isinstance(self._chosen, firecracker.Firecracker) and not self.refusal:
            return f"{self._reason} ({self._chosen.version})"
        return self._reason

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._chosen.capabilities

    @property
    def missing(self) -> tuple[str, ...]:
        limits = self._config.vm_limits
        asked = {
            "vm_limits.disk_rate": (limits.disk_bytes_per_s, Capability.DISK_RATE),
            "vm_limits.network_rate": (limits.network_bytes_per_s, Capability.NETWORK_RATE),
        }
        found = [
            f"{key} is not kept: {self.name} cannot do that"
            for key, (value, needed) in asked.items()
            if value and needed not in self.capabilities
        ]
        pci = isinstance(self._chosen, firecracker.Firecracker) and self._chosen.features.pci
        if self._config.firecracker_pci and not pci:
            found.append("firecracker_pci has no effect: it needs Firecracker 1.13 or later")
        return tuple(found)

    async def check(self) -> None:
        if self.refusal:
            raise HostNotReady(self.refusal)
        await self._chosen.check()

    async def plan(self, launch: Launch) -> Plan:
        return await self._chosen.plan(launch)

    def of(self, vm: VM) -> Driver:
        """The driver of a VM that runs, and the one that a VM at rest will get."""
        if os.path.lexists(self._disks.run_dir(vm) / "control.sock"):
            name = NAME if os.path.lexists(self._disks.run_dir(vm) / CONFIG) else Qemu.name
            return self._by_name[name]
        return self._chosen


async def choose(config: Config, disks: Disks, kvm: Callable[[], tuple[bool, str]]) -> Drivers:
    """Firecracker where KVM works and it is there, else QEMU; or what the admin's config says.

    Where that cannot be used the service runs all the same, for VMs that run, and nothing is started.
    """
    works, why = kvm()
    rates = Rates(config.vm_limits.disk_bytes_per_s, config.vm_limits.network_bytes_per_s)
    nameless = firecracker.Firecracker(Path(NAME), (*OLDEST, 0), disks, rates)
    others = (Qemu(BINARY, disks, rates, kvm=works), nameless)

    def use(driver: Driver, reason: str, refusal: str = "") -> Drivers:
        return Drivers(driver, reason, others, disks, config, refusal=refusal)

    def use_qemu(reason: str) -> Drivers:
        return use(Qemu(config.qemu_bin, disks, rates, kvm=works), reason)

    def refuse(why: str) -> Drivers:
        return use(nameless, why, f"{why}; mend that, then `systemctl restart banger`")

    if config.vmm == Qemu.name:
        return use_qemu('vmm = "qemu" in the admin\'s config')
    try:
        microvm = await _firecracker(config, disks, rates)
    except HostNotReady as exc:
        if config.vmm == NAME or config.firecracker_bin:
            return refuse(str(exc))
        return use_qemu(str(exc) if works else f"Firecracker needs KVM, and {why}")
    if works:
        wanted = config.vmm == NAME
        return use(
            microvm,
            'vmm = "firecracker" in the admin\'s config'
            if wanted
            else "KVM works, and Firecracker is installed",
        )
    if config.vmm == NAME:
        return refuse(f'vmm = "firecracker" needs KVM, and {why}')
    return use_qemu(f"Firecracker needs KVM, and {why}")


async def _firecracker(config: Config, disks: Disks, rates: Rates) -> firecracker.Firecracker:
    found = config.firecracker_bin or shutil.which(NAME, path=SEARCHED)
    if not found:
        raise HostNotReady(
            "Firecracker is not installed (no firecracker in /usr/local/bin, /usr/bin or their sbin)"
        )
    binary = Path(found)
    version = await firecracker.read_version(firecracker.check_binary(binary))
    return firecracker.Firecracker(binary, version, disks, rates, pci=config.firecracker_pci)
