"""What tests of users' images share: a registry, an image with everything, a library to pull into."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.ocilayout import Layout, folder, hardlink, member, symlink, tar
from tests.registry import LocalRegistry
from tests.unit.library_bench import Bench

from bangerd.core.ports import Order, Progress
from bangerd.model.image import Image
from bangerd.model.reference import parse

ORDER = Order("mine", 1000, "alice", 1 << 30)
CONFIG = {
    "Entrypoint": ["/app", "--flag"],
    "Cmd": ["two words", "новый"],
    "Env": ["PATH=/bin", "A=b=c\nd"],
    "Labels": {"org.example": "ä", "huge": "x" * 5000},
    "WorkingDir": "/srv",
    "User": "1000:1000",
}
LAYERS = [
    tar([folder("bin"), member("app", b"#!" + os.urandom(200_000), mode=0o755), symlink("lib", "usr/lib")]),
    tar([member("lib/x", b"1", uid=70_000), hardlink("app2", "app"), member("etc/.wh.nothing")]),
]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRegistry]:
    made = LocalRegistry(tmp_path_factory.mktemp("registry") / "r")
    yield made
    made.close()


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


Pull = Callable[..., Any]


@pytest.fixture
def pull(bench: Bench, registry: LocalRegistry) -> Pull:
    """Pull from the registry, by what stands behind its host."""
    bench.plain = (registry.host,)
    bench.library = bench.open()

    async def run(name: str, order: Order = ORDER, seen: list[Progress] | None = None) -> Image:
        report = (lambda _p: None) if seen is None else seen.append
        return await bench.library.pull_reference(parse(f"{registry.host}/{name}"), order, report)

    return run


def listing(bench: Bench, image: Image) -> dict[str, str]:
    """Path -> mode and owner, as unsquashfs shows them."""
    said = subprocess.run(
        ["unsquashfs", "-lln", "-d", "", bench.library.image_path(image)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return {
        line.split()[5].lstrip("/"): " ".join(line.split()[:2]) for line in said.splitlines() if line[56:]
    }
