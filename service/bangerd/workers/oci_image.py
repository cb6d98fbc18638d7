"""What the JSON of an image says: index, manifest, configuration. Somebody else wrote it; it may say anything."""

import calendar
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bangerd.model.reference import DIGEST
from bangerd.workers.reports import WorkerError

MANIFEST_LIMIT = CONFIG_LIMIT = 4 << 20  # bytes, as registries limit them
LAYERS_LIMIT = 500
_TEXTS_LIMIT = 16 * 1024  # bytes of all variables, or of a whole command
_LABEL_LIMIT, _LABELS_LIMIT = 4096, 16 * 1024
INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_PLATFORM = ("linux", "amd64")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob: where it is, and how much there has to be."""

    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """What the image's maker wants to be run, and the digests of the plain layers."""

    diff_ids: tuple[str, ...]
    created: int = 0
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    labels: dict[str, str] = field(default_factory=dict)

    def facts(self, init: str) -> dict[str, object]:
        """As a worker's result tells them."""
        return {
            "init": init,
            "entrypoint": [] if init else list(self.command),
            "env": list(self.env),
            "working_dir": self.working_dir,
            "user": self.user,
            "labels": self.labels,
        }


def parse(raw: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises WorkerError."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as exc:
        raise _bad(what, f"no JSON: {exc}") from None
    if not isinstance(value, dict):
        raise _bad(what, "no JSON object")
    return value


def is_index(document: dict[str, Any]) -> bool:
    return document.get("mediaType") in INDEXES or ("manifests" in document and "layers" not in document)


def choose(index: dict[str, Any], what: str) -> Descriptor:
    """The manifest for this kind of machine. Raises WorkerError saying for which there are."""
    entries = [entry for entry in _list(index, "manifests", what) if isinstance(entry, dict)]
    seen = []
    for entry in entries:
        platform = entry.get("platform")
        if not isinstance(platform, dict):
            continue
        kind = (str(platform.get("os")), str(platform.get("architecture")))
        if kind == _PLATFORM:
            return _descriptor(entry, what, MANIFEST_LIMIT)
        seen.append("/".join(kind)[:40])
    if len(entries) == 1 and not seen:  # as archives have it
        return _descriptor(entries[0], what, MANIFEST_LIMIT)
    there = ", ".join(sorted(set(seen) - {"unknown/unknown"})[:10]) or "none"
    raise WorkerError("failed", f"{what} has no image for {'/'.join(_PLATFORM)}; there is {there}")


def read_manifest(document: dict[str, Any], what: str, download_limit: int) -> Manifest:
    """Raises WorkerError."""
    if document.get("schemaVersion") != 2 or "config" not in document:
        raise _bad(what, "it is not of the second version of the format, the only one that is read here")
    layers = _list(document, "layers", what)
    if len(layers) > LAYERS_LIMIT:
        raise _bad(what, f"{len(layers)} layers; {LAYERS_LIMIT} are possible")
    found = Manifest(
        _descriptor(document["config"], what, CONFIG_LIMIT),
        tuple(_descriptor(layer, what, download_limit) for layer in layers),
    )
    total = sum(layer.size for layer in found.layers)
    if total > download_limit:
        raise WorkerError(
            "failed",
            f"{what} comes to {total >> 20} MiB of layers; {download_limit >> 20} MiB are possible here",
        )
    return found


def read_config(document: dict[str, Any], layers: int, what: str) -> Config:
    """Raises WorkerError, also when it does not fit the number of layers or this kind of machine."""
    kind = (document.get("os"), document.get("architecture"))
    if kind != _PLATFORM:
        shown = "/".join(str(part)[:20] for part in kind)
        raise WorkerError("failed", f"{what} is for {shown}; this machine runs {'/'.join(_PLATFORM)}")
    roots = document.get("rootfs")
    diff_ids = roots.get("diff_ids") if isinstance(roots, dict) else None
    if not isinstance(diff_ids, list) or len(diff_ids) != layers:
        raise _bad(what, f"{layers} layers, but its configuration does not name as many")
    if not all(isinstance(one, str) and DIGEST.fullmatch(one) for one in diff_ids):
        raise _bad(what, "a layer's digest that is none")
    config = document.get("config") or {}
    if not isinstance(config, dict):
        raise _bad(what, "a configuration that is none")
    command = _texts(config, "Entrypoint", what) + _texts(config, "Cmd", what)
    env = _texts(config, "Env", what)
    if any("=" not in one[1:] for one in env):
        raise _bad(what, "a variable without '='")
    return Config(
        diff_ids=tuple(diff_ids),
        created=_created(document.get("created")),
        command=command,
        env=env,
        working_dir=_absolute(_text(config, "WorkingDir", what)),
        user=_text(config, "User", what),
        labels=_labels(config.get("Labels")),
    )


def _descriptor(entry: object, what: str, limit: int) -> Descriptor:
    if isinstance(entry, dict):
        digest, size = entry.get("digest"), entry.get("size")
        if isinstance(digest, str) and DIGEST.fullmatch(digest) and type(size) is int and size >= 0:
            if size > limit:
                raise _bad(what, f"a part of {size} bytes; {limit} are possible")
            return Descriptor(digest, size)
    raise _bad(what, "a part without digest (sha256) or size")


def _list(document: dict[str, Any], key: str, what: str) -> list[Any]:
    value = document.get(key)
    if not isinstance(value, list):
        raise _bad(what, f"no list of {key}")
    return value


def _texts(config: dict[str, Any], key: str, what: str) -> tuple[str, ...]:
    value = config.get(key) or []
    if not isinstance(value, list) or not all(isinstance(one, str) and _plain(one) for one in value):
        raise _bad(what, f"{key} that is no list of texts")
    if sum(len(one.encode()) + 1 for one in value) > _TEXTS_LIMIT:
        raise _bad(what, f"{key} of more than {_TEXTS_LIMIT} bytes")
    return tuple(value)


def _text(config: dict[str, Any], key: str, what: str) -> str:
    value = config.get(key) or ""
    if not isinstance(value, str) or not _plain(value) or len(value) > 4096:
        raise _bad(what, f"{key} that is no text")
    return value


def _absolute(folder: str) -> str:
    return f"/{folder.lstrip('/')}" if folder else ""


def _plain(text: str) -> bool:
    """Can be an argument of a program: no NUL, and no half of a character."""
    return "\0" not in text and not re.search("[\ud800-\udfff]", text)


def _labels(value: object) -> dict[str, str]:
    """Those that are texts of some size; they serve people only, and the rest is left out."""
    kept: dict[str, str] = {}
    room = _LABELS_LIMIT
    for key, text in value.items() if isinstance(value, dict) else ():
        if isinstance(key, str) and isinstance(text, str) and _plain(key + text):
            size = len(key.encode()) + len(text.encode())
            if size <= min(room, _LABEL_LIMIT):
                kept[key] = text
                room -= size
    return kept


def _created(value: object) -> int:
    """Unix time of an RFC 3339 text, 0 for anything else; fractions and time zones do not matter here."""
    try:
        return max(0, calendar.timegm(time.strptime(str(value)[:19], "%Y-%m-%dT%H:%M:%S"))) & 0xFFFFFFFF
    except ValueError:
        return 0


def name_layers(manifest: Sequence[Descriptor]) -> list[str]:
    """As errors call them."""
    return [f"layer {number} ({layer.digest[:19]})" for number, layer in enumerate(manifest, 1)]


def _bad(what: str, why: str) -> WorkerError:
    return WorkerError("failed", f"{what} cannot be used: {why}")
