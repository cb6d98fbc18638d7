"""What somebody hands over as a file: a root file system as a tar, or an image as `docker save`, `podman save`,
`skopeo copy … oci-archive:` write it. Told apart by what is in it, not by its name."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from bangerd.workers import flatten, oci_image
from bangerd.workers.layer_tar import Budget, Stream, copy, headers, unpacked
from bangerd.workers.layer_tree import Kind, Tree
from bangerd.workers.oci_image import Config, Descriptor
from bangerd.workers.reports import Reports, WorkerError

_WHAT = "the archive"


@dataclass(frozen=True, slots=True)
class Content:
    """Layers, or a root file system as the only one; its tree when it has been read already."""

    layers: tuple[flatten.Layer, ...]
    config: Config
    tree: Tree | None = None


def open_archive(path: Path, folder: Path, budget: Budget, report: Reports) -> Content:
    """Unpacks an image's parts into `folder`, under names of our own. Raises WorkerError."""
    whole = flatten.Layer(path, _WHAT)
    tree = flatten.index([whole], Budget(budget.bytes, budget.members), report)
    if not ((tree.root.entries or {}).keys() & {"oci-layout", "manifest.json"}):
        return Content((whole,), Config(()), tree)
    parts = _Parts(path, folder, tree)
    if parts.has("oci-layout") and parts.has("index.json"):
        parts.unpack()
        path.unlink()
        return _of_layout(parts)
    if (manifests := parts.docker()) is not None:
        path.unlink()
        return _of_docker(parts, manifests)
    return Content((whole,), Config(()), tree)


class _Parts:
    """The files of an archive, by their names in it."""

    def __init__(self, path: Path, folder: Path, tree: Tree) -> None:
        self._path = path
        self._folder = folder
        self._tree = tree

    def unpack(self) -> None:
        """Every file with content, each as a number; names and links stay in the tree."""
        self._folder.mkdir(exist_ok=True)
        wanted = {node.source[1]: node for _, node in self._tree.walk() if node.kind is Kind.FILE}
        with unpacked(self._path) as plain:
            for number, header, tar in headers(Stream(plain, _WHAT, None), _WHAT):
                content = tar.extractfile(header) if number in wanted else None
                if content is not None:
                    with (self._folder / str(number)).open("wb") as file:
                        copy(content, file, header.size, _WHAT)

    def has(self, name: str) -> bool:
        node = self._tree.find(name)
        return node is not None and node.kind is Kind.FILE

    def path(self, name: object) -> Path:
        """Raises WorkerError for what is not in the archive."""
        node = self._tree.find(name) if isinstance(name, str) and "\0" not in name else None
        if node is None or node.kind is not Kind.FILE:
            raise WorkerError("layer", f"{_WHAT} lacks {str(name)[:200]!a}, which its image is made of")
        return self._folder / str(node.source[1])

    def read(self, name: object) -> bytes:
        path = self.path(name)
        if path.stat().st_size > oci_image.MANIFEST_LIMIT:
            raise WorkerError("layer", f"{str(name)[:200]!a} of {_WHAT} is larger than any such file")
        return path.read_bytes()

    def docker(self) -> list[object] | None:
        """manifest.json of `docker save`, or None when the file of that name is something else's."""
        if not self.has("manifest.json"):
            return None
        self.unpack()
        try:
            found = json.loads(self.read("manifest.json"))
        except (ValueError, RecursionError):
            return None
        shaped = isinstance(found, list) and all(isinstance(one, dict) and "Layers" in one for one in found)
        return found if shaped else None

    def blob(self, wanted: Descriptor) -> Path:
        """Raises WorkerError when it is not what its digest says."""
        kind, _, value = wanted.digest.partition(":")
        path = self.path(f"blobs/{kind}/{value}")
        with path.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        if digest != wanted.digest or path.stat().st_size != wanted.size:
            raise WorkerError("digest", f"{_WHAT} holds other bytes under {wanted.digest} than these")
        return path

    def document(self, wanted: Descriptor) -> bytes:
        return self.blob(wanted).read_bytes()


def _of_layout(parts: _Parts) -> Content:
    document = oci_image.parse(parts.read("index.json"), _WHAT)
    for _ in range(3):  # an index may have indexes
        if not oci_image.is_index(document):
            break
        document = oci_image.parse(parts.document(oci_image.choose(document, _WHAT)), _WHAT)
    manifest = oci_image.read_manifest(document, _WHAT, 1 << 62)
    config = oci_image.read_config(
        oci_image.parse(parts.document(manifest.config), _WHAT), len(manifest.layers), _WHAT
    )
    named = zip(manifest.layers, oci_image.name_layers(manifest.layers), config.diff_ids, strict=True)
    return Content(tuple(flatten.Layer(parts.blob(one), name, diff) for one, name, diff in named), config)


def _of_docker(parts: _Parts, manifests: list[object]) -> Content:
    if len(manifests) != 1:
        raise WorkerError("layer", f"{_WHAT} holds {len(manifests)} images; save one alone")
    (only,) = manifests
    assert isinstance(only, dict)  # noqa: S101, seen above
    names = only["Layers"]
    if not isinstance(names, list) or len(names) > oci_image.LAYERS_LIMIT:
        raise WorkerError(
            "layer", f"{_WHAT} has no list of layers, or one of more than {oci_image.LAYERS_LIMIT}"
        )
    config = oci_image.read_config(oci_image.parse(parts.read(only.get("Config")), _WHAT), len(names), _WHAT)
    layers = [
        flatten.Layer(parts.path(name), f"layer {number} ({diff[:19]})", diff)
        for number, (name, diff) in enumerate(zip(names, config.diff_ids, strict=True), 1)
    ]
    return Content(tuple(layers), config)
