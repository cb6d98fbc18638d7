"""Images and kernels on disk, and how they are made.

`<state>/images/<id>/{rootfs.squashfs,manifest.json}` and `<state>/kernels/<id>/{vmlinuz,vmlinux,initrd,
modules.squashfs,modules.cpio,manifest.json}`, all root's and readable by every VM. Workers make the content;
what enters is moved by one rename, after a look at its first bytes and a hash of all of them.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bangerd.core.ports import Order, Progress
from bangerd.host import initrd, manifest, tree
from bangerd.host.delivery import Delivery
from bangerd.host.mirror import Mirror, find_mirror, npm_registry
from bangerd.host.thread import in_thread
from bangerd.host.userimages import UserImages
from bangerd.host.worker import Job, Workers
from bangerd.model import mise
from bangerd.model.errors import BangerError, HostNotReady, NoSuchImage, NoSuchKernel, PullFailed, StepFailed
from bangerd.model.image import Image, Kernel
from bangerd.model.reference import Reference
from bangerd.model.vm import GIB, MIB

log = logging.getLogger(__name__)

ROOTFS, VMLINUZ, VMLINUX, INITRD, MODULES, BOOT_MODULES = (
    "rootfs.squashfs", "vmlinuz", "vmlinux", "initrd", "modules.squashfs", "modules.cpio",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the catalog says of a name. `room`: bytes free that a build needs at its peak."""

    suite: str
    room: int


