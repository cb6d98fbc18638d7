"""`banger image …` and `banger kernel …`."""

import os
import shlex
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

from cyclopts import Parameter

from banger import render, units
from banger.cli import complete
from banger.cli.each import each
from banger.cli.options import PEOPLE, ImageName, MoreImages, Output
from banger.errors import Failure, UsageError
from banger.service import Record, Service


def list_(
    *,
    everyone: Annotated[
        bool, Parameter(name="--all", negative=(), help="Also what may be seen of other users' images.")
    ] = False,
    output: Output = PEOPLE,
) -> None:
    """List your images and those that all share."""
    mine = (0, os.getuid())
    images = [image for image in Service().list_images() if everyone or image.get("owner", 0) in mine]
    _print(
        images,
        output,
        none="no images; `banger image pull` gets the default one",
        extra=("OWNER", _owner),
    )


def kernels(*, output: Output = PEOPLE) -> None:
    """List the kernels on this machine."""
    found = Service().list_kernels()
    _print(
        found,
        output,
        none="no kernels; `banger image pull` gets the default one",
        extra=("RELEASE", lambda kernel: str(kernel.get("release", "-"))),
    )


def pull(
    name: Annotated[
        str,
        Parameter(help="Its name in the catalog, or REGISTRY/NAME:TAG in full; the default image without."),
    ] = "",
    /,
    *,
    as_: Annotated[
        str, Parameter(name="--as", allow_leading_hyphen=True, help="What to call a registry's image here.")
    ] = "",
    output: Output = PEOPLE,
) -> None:
    """Get an image of the catalog, or any image of a registry, and the default kernel. Ctrl-C cancels it."""
    service = Service()
    service.pull_image(name, output.progress(as_ or name or "default image"), as_)
    _made(as_ or name, output, "pulled", name or "default")


def import_(
    name: Annotated[str, Parameter(help="What to call it.")],
    file: Annotated[
        str,
        Parameter(
            allow_leading_hyphen=True,
            completer=complete.path,
            help="A root file system (tar), or an image (docker save); - for standard input.",
        ),
    ],
    /,
    *,
    output: Output = PEOPLE,
) -> None:
    """Make an image of yours of a tar, or of a saved container image, however compressed. Ctrl-C cancels it."""
    service = Service()
    with _opened(file) as archive:
        service.import_image(name, archive, output.progress(name))
    _made(name, output, "imported", name)


def _made(name: str, output: Output, done: str, what: str) -> None:
    if output.json:
        render.as_json({done: what})
    elif not output.quiet:
        shown = f" --image {name}" if name else ""
        render.note(f"{name or 'the default image'} is here; `banger vm run{shown}` uses it")


@contextmanager
def _opened(file: str) -> Iterator[int]:
    """The user's file, opened as the user; the service only passes it on."""
    if file == "-":
        if os.isatty(0):
            raise UsageError(
                "standard input is a terminal", hint="pipe an archive in: docker save IMAGE | …"
            )
        yield 0
        return
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise Failure("NoSuchFile", f"cannot read {file!r}", why=exc.strerror or str(exc)) from None
    try:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise Failure(
                "NoSuchFile",
                f"cannot read {file!r}",
                why="it is a folder",
                hint=f"make a tar of it: tar -C {file} -c . | banger image import NAME -",
            )
        yield descriptor
    finally:
        os.close(descriptor)


def delete(name: ImageName, /, *more: MoreImages, output: Output = PEOPLE) -> int:
    """Remove images that no VM uses, by name or id."""
    service = Service()
    return each(
        (name, *more),
        "delete",
        lambda one: service.delete_image(one, output.progress(one)),
        lambda one: f"image {one} is deleted",
        output,
    )


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
        "manifest": image.get("manifest"),
        "owner": _owner(image),
        "command": shlex.join(image.get("entrypoint", ())),
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
    records: list[Record], output: Output, *, none: str, extra: tuple[str, Callable[[Record], str]]
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
    headings.insert(1, extra[0])
    for row, record in zip(rows, records, strict=True):
        row.insert(1, extra[1](record))
    render.table(headings, rows)


def _owner(image: Record) -> str:
    owner = image.get("owner", 0)
    if owner == 0:
        return "shared"
    return "you" if owner == os.getuid() else str(image.get("owner_name") or owner)
