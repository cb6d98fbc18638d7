"""From a stored VM to its seed and its unit: which disks, which kernel, which command line."""

from pathlib import Path
from typing import TYPE_CHECKING

from bangerd.core.ports import UnitSpec
from bangerd.core.vmm import Disk, Launch, disk_roles
from bangerd.model.errors import HostNotReady, InvalidSpec, NoSuchImage, NoSuchKernel
from bangerd.model.image import Image, Kernel
from bangerd.model.reference import parse
from bangerd.model.seed import Seed
from bangerd.model.vm import VM

if TYPE_CHECKING:
    from bangerd.core.effects import Ports

# cryptomgr's self-tests cost 0.17 s; everything else that was tried made no measurable difference under TCG.
CMDLINE = "quiet console=ttyS0 cryptomgr.notests panic=-1"
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"
SHIM_THREADS = 1
# One part in so many of a VM's memory goes into tables of its pages: 8 bytes for each 4 KiB, the VMM's and KVM's.
PAGE_TABLES = 256
ROLES = ("image", "modules", "data")  # after the seed, in device order
READ_ONLY = frozenset({"seed", "image", "modules"})


class Launcher:
    """Reads ports, changes nothing."""

    def __init__(self, ports: "Ports") -> None:
        self._ports = ports

    def image(self, name: str) -> Image:
        """Raises NoSuchImage. A name finds its newest image, an id or digest exactly one."""
        found = [i for i in self._ports.library.images() if name in (i.name, i.id, i.digest)]
        if not found:
            raise NoSuchImage(name)
        return max(found, key=lambda i: i.created_at)

    def usable_image(self, name: str, uid: int) -> Image:
        """The same among those that are this user's, which go first, and those that are shared. Raises NoSuchImage."""
        names = {name, _whole(name)}
        found = [
            i
            for i in self._ports.library.images()
            if names & {i.name, i.id, i.digest} and i.owner_uid in (0, uid)
        ]
        if not found:
            raise NoSuchImage(name)
        return max(found, key=lambda i: (i.owner_uid == uid, i.created_at))

    def kernel(self, name: str) -> Kernel:
        """Raises NoSuchKernel."""
        found = [k for k in self._ports.library.kernels() if name in (k.name, k.id, k.digest, k.release)]
        if not found:
            raise NoSuchKernel(name)
        return max(found, key=lambda k: k.created_at)

    def seed(self, vm: VM) -> bytes:
        """What the guest is told, encoded."""
        network = self._ports.network
        image = self.image(vm.spec.image)
        return Seed(
            hostname=vm.name,
            address=f"{vm.address}/{network.pool.prefix}",
            gateway=network.pool.gateway,
            nameservers=network.nameservers() if vm.spec.nat else (),
            disks=(*ROLES, *(f"mount:{path}" for path in _cache_paths(vm))),
            authorized_keys=vm.spec.ssh_keys,
            files=_host_key(vm),
            init=image.init,
            entrypoint=image.entrypoint if vm.spec.entrypoint else (),
            env=image.env,
            working_dir=image.working_dir,
            user=image.user,
        ).encode()

    async def unit(self, vm: VM, lifeline: int | None) -> UnitSpec:
        """The unit to start. Raises NoSuchImage, NoSuchKernel, HostNotReady."""
        ports = self._ports
        run_dir = ports.disks.run_dir(vm)
        own = ports.disks.disk_path(vm)
        caches = [ports.caches.path(vm.owner_uid, vm.spec.caches[path]) for path in _cache_paths(vm)]
        image = ports.library.image_path(self.image(vm.spec.image))
        kernel, initrd, modules = ports.library.kernel_paths(self.kernel(vm.spec.kernel))
        files = (run_dir / "seed.img", image, modules, own, *caches)
        disks = tuple(
            Disk(path, role, read_only=role in READ_ONLY)
            for path, role in zip(files, disk_roles(vm), strict=True)
        )
        elf = ports.library.elf_path(self.kernel(vm.spec.kernel))
        await self.check_vmm()
        launch = Launch(vm, run_dir, kernel, elf, initrd, CMDLINE, disks, kvm=ports.vmm.accelerator == "kvm")
        plan = await ports.vmm.plan(launch)
        shim = [str(ports.shim), "--dir", str(run_dir), "--channel", plan.channel]
        shim += [word for name in plan.sockets for word in ("--unlink", name)]
        if lifeline is not None:
            shim.append("--lifeline")
        return UnitSpec(
            vm=vm,
            argv=(*shim, "--", *plan.argv),
            run_dir=run_dir,
            read_write=(own, *caches),
            read_only=(image, kernel, initrd, modules, *plan.read_only),
            devices=plan.devices,
            memory_max=vm.spec.memory + vm.spec.memory // PAGE_TABLES + plan.memory_overhead,
            file_max=max([vm.spec.disk, *self._cache_sizes(vm)]),
            programs=(ports.shim, Path(plan.argv[0])),
            threads=SHIM_THREADS + plan.threads,
            needs_libraries=plan.needs_libraries,
            translates=plan.translates,
            files=plan.files,
            lifeline=lifeline,
        )

    async def check_vmm(self) -> None:
        """Raises HostNotReady when none can be started: to be asked before anything is touched."""
        await self._ports.vmm.check()
        works, why = self._ports.host.kvm()
        if self._ports.vmm.accelerator == "kvm" and not works:
            raise HostNotReady(
                f"KVM does not work any more: {why}; mend that, or have the service choose its VMM anew with"
                " `systemctl restart banger`, which lets VMs that run go on"
            )

    def _cache_sizes(self, vm: VM) -> list[int]:
        names = vm.spec.caches.values()
        caches = self._ports.caches.all()
        return [cache.size for cache in caches if cache.owner_uid == vm.owner_uid and cache.name in names]


def _cache_paths(vm: VM) -> list[str]:
    """In the order in which they are mounted: a folder before what is inside it."""
    return sorted(vm.spec.caches)


def _whole(name: str) -> str:
    """A reference with the tag that it means; any other name as it is."""
    try:
        return str(parse(name))
    except InvalidSpec:
        return name


def _host_key(vm: VM) -> tuple[tuple[str, int, bytes], ...]:
    if not vm.host_key:
        return ()
    return (
        (HOST_KEY, 0o600, vm.host_key.encode()),
        (f"{HOST_KEY}.pub", 0o644, f"{vm.host_public}\n".encode()),
    )
