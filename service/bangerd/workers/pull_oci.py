"""Makes an image of what a registry has: manifest, configuration and layers, checked, flattened, squashed.

    python3 -m bangerd.workers.pull_oci --host HOST --repository NAME --wanted TAG|DIGEST --dir DIR [--plain]
        [--deny NETWORK]... [--have DIGEST]... [--environment FILE]

Leaves rootfs.squashfs in DIR; its result line is what the image's configuration says, or {"same": digest} when
one of --have is what the reference leads to.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from bangerd.workers import archive, flatten, oci_image, reports
from bangerd.workers.layer_tar import Budget, free_bytes
from bangerd.workers.registry import Registry, keep_away
from bangerd.workers.reports import Reports, WorkerError


def pull(options: argparse.Namespace, report: Reports) -> dict[str, object]:
    """Raises WorkerError."""
    archive.needed("sqfstar", "gzip", "zstd")
    what = f"{options.host}/{options.repository} {options.wanted[:80]}"
    registry = Registry(options.host, options.repository, [options.host] if options.plain else [])
    report.progress("resolve")
    raw, top = registry.manifest(options.wanted, what)
    if top in options.have:
        return {"same": top}
    document = oci_image.parse(raw, what)
    if oci_image.is_index(document):
        chosen = oci_image.choose(document, what)
        raw, _ = registry.manifest(chosen.digest, what)
        document = oci_image.parse(raw, what)
    manifest = oci_image.read_manifest(document, what, options.download)
    config = oci_image.read_config(
        oci_image.parse(registry.document(manifest.config, what), what), len(manifest.layers), what
    )
    layers = _fetch(registry, manifest, config, options.dir, report)
    tree = flatten.index(layers, Budget(options.unpacked, options.members), report)
    flatten.squash(tree, layers, options.dir / "rootfs.squashfs", config.created, report)
    for layer in layers:
        layer.path.unlink(missing_ok=True)
    return {"manifest": top, **config.facts(flatten.find_init(tree, config.command))}


def _fetch(
    registry: Registry, manifest: oci_image.Manifest, config: oci_image.Config, folder: Path, report: Reports
) -> list[flatten.Layer]:
    """All layers, each into a file of its own; one that comes twice is fetched once."""
    total = sum(layer.size for layer in {*manifest.layers})
    if total > free_bytes(folder):
        raise WorkerError(
            "space", f"the layers come to {total >> 20} MiB, more than is free; free some room"
        )
    done = 0

    def tell(size: int) -> None:
        nonlocal done
        done += size
        report.progress("download", done, total)

    report.progress("download", 0, total)
    found = []
    names = oci_image.name_layers(manifest.layers)
    for layer, name, diff_id in zip(manifest.layers, names, config.diff_ids, strict=True):
        path = folder / layer.digest.replace(":", "-")
        if not path.exists():
            registry.blob(layer, path, name, tell)
        found.append(flatten.Layer(path, name, diff_id))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="make an image of what a registry has")
    parser.add_argument("--host", required=True)
    parser.add_argument("--repository", required=True)
    parser.add_argument("--wanted", required=True, help="tag or digest")
    parser.add_argument("--plain", action="store_true", help="plain http")
    parser.add_argument("--deny", action="append", default=[], help="network that is not to be reached")
    parser.add_argument("--have", action="append", default=[], help="digest that is here already")
    parser.add_argument("--environment", type=Path, help="JSON with further variables: proxies")
    flatten.add_arguments(parser)
    options = parser.parse_args()
    keep_away(options.deny)
    if options.environment:
        os.environ.update(json.loads(options.environment.read_text()))
    return reports.run(lambda report: pull(options, report))


if __name__ == "__main__":
    sys.exit(main())
