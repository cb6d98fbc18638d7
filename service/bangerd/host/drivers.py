"""Which VMM drives a VM: for a new start the best that is here, for one that runs the one it was started with."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bangerd.config import Config
from bangerd.core.ports import Disks
from bangerd.core.vmm import Capability, Driver, Launch, Plan, Rates
from bangerd.host import firecracker
from bangerd.host.firecracker_config import CONFIG, OLDEST
from bangerd.host.qemu import Qemu
from bangerd.model.errors import HostNotReady
from bangerd.model.vm import VM

SEARCHED = "/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin"
NAME = "firecracker"


@dataclass(frozen=True, slots=True)
class Choice:
    """`refusal`: why there is none, though the admin's config names one; `driver` is there for its name then."""

    driver: Driver
    accelerator: str
    reason: str
    refusal: str = ""


class Drivers:
    """Implements core.vmm.VMM. Where the admin's VMM cannot be used the service runs all the same, for VMs that run."""

    def __init__(self, config: Config, disks: Disks, kvm: Callable[[], tuple[bool, str]]) -> None:
        self._config = config
        self._disks = disks
        self._kvm = kvm
        limits = config.vm_limits
        self._rates = Rates(limits.disk_bytes_per_s, limits.network_bytes_per_s)
        # For VMs that were started with what is not chosen any more: these talk to them, and start none.
        nameless = firecracker.Firecracker(Path(NAME), (*OLDEST, 0), disks, self._rates)
        works, _ = kvm()
        self._others: dict[str, Driver] = {
            NAME: nameless,
            Qemu.name: Qemu(config.qemu_bin, disks, self._rates, kvm=works),
        }
        self._choice = self._refuse("nobody has asked yet whether there is a VMM")

    async def _pick(self) -> Choice:
        """Firecracker where KVM works and it is there, else QEMU; or what the admin's config says."""
        config = self._config
        works, why = self._kvm()

        def use_qemu(reason: str) -> Choice:
            driver = Qemu(config.qemu_bin, self._disks, self._rates, kvm=works)
            return Choice(driver, driver.accelerator, reason)

        if config.vmm == Qemu.name:
            return use_qemu('vmm = "qemu" in the admin\'s config')
        try:
            microvm = await _firecracker(config, self._disks, self._rates)
        except HostNotReady as exc:
            if config.vmm == NAME or config.firecracker_bin:
                return self._refuse(str(exc))
            return use_qemu(str(exc) if works else f"Firecracker needs KVM, and {why}")
        if works:
            wanted = 'vmm = "firecracker" in the admin\'s config'
            found = "KVM works, and Firecracker is installed"
            return Choice(microvm, microvm.accelerator, wanted if config.vmm == NAME else found)
        if config.vmm == NAME:
            return self._refuse(f'vmm = "firecracker" needs KVM, and {why}; mend that, or set vmm = "auto"')
        return use_qemu(f"Firecracker needs KVM, and {why}")

    def _refuse(self, why: str) -> Choice:
        return Choice(self._others[NAME], "", "", refusal=why)

    @property
    def name(self) -> str:
        return self._choice.driver.name

    @property
    def accelerator(self) -> str:
        return self._choice.accelerator

    @property
    def reason(self) -> str:
        chosen = self._choice
        if isinstance(chosen.driver, firecracker.Firecracker) and not chosen.refusal:
            return f"{chosen.reason} ({chosen.driver.version})"
        return chosen.reason

    @property
    def capabilities(self) -> frozenset[Capability]:
        return self._choice.driver.capabilities

    @property
    def missing(self) -> tuple[str, ...]:
        if self._choice.refusal:
            return ()
        asked = {
            "vm_limits.disk_rate": (self._rates.disk, Capability.DISK_RATE),
            "vm_limits.network_rate": (self._rates.network, Capability.NETWORK_RATE),
        }
        found = [
            f"{key} is not kept: {self.name} cannot do that"
            for key, (value, needed) in asked.items()
            if value and needed not in self.capabilities
        ]
        driver = self._choice.driver
        pci = isinstance(driver, firecracker.Firecracker) and driver.features.pci
        if self._config.firecracker_pci and not pci:
            found.append("firecracker_pci has no effect: it needs Firecracker 1.13 or later")
        return tuple(found)

    async def check(self) -> None:
        """The first call chooses; after a refusal the next one does, as what was missing may be there by now."""
        await (await self._usable()).check()

    async def plan(self, launch: Launch) -> Plan:
        return await (await self._usable()).plan(launch)

    async def _usable(self) -> Driver:
        if self._choice.refusal:
            self._choice = await self._pick()
        if self._choice.refusal:
            raise HostNotReady(self._choice.refusal)
        return self._choice.driver

    def of(self, vm: VM) -> Driver:
        """The driver of a VM that runs, and the one that a VM at rest will get."""
        chosen = self._choice.driver
        if not os.path.lexists(self._disks.run_dir(vm) / "control.sock"):
            return chosen
        name = NAME if os.path.lexists(self._disks.run_dir(vm) / CONFIG) else Qemu.name
        return chosen if chosen.name == name else self._others[name]


async def _firecracker(config: Config, disks: Disks, rates: Rates) -> firecracker.Firecracker:
    found = config.firecracker_bin or shutil.which(NAME, path=SEARCHED)
    if not found:
        raise HostNotReady(
            "Firecracker is not installed (no firecracker in /usr/local/bin, /usr/bin or their sbin)"
        )
    binary = Path(found)
    version = await firecracker.read_version(firecracker.check_binary(binary))
    return firecracker.Firecracker(binary, version, disks, rates, pci=config.firecracker_pci)
