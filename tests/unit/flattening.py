"""What tests of flattening share: layers to a squashfs in this process, without a sandbox."""

from collections.abc import Sequence
from pathlib import Path

from bangerd.workers import flatten
from bangerd.workers.layer_tar import Budget
from bangerd.workers.reports import Reports


class Silent(Reports):
    """Reports that go nowhere."""

    def __init__(self) -> None: ...

    def progress(self, stage: str, done: int = 0, total: int = 0, unit: str = "bytes") -> None: ...


def squash(work: Path, layers: Sequence[bytes], budget: Budget | None = None) -> None:
    found = []
    for number, layer in enumerate(layers):
        path = work / f"layer{number}"
        path.write_bytes(layer)
        found.append(flatten.Layer(path, f"layer {number + 1}"))
    tree = flatten.index(found, budget or Budget(1 << 30, 10_000), Silent())
    flatten.squash(tree, found, work / "rootfs.squashfs", 0, Silent())