_IMAGES = {
    "debian-bookworm": _Entry("bookworm", 3 * GIB // 2),
    "debian-trixie": _Entry("trixie", 3 * GIB // 2),
}
_KERNELS = {"debian-bookworm": _Entry("bookworm", GIB // 2), "debian-trixie": _Entry("trixie", GIB // 2)}


class ImageLibrary:
    """ports.Library."""

    def __init__(
        self,
        state_dir: Path,
        *,
        libexec_dir: Path,
        systemd: bool,
        mirror: str = "",
        npm_mirror: str | None = "",
        denied: Iterable[str] = (),
        insecure_registries: Iterable[str] = (),
    ) -> None:
        """`npm_mirror`: None for images without mise.

        `denied`: networks that builds may not reach, beside link-local and metadata addresses.
        """
        self._images_dir = state_dir / "images"
        self._kernels_dir = state_dir / "kernels"
        self._work = state_dir / "work"
        self._guest_program = libexec_dir / "banger-guest"
        self._mirror = mirror
        self._npm_mirror = npm_mirror
        self._workers = Workers(self._work, systemd=systemd, denied=denied)
        for folder in (self._images_dir, self._kernels_dir):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o755)
        self._of_users = UserImages(self._workers, self._images_dir, insecure_registries)
        self._images = manifest.load_all(self._images_dir, Image)
        self._kernels = manifest.load_all(self._kernels_dir, Kernel)

    def images(self) -> tuple[Image, ...]:
        return tuple(self._images.values())

    def kernels(self) -> tuple[Kernel, ...]:
        return tuple(self._kernels.values())

    def catalog(self) -> tuple[str, ...]:
        return tuple(_IMAGES)

    def image_path(self, image: Image) -> Path:
        return self._images_dir / image.id / ROOTFS

    def kernel_paths(self, kernel: Kernel) -> tuple[Path, Path, Path]:
        """vmlinuz, initrd, modules.squashfs."""
        folder = self._kernels_dir / kernel.id
        return folder / VMLINUZ, folder / INITRD, folder / MODULES

    def elf_path(self, kernel: Kernel) -> Path:
        """vmlinux, which Firecracker boots."""
        return self._kernels_dir / kernel.id / VMLINUX

    async def collect(self) -> None:
        """Remove what interrupted builds and removals left; fit the initrds to the guest program that is here.

        Called once, before anything is pulled or started.
        """
        await self._workers.collect()
        for kernel in self.kernels():
            try:
                await in_thread(self._refresh_initrd, kernel)
            except (BangerError, OSError) as exc:
                log.warning("the initrd of kernel %s is not that of this version: %s", kernel.name, exc)

    async def pull_image(self, name: str, report: Callable[[Progress], None]) -> Image:
        """Make the image of that name. Raises NoSuchImage, HostNotReady, PullFailed, StepFailed."""
        entry = _IMAGES.get(name)
        if entry is None:
            raise NoSuchImage(name)
        packages = () if self._npm_mirror is None else (mise.package(npm_registry(self._npm_mirror)),)
        mirror = await self._prepare(entry)
        async with self._workers.job("image") as job:
            arguments = [*_arguments(job, entry, mirror), *(f"--mise={package.url}" for package in packages)]
            facts = await self._workers.run(job, "build_image", arguments, report)
            init = _text(facts, "init")
            with Delivery(job.folder, "build") as delivery:
                report(Progress("check"))
                digest, size = await in_thread(delivery.take, ROOTFS)
                image = Image(
                    id=digest[:12],
                    name=name,
                    digest=f"sha256:{digest}",
                    size=size,
                    created_at=int(time.time()),
                    owner_uid=0,
                    source=f"debian {entry.suite} from {mirror.main}",
                    init=init,
                    env=(f"PATH={mise.PATH}",) if packages else (),
                    packages=packages,
                )
                manifest.write(delivery.folder, image)
                await in_thread(delivery.place, self._images_dir / image.id)
        return self._images.setdefault(image.id, image)

    async def pull_reference(
        self, reference: Reference, order: Order, report: Callable[[Progress], None]
    ) -> Image:
        """What a registry has. Raises PullFailed, DigestMismatch, OCILayerInvalid, LimitReached and as pull_image()."""
        mine = (order.name, order.owner_uid)
        known = [image for image in self.images() if (image.name, image.owner_uid) == mine]
        image = await self._of_users.pull(reference, order, known, report)
        self._images[image.id] = image
        return image

    async def import_image(self, source: int, order: Order, report: Callable[[Progress], None]) -> Image:
        """What is read from a descriptor. Raises as pull_reference() does."""
        image = await self._of_users.import_(source, order, report)
        self._images[image.id] = image
        return image

    async def pull_kernel(self, name: str, report: Callable[[Progress], None]) -> Kernel:
        """Make the kernel of that name. Raises NoSuchKernel, HostNotReady, PullFailed, StepFailed."""
        entry = _KERNELS.get(name)
        if entry is None:
            raise NoSuchKernel(name)
        program, program_digest = await in_thread(initrd.read_program, self._guest_program)
        mirror = await self._prepare(entry)
        async with self._workers.job("kernel") as job:
            facts = await self._workers.run(job, "build_kernel", _arguments(job, entry, mirror), report)
            with Delivery(job.folder, "build") as delivery:
                report(Progress("check"))
                digest, size = await in_thread(delivery.take, VMLINUZ)
                for part in (VMLINUX, MODULES, BOOT_MODULES):
                    size += (await in_thread(delivery.take, part))[1]
                kernel = Kernel(
                    id=digest[:12],
                    name=name,
                    release=_text(facts, "release"),
                    digest=f"sha256:{digest}",
                    size=size,
                    created_at=int(time.time()),
                    source=f"{_text(facts, 'package')} {_text(facts, 'version')} from {mirror.main}",
                )
                await in_thread(self._place_kernel, kernel, delivery, program, program_digest)
        self._kernels[kernel.id] = kernel
        return kernel

    async def remove_image(self, image: Image) -> None:
        self._images.pop(image.id, None)
        await in_thread(_discard, self._images_dir, image.id, self._work)

    async def remove_kernel(self, kernel: Kernel) -> None:
        self._kernels.pop(kernel.id, None)
        await in_thread(_discard, self._kernels_dir, kernel.id, self._work)

    async def _prepare(self, entry: _Entry) -> Mirror:
        """What can be known to fail does so before anything is done."""
        seen = os.statvfs(self._work)
        free = seen.f_bavail * seen.f_frsize
        if free < entry.room:
            raise HostNotReady(
                f"a build needs {entry.room // MIB} MiB of free room in {self._work.parent}, there are "
                f"{free // MIB} MiB; free some room and pull again"
            )
        return await find_mirror(self._mirror)

    def _place_kernel(self, kernel: Kernel, delivery: Delivery, program: bytes, program_digest: str) -> None:
        """A kernel that is here already gets what this version's worker picks for the initrd."""
        target = self._kernels_dir / kernel.id
        if target.exists():
            for part in (VMLINUX, BOOT_MODULES):
                (delivery.folder / part).rename(target / part)
            initrd.write(target / INITRD, program, target / BOOT_MODULES)
            manifest.write(target, kernel, guest_program=program_digest)
            return
        initrd.write(delivery.folder / INITRD, program, delivery.folder / BOOT_MODULES)
        manifest.write(delivery.folder, kernel, guest_program=program_digest)
        delivery.place(target)

    def _refresh_initrd(self, kernel: Kernel) -> None:
        folder = self._kernels_dir / kernel.id
        program, digest = initrd.read_program(self._guest_program)
        if manifest.read_further(folder, "guest_program") != digest or not (folder / INITRD).exists():
            initrd.write(folder / INITRD, program, folder / BOOT_MODULES)
            manifest.write(folder, kernel, guest_program=digest)
            log.info("made the initrd of kernel %s anew", kernel.name)


def _arguments(job: Job, entry: _Entry, mirror: Mirror) -> list[str]:
    options = job.code / "apt-options"
    # A file that only the worker can read: a proxy's password does not belong into a command line.
    descriptor = os.open(options, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write("".join(f"{line}\n" for line in mirror.apt_options))
        file.flush()
        os.fchown(descriptor, job.base, job.base)
    return [
        "--suite", entry.suite, "--mirror", mirror.main, "--security-mirror", mirror.security,
        "--keyring", str(mirror.keyring), "--apt-options", str(options), "--dir", str(job.build),
    ]  # fmt: skip


def _text(facts: dict[str, object], key: str) -> str:
    """A short line of plain text out of a worker's result."""
    value = facts.get(key)
    if not isinstance(value, str) or len(value) > 200 or not value.isascii() or not value.isprintable():
        raise PullFailed(f"the build worker reports no sane {key}; this is a bug, or it was broken into")
    return value


def _discard(parent: Path, name: str, work: Path) -> None:
    """Out of sight by one rename, then removed; collect() removes what a crash leaves."""
    source, target = tree.open_folder(parent), tree.open_folder(work)
    try:
        os.rename(name, f"gone-{name}", src_dir_fd=source, dst_dir_fd=target)
        tree.remove(target, f"gone-{name}")
    except FileNotFoundError:
        return
    except OSError as exc:
        raise StepFailed(f"{parent / name} could not be removed: {exc}") from exc
    finally:
        os.close(source)
        os.close(target)
