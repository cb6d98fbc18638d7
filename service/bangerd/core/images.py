"""Images and kernels: find, pull, remove."""

import os
import weakref
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from bangerd.core.effects import Ports
from bangerd.core.jobs import Caller, Job, Jobs
from bangerd.core.launch import Launcher
from bangerd.core.ports import Order
from bangerd.core.vms import VMs
from bangerd.model.errors import ImageExists, ImageInUse, InvalidSpec, LimitReached, NoSuchImage, WrongState
from bangerd.model.image import Image, Kernel
from bangerd.model.reference import Reference, check_image_name, parse

AT_ONCE = 2  # images of one user in the making: a pull may take as long as its registry likes


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

    def find_image(self, name: str, uid: int) -> Image:
        """One that the user may make VMs from, by name, id or digest. Raises NoSuchImage."""
        return self._launcher.usable_image(name, uid)

    def find_kernel(self, name: str) -> Kernel:
        """By name, id, release or digest. Raises NoSuchKernel."""
        return self._launcher.kernel(name)

    def users_of(self, identity: str) -> list[str]:
        """Names of the VMs made from this image or kernel."""
        return [vm.name for vm in self._vms.all() if identity in (vm.spec.image, vm.spec.kernel)]

    def pull(self, name: str, by: Caller, own_name: str = "") -> Job:
        """Make the image of the catalog's entry, and the default kernel if it is missing. "" is the default image.

        A name with a slash is a reference to a registry: that image becomes the caller's own, called `own_name` or
        as the reference. The same pull that is under way is joined. Raises NoSuchImage for a name not in the
        catalog, InvalidSpec, LimitReached, WrongState.
        """
        name = name or self._config.default_image_name
        if "/" in name:
            return self._pull_reference(parse(name), by, own_name)
        if name not in self._library.catalog():
            raise not_in_catalog(name, self._library.catalog())
        if own_name:
            raise InvalidSpec(f"'{name}' is the catalog's, for all users, and has no other name")
        target = f"pull/{name}"
        running = self._jobs.running(target)
        if running is not None:
            return running

        async def body(job: Job) -> None:
            await self._ensure_kernel(job)
            image = await self._library.pull_image(
                name, lambda p: job.report(replace(p, stage=f"image: {p.stage}"))
            )
            self._made(job, image)

        return self._jobs.start("pull", target, by, body, shown=name)

    def _pull_reference(self, reference: Reference, by: Caller, own_name: str) -> Job:
        name = self._check_own_name(own_name) if own_name else str(reference)
        target, shown = _own(by, name), str(reference)
        running = self._jobs.running(target)
        if running is not None and running.shown == shown:
            return running
        order = self._order(name, by)

        async def body(job: Job) -> None:
            await self._ensure_kernel(job)
            image = await self._library.pull_reference(
                reference, order, lambda p: job.report(replace(p, stage=f"image: {p.stage}"))
            )
            await self._retire(image)
            self._made(job, image)

        return self._jobs.start("pull", target, by, body, shown=shown)

    def import_image(self, name: str, source: int, by: Caller) -> Job:
        """Make an image of the caller's own of what is read from the descriptor `source`, which becomes ours, also
        when this raises: InvalidSpec, ImageExists, LimitReached, WrongState.
        """
        owned = Owned(source)
        try:
            self._check_new(self._check_own_name(name), by)
            order = self._order(name, by)

            async def body(job: Job) -> None:
                with owned:
                    await self._ensure_kernel(job)
                    image = await self._library.import_image(
                        source, order, lambda p: job.report(replace(p, stage=f"image: {p.stage}"))
                    )
                self._made(job, image)

            async def undo() -> None:  # a job that is cancelled may not have begun
                owned.close()

            return self._jobs.start("import", _own(by, name), by, body, undo=undo, shown=name)
        except BaseException:
            owned.close()
            raise

    def _check_own_name(self, name: str) -> str:
        if name in self._library.catalog():
            raise InvalidSpec(f"'{name}' is the name of an image of the catalog; choose another one")
        return check_image_name(name)

    def _check_new(self, name: str, by: Caller) -> None:
        if any((one.name, one.owner_uid) == (name, by.uid) for one in self._library.images()):
            raise ImageExists(name)

    def _order(self, name: str, by: Caller) -> Order:
        """What the caller may still have made. Raises LimitReached, WrongState."""
        config = self._config
        if (busy := self._jobs.running(_own(by, name))) is not None:
            raise WrongState(f"image '{name}' is being made already, by job {busy.number}; wait for it")
        making = [
            one for one in self._jobs.all() if one.target.startswith(_own(by, "")) and one.state == "running"
        ]
        if len(making) >= AT_ONCE:
            raise LimitReached(
                f"you have {AT_ONCE} images in the making, as many as are possible; wait for one"
            )
        others = [one for one in self._library.images() if one.owner_uid == by.uid and one.name != name]
        if len(others) >= config.max_images_per_user:
            raise LimitReached(
                f"you have {len(others)} images, as many as this machine allows each user; delete one"
            )
        room = config.image_bytes_per_user - sum(one.size for one in others)
        if room <= 0:
            raise LimitReached(
                "your images take up all the room that this machine allows each user; delete one"
            )
        return Order(name, by.uid, by.name, room)

    async def _ensure_kernel(self, job: Job) -> None:
        kernel = self._config.default_kernel_name
        if not any(kernel in (k.name, k.id) for k in self._library.kernels()):
            await self._library.pull_kernel(
                kernel, lambda p: job.report(replace(p, stage=f"kernel: {p.stage}"))
            )
            self._changed()

    async def _retire(self, image: Image) -> None:
        """The name now means this one: remove the owner's earlier ones, but for those that VMs are made from."""
        for old in self._library.images():
            same = (old.name, old.owner_uid) == (image.name, image.owner_uid)
            if same and old.id != image.id and not self.users_of(old.id):
                await self._library.remove_image(old)

    def _made(self, job: Job, image: Image) -> None:
        job.result.update(
            {"image": image.id, "name": image.name, "digest": image.digest, "size": image.size}
        )
        self._changed()

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


class Owned:
    """A descriptor that is closed once, by whoever is the first to say so."""

    def __init__(self, descriptor: int) -> None:
        self.close = weakref.finalize(self, os.close, descriptor)

    def __enter__(self) -> None: ...

    def __exit__(self, *_how: object) -> None:
        self.close()


def _own(by: Caller, name: str) -> str:
    """The target of a job that makes an image of the caller's own."""
    return f"image-of/{by.uid}/{name}"


def not_in_catalog(name: str, known: Sequence[str]) -> NoSuchImage:
    """The error for a name that cannot be pulled, saying which can."""
    error = NoSuchImage(name)
    there = f"the catalog has no image '{name}'; it has {', '.join(known)}"
    error.args = (f"{there}. One of a registry is named in full, such as docker.io/library/{name}",)
    return error
