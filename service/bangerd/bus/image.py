"""com.thaloco.Banger1.Image"""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from bangerd.bus import names, options
from bangerd.bus.core import Core
from bangerd.bus.export import Call, Interface, exported, shown
from bangerd.bus.guards import inspect_image, manage_image
from bangerd.model.errors import NoSuchImage
from bangerd.model.image import Image

OPTIONS = "options:a{sv}"


class ImageInterface(Interface):
    """One image each, at …/image/<id>."""

    name = names.IMAGE_INTERFACE

    def __init__(self, core: Core) -> None:
        self._core = core

    def get(self, leaf: str) -> Image:
        for image in self._core.images.images():
            if image.id == leaf:
                return image
        raise NoSuchImage(leaf)

    def leaves(self) -> Iterable[str]:
        return (image.id for image in self._core.images.images())

    @shown("s")
    def Name(self, image: Image) -> str:
        return image.name

    @exported(inspect_image, OPTIONS, "image:a{sv}")
    async def Describe(self, _call: Call, image: Image, given: dict[str, Any]) -> dict[str, Any]:
        options.read(given, {}, "Describe")
        return options.write(describe(image))

    @exported(manage_image, OPTIONS, "job:o")
    async def Delete(self, call: Call, image: Image, given: dict[str, Any]) -> str:
        options.read(given, {}, "Delete")
        return names.job_path(self._core.images.remove_image(image, call.caller).number)


def summary(image: Image) -> dict[str, Any]:
    """What everybody may see."""
    return {
        "path": options.Path(names.image_path(image.id)),
        "id": image.id,
        "name": image.name,
        "owner": image.owner_uid,
    }


def describe(image: Image) -> dict[str, Any]:
    return summary(image) | {
        "owner_name": image.owner_name,
        "digest": image.digest,
        "size": image.size,
        "created_at": image.created_at,
        "source": image.source,
        "reference": image.reference,
        "manifest": image.manifest,
        "init": image.init,
        "entrypoint": list(image.entrypoint),
        "working_dir": image.working_dir,
        "user": image.user,
        "env": list(image.env),
        "labels": dict(image.labels),
        "packages": [asdict(package) for package in image.packages],
    }
