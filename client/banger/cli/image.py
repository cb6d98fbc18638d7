"""`banger image …` and `banger kernel …`."""

import time
from typing import Annotated

from cyclopts import Parameter

from banger import render, units
from banger.cli.options import PEOPLE, ImageName, MoreImages, Output
from banger.service import Record, Service


def list_(*, output: Output = PEOPLE) -> None:
    """List the images on this machine."""
    images = Service().list_images()
    _print(images, output, none="no images; `banger image pull` gets the default one")


def kernels(*, output: Output = PEOPLE) -> None:
    """List the kernels on this machine."""
    found = Service().list_kernels()
    _print(
        found,
        output,
        none="no kernels; `banger image pull` gets the default one",
        extra=("RELEASE", "release"),
    )


def pull(
    name: Annotated[str, Parameter(help="The image's name in the catalog; the default image without.")] = "",
    /,
    *,
    output: Output = PEOPLE,
) -> None:
    """Get an image of the catalog, and the default kernel if it is missing. Ctrl-C cancels it."""
    service = Service()
    service.pull_image(name, output.progress(name or "default image"))
    if output.json:
        render.as_json({"pulled": name or "default"})
    elif not output.quiet:
        render.note(f"{name or 'the default image'} is here; `banger vm run` uses it")


def delete(name: ImageName, /, *more: MoreImages, output: Output = PEOPLE) -> None:
    """Remove images that no VM uses, by name or id."""
    service = Service()
    for one in (name, *more):
        service.delete_image(one, output.progress(one))
    if output.json:
        render.as_json([{"name": one, "done": "delete"} for one in (name, *more)])


def show(name: ImageName, /, *, output: Output = PEOPLE) -> None:
    """Show all about one image, and what it has from elsewhere than its distribution's archive."""
    image = Service().find_image(name)
    if output.json:
        render.as_json(image)
        return
    facts = {
        "name": image["name"],
        "id": image["id"],
        "digest": image.get("digest"),
        "size": units.size(image["size"]) if "size" in image else None,
        "made": f"{units.age(time.time() - image['created_at'])} ago" if "created_at" in image else None,
        "source": image.get("source"),
        "init": image.get("init"),
        "env": ", ".join(image.get("env", ())),
        "labels": ", ".join(f"{key}={value}" for key, value in image.get("labels", {}).items()),
    }
    groups = {"image": {key: str(value) for key, value in facts.items() if value}}
    for package in image.get("packages", ()):
        groups[f"{package['name']} {package['version']}"] = {
            "from": package["url"],
            "digest": package["digest"],
            "license": package["license"],
            "project": package["project"],
        }
    render.sections(groups)


def _print(
    records: list[Record], output: Output, *, none: str, extra: tuple[str, str] | None = None
) -> None:
    if output.json:
        render.as_json(records)
        return
    if not records:
        if not output.quiet:
            render.note(none)
        return
    now = time.time()
    headings = ["NAME", "ID", "SIZE", "AGE", "SOURCE"]
    rows = [
        [
            str(record["name"]),
            str(record["id"]),
            units.size(record["size"]) if "size" in record else "-",
            units.age(now - record["created_at"]) if "created_at" in record else "-",
            str(record.get("source", "-")),
        ]
        for record in records
    ]
    if extra is not None:
        headings.insert(1, extra[0])
        for row, record in zip(rows, records, strict=True):
            row.insert(1, str(record.get(extra[1], "-")))
    render.table(headings, rows)
