"""manifest.json: what an image or a kernel is, beside its files. Written by bangerd alone."""

import json
import logging
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from bangerd.model.image import Image, Kernel, Package

log = logging.getLogger(__name__)

NAME = "manifest.json"
_Described = TypeVar("_Described", Image, Kernel)


def write(folder: Path, described: Image | Kernel, **further: str) -> None:
    """Replace the manifest. `further` are keys of the library's own, read back by read_further()."""
    new = folder / f".{NAME}.new"
    new.write_text(json.dumps({**asdict(described), **further}, indent=2) + "\n")
    new.chmod(0o644)
    new.rename(folder / NAME)


def read_further(folder: Path, key: str) -> str:
    """ "" when the manifest has no such key."""
    return str(json.loads((folder / NAME).read_text()).get(key, ""))


def is_same(folder: Path, image: Image) -> bool:
    """Whether the folder's manifest is about this image: owner, name and content. One that is damaged may be."""
    try:
        there = _read(folder / NAME, Image)
    except (OSError, ValueError, TypeError, AttributeError):
        return True
    return (there.owner_uid, there.name, there.digest) == (image.owner_uid, image.name, image.digest)


def load_all(parent: Path, kind: type[_Described]) -> dict[str, _Described]:
    """All that is described in the folders of `parent`, by id. What cannot be read is left out and logged."""
    found = {}
    for folder in sorted(parent.iterdir()):
        try:
            described = _read(folder / NAME, kind)
        except (OSError, ValueError, TypeError, AttributeError) as exc:
            log.warning("%s is left out: %s", folder, exc)
            continue
        if described.id == folder.name:
            found[described.id] = described
        else:
            log.warning("%s is left out: its manifest is that of %s", folder, described.id)
    return found


def _read(path: Path, kind: type[_Described]) -> _Described:
    data = json.loads(path.read_text())
    hints = get_type_hints(kind)
    values = {}
    for field in fields(kind):
        if field.name not in data and (field.default is not MISSING or field.default_factory is not MISSING):
            continue  # written by an older version
        value = data.get(field.name)
        wanted = get_origin(hints[field.name]) or hints[field.name]
        if wanted is tuple and isinstance(value, list):
            value = _items(get_args(hints[field.name])[0], value)
        if not isinstance(value, wanted):
            raise TypeError(f"{field.name} is missing or of the wrong type")
        values[field.name] = value
    return kind(**values)


def _items(kind: Any, values: list[Any]) -> tuple[Any, ...]:
    """Raises TypeError when a package has other keys."""
    return tuple(kind(**value) for value in values) if kind is Package else tuple(values)
