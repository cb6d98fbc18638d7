"""Images that belong to one user: what a registry has, or what was handed over as a file.

Everything foreign happens in a worker. Here its squashfs is taken, hashed, described, and put in place by one rename.
"""

import hashlib
import importlib.util
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bangerd.core.ports import Order, Progress
from bangerd.host import imagefacts, manifest
from bangerd.host.delivery import Delivery
from bangerd.host.handover import NAME, handing_over
from bangerd.host.thread import in_thread
from bangerd.host.worker import Job, Workers
from bangerd.model.errors import HostNotReady, LimitReached, StepFailed
from bangerd.model.image import Image
from bangerd.model.reference import Reference
from bangerd.model.vm import MIB

ROOTFS = "rootfs.squashfs"
_ROOM = 256 * MIB  # free bytes below which nothing is begun
_PROXIES = ("http_proxy", "https_proxy", "no_proxy")


class UserImages:
    """`plain`: registries, with port, that are spoken to without encryption."""

    def __init__(self, workers: Workers, images_dir: Path, plain: Iterable[str] = ()) -> None:
        self._workers = workers
        self._images_dir = images_dir
        self._plain = tuple(plain)

    async def pull(
        self, reference: Reference, order: Order, known: list[Image], report: Callable[[Progress], None]
    ) -> Image:
        """`known`: the owner's images of this name. One of them is returned when it is what the registry has.

        Raises PullFailed, DigestMismatch, OCILayerInvalid, LimitReached, HostNotReady, StepFailed.
        """
        same = {image.manifest: image for image in known if image.reference == str(reference)}
        if reference.digest in same:
            return same[reference.digest]
        self._check_room()
        async with self._workers.job("oci", of_user=True) as job:
            arguments = [
                "--host", reference.host, "--repository", reference.repository, "--wanted", reference.wanted,
                *(["--plain"] if reference.host in self._plain else []),
                *(f"--deny={network}" for network in self._workers.denied),
                *(f"--have={digest}" for digest in same if digest),
                "--environment", str(_environment(job)), "--dir", str(job.build),
            ]  # fmt: skip
            facts = await self._workers.run(job, "pull_oci", arguments, report, libraries=_libraries())
            if "same" in facts and (found := same.get(imagefacts.text(facts, "same"))) is not None:
                return found
            digest = imagefacts.text(facts, "manifest")
            return await self._take(job, facts, order, report, reference=str(reference), manifest=digest)

    async def import_(self, source: int, order: Order, report: Callable[[Progress], None]) -> Image:
        """Of what can be read from the descriptor `source`, which stays the caller's. Raises as pull() does."""
        self._check_room()
        async with self._workers.job("import", of_user=True) as job, handing_over(job, source):
            arguments = ["--socket", str(job.code / NAME), "--dir", str(job.build)]
            facts = await self._workers.run(job, "import_image", arguments, report)
            return await self._take(job, facts, order, report)

    async def _take(
        self,
        job: Job,
        facts: dict[str, object],
        order: Order,
        report: Callable[[Progress], None],
        *,
        reference: str = "",
        manifest: str = "",
    ) -> Image:
        about = imagefacts.read(facts)
        with Delivery(job.folder, "build") as delivery:
            report(Progress("check"))
            digest, size = await in_thread(delivery.take, ROOTFS)
            if size > order.room:
                raise LimitReached(
                    f"the image comes to {size // MIB} MiB, and you may have {order.room // MIB} MiB more of images;"
                    " delete some, or ask the admin for more (max_image_bytes_per_user)"
                )
            image = Image(
                # The same content can be the image of several users, each with a record of their own.
                id=hashlib.sha256(f"{order.owner_uid} {order.name} {digest}".encode()).hexdigest()[:12],
                name=order.name,
                digest=f"sha256:{digest}",
                size=size,
                created_at=int(time.time()),
                owner_uid=order.owner_uid,
                owner_name=order.owner_name,
                source=reference or "imported",
                reference=reference,
                manifest=manifest,
                init=about.init,
                entrypoint=about.entrypoint,
                env=about.env,
                working_dir=about.working_dir,
                user=about.user,
                labels=about.labels,
            )
            await in_thread(self._place, delivery, image)
        return image

    def _place(self, delivery: Delivery, image: Image) -> None:
        """Content that is here already gets what is said of it now. Raises StepFailed."""
        target = self._images_dir / image.id
        if target.exists():
            # An id is short: who has time to count finds a name that makes it the id of another's image.
            if not manifest.is_same(target, image):
                raise StepFailed(f"the id {image.id} is that of another image already; choose another name")
            manifest.write(target, image)
            return
        manifest.write(delivery.folder, image)
        delivery.place(target)

    def _check_room(self) -> None:
        seen = os.statvfs(self._images_dir)
        free = seen.f_bavail * seen.f_frsize
        if free < _ROOM:
            raise HostNotReady(
                f"an image needs {_ROOM // MIB} MiB of free room and more in {self._images_dir.parent}, there are "
                f"{free // MIB} MiB; free some room and try again"
            )


def _environment(job: Job) -> Path:
    """The service's proxies, in a file that only the worker can read: there may be a password in one."""
    path = job.code / "environment"
    found = {name: os.environ[name] for key in _PROXIES for name in (key, key.upper()) if name in os.environ}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(found, file)
        file.flush()
        os.fchown(descriptor, job.base, job.base)
    return path


def _libraries() -> Path:
    """Where oras and what it needs are installed. Raises HostNotReady."""
    found = importlib.util.find_spec("oras")
    if found is None or found.origin is None:
        raise HostNotReady("the Python package oras is not installed; install banger[service]")
    return Path(found.origin).parents[1]
