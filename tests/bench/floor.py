"""Floor A: the service's own VMM command line, started by hand, without bus, polkit, supervisor and network.

Seed, disk, run folder and command line are made by the service's own modules (`Ground`), so that kernel, initrd, image
and devices are those of `banger vm run`, but for the NIC. And what a VM's disk costs.
"""

import asyncio
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from bangerd.config import Config
from bangerd.core.effects import Ports
from bangerd.core.launch import ROLES, Launcher
from bangerd.core.ports import UnitSpec
from bangerd.core.vmm import Driver
from bangerd.host.caches import CacheFiles
from bangerd.host.disk import DiskFiles
from bangerd.host.facts import HostFacts
from bangerd.host.library import ImageLibrary
from bangerd.host.qemu import Qemu, find_qemu
from bangerd.model.seed import Seed
from bangerd.model.sizing import HostSize, Wish, resolve
from bangerd.model.vm import VM, Desired, VMSpec
from privatehost import TOP
from tests.bench import shim
from tests.bench.shim import Boot
from tests.bench.stats import Series

LIBEXEC = TOP / "service/native/build"


@dataclass(frozen=True, slots=True)
class Run:
    """One cold run, seconds since the epoch."""

    start: float
    boot: Boot
    answered: float  # `true` has run
    kernel_log: str  # of the guest, dmesg's


class Ground:
    """What a VM needs that is started by hand. `folder` is its own, on the file system on which the service's state is;
    `state` has the images and kernels that the service uses, as it has prepared them when it was started."""

    def __init__(
        self, folder: Path, state: Path, make_vmm: "Callable[[Ground], Driver] | None" = None
    ) -> None:
        """`make_vmm`: another driver than QEMU's."""
        self.folder = folder
        self.host = HostFacts(())
        self.disks = DiskFiles(folder / "state", folder / "run")
        self.config = Config()
        self.library = ImageLibrary(state, libexec_dir=LIBEXEC, systemd=False)
        self.vmm = (make_vmm or qemu)(self)
        self.launcher = Launcher(self._ports())
        self.vm = self._new_vm()

    def _ports(self) -> Ports:
        made = SimpleNamespace(
            disks=self.disks,
            caches=CacheFiles(self.folder / "state", self.disks),
            library=self.library,
            host=self.host,
            vmm=self.vmm,
            shim=LIBEXEC / "banger-shim",
        )
        return cast("Ports", made)  # all that the launcher reads

    def _new_vm(self) -> VM:
        """With the sizes that `banger vm run` gives when nothing is asked for."""
        size = HostSize(self.host.cpus(), self.host.memory(), self.disks.total_bytes())
        sizes = resolve(Wish(), Wish(), size)
        spec = VMSpec(
            image=self.launcher.image(self.config.default_image_name).id,
            kernel=self.launcher.kernel(self.config.default_kernel_name).id,
            vcpu=sizes.vcpu.value,
            memory=sizes.memory.value,
            disk=sizes.disk.value,
        )
        identity = uuid.uuid4()
        return VM(
            str(identity),
            identity.hex[:8],
            "floor",
            0,
            "root",
            spec,
            Desired.RUNNING,
            uid=self.config.uid_first,
        )

    def unit(self) -> UnitSpec:
        return asyncio.run(self.launcher.unit(self.vm, None))

    @contextmanager
    def prepared(self) -> Iterator[Path]:
        """The VM's run folder, with all that its VMM finds there; its disk is new."""
        image = self.launcher.image(self.vm.spec.image)
        seed = Seed(
            hostname="floor", disks=ROLES, init=image.init, entrypoint=image.entrypoint, env=image.env
        )
        asyncio.run(self._prepare(seed.encode()))
        try:
            yield self.disks.run_dir(self.vm)
        finally:
            asyncio.run(self._remove())

    async def _prepare(self, seed: bytes) -> None:
        await self.disks.ensure_disk(self.vm)
        await self.disks.ensure_run_dir(self.vm, seed)

    async def _remove(self) -> None:
        await self.disks.remove_run_dir(self.vm)
        await self.disks.remove_disk(self.vm)

    def close(self) -> None:
        shutil.rmtree(self.folder)


def qemu(ground: Ground) -> Qemu:
    return Qemu(find_qemu(ground.config.qemu_bin), ground.disks, kvm=ground.host.kvm()[0])


class Floor(Ground):
    """Cold boots with QEMU and the shim."""

    def machine(self) -> list[str]:
        """QEMU's binary with the options that decide how fast its machine is, for other ways to boot one."""
        argv = self.unit().argv
        words = list(argv[argv.index("--") + 1 :])
        picked = [words[0]]
        for option in ("-M", "-accel", "-cpu", "-smp", "-m"):
            at = words.index(option)
            picked += words[at : at + 2]
        return picked

    def run(self) -> Run:
        """Raises RuntimeError."""
        argv = without_network(self.unit().argv)
        with self.prepared() as folder:
            start = time.time()
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=folder)
            try:
                shim.appears(folder, "control.sock")
                boot = shim.watch(folder)
                shim.execute(folder, "true")
                answered = time.time()
                kernel_log = shim.execute(folder, "dmesg").decode("utf-8", "replace")
            finally:
                process.terminate()  # ask the guest to power off, and
                process.terminate()  # have it killed at once
                process.wait()
        return Run(start, boot, answered, kernel_log)


def without_network(argv: Sequence[str]) -> list[str]:
    """A command line of the service's less its NIC. Raises ValueError if it has none where we know it to be."""
    words = list(argv)
    for option, kind in (("-netdev", "tap,"), ("-device", "virtio-net-pci,")):
        at = next(i for i, word in enumerate(words) if word == option and words[i + 1].startswith(kind))
        del words[at : at + 2]
    return [*words, "-nic", "none"]


def disk_series(floor: Floor, rounds: int) -> Series:
    """How long a VM's disk takes, once the template of its size is there. Each is made, and removed again."""

    async def measure() -> Series:
        series = Series("a VM's disk (ensure_disk)")
        for turn in range(rounds + 1):
            vm = replace(floor.vm, sid=f"{turn:08x}")
            start = time.perf_counter()
            await floor.disks.ensure_disk(vm)
            taken = time.perf_counter() - start
            await floor.disks.remove_disk(vm)
            if turn:  # the first one made the template
                series.add(taken * 1000)
        return series

    return asyncio.run(measure())
