"""Images and kernels: find, pull, remove."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from bangerd.core.effects import Ports
from bangerd.core.jobs import Caller, Job, Jobs
from bangerd.core.launch import Launcher
from bangerd.core.vms import VMs
from bangerd.model.errors import ImageInUse, NoSuchImage
from bangerd.model.image import Image, Kernel


class Images:
    """What a VM is made of. An image is in use as long as a VM that exists was made from it."""

    def __init__(self, ports: Ports, jobs: Jobs, vms: VMs) -> None:
        self._library = ports.library
        self._config = ports.config
        self._jobs = jobs
        self._vms = vms
        self._launcher = Launcher(ports)
        self._listeners: list[Callable[[], None]] = []

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call when an image or a kernel was added or removed."""
        self._listeners.append(listener)

    def images(self) -> tuple[Image, ...]:
        return self._library.images()

    def kernels(self) -> tuple[Kernel, ...]:
        return self._library.kernels()

    def find_image(self, name: str) -> Image:
        """By name, id or digest. Raises NoSuchImage."""
        return self._launcher.image(name)

    def find_kernel(self, name: str) -> Kernel:
        """By name, id, release or digest. Raises NoSuchKernel."""
        return self._launcher.kernel(name)

    def users_of(self, identity: str) -> list[str]:
        """Names of the VMs made from this image or kernel."""
        return [vm.name for vm in self._vms.all() if identity in (vm.spec.image, vm.spec.kernel)]

    def pull(self, name: str, by: Caller) -> Job:
        """Make the image of the catalog's entry, and the default kernel if it is missing. "" is the default image.

        A pull of the same name that is under way is joined. Raises NoSuchImage for a name not in the catalog.
        """
        name = name or self._config.default_image_name
        if name not in self._library.catalog():
            raise not_in_catalog(name, self._library.catalog())
        target = f"pull/{name}"
        running = self._jobs.running(target)
        if running is not None:
            return running

        async def body(job: Job) -> None:
            kernel = self._config.default_kernel_name
            if not any(kernel in (k.name, k.id) for k in self._library.kernels()):
                await self._library.pull_kernel(
                    kernel, lambda p: job.report(replace(p, stage=f"kernel: {p.stage}"))
                )
                self._changed()
            image = await self._library.pull_image(
                name, lambda p: job.report(replace(p, stage=f"image: {p.stage}"))
            )
            job.result.update(
                {"image": image.id, "name": image.name, "digest": image.digest, "size": image.size}
            )
            self._changed()

        return self._jobs.start("pull", target, by, body, shown=name)

    def remove_image(self, image: Image, by: Caller) -> Job:
        """Raises ImageInUse."""
        return self._removal("image", image, lambda: self._library.remove_image(image), by)

    def remove_kernel(self, kernel: Kernel, by: Caller) -> Job:
        """Raises ImageInUse."""
        return self._removal("kernel", kernel, lambda: self._library.remove_kernel(kernel), by)

    def _removal(
        self, kind: str, what: Image | Kernel, remove: Callable[[], Awaitable[None]], by: Caller
    ) -> Job:
        self._check_unused(what.id, f"{kind} '{what.name}'")

        async def body(_job: Job) -> None:
            self._check_unused(what.id, f"{kind} '{what.name}'")
            await remove()
            self._changed()

        return self._jobs.start(f"delete-{kind}", f"{kind}/{what.id}", by, body, shown=what.name)

    def _check_unused(self, identity: str, what: str) -> None:
        users = self.users_of(identity)
        if users:
            shown = ", ".join(users[:3]) + (" and others" if len(users) > 3 else "")
            raise ImageInUse(f"{what} is in use by {shown}; delete these VMs first")

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()


def not_in_catalog(name: str, known: Sequence[str]) -> NoSuchImage:
    """The error for a name that cannot be pulled, saying which can."""
    error = NoSuchImage(name)
    error.args = (f"the catalog has no image '{name}'; it has {', '.join(known)}",)
    return error
