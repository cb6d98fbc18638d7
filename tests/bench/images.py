"""An image of a registry beside the machine, against the chain of tools that do the same by hand, as root."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from tests.bench.host import Host
from tests.bench.registry import REGISTRY
from tests.ocilayout import Layout, folder, member, tar
from tests.registry import LocalRegistry

NAME = f"{REGISTRY}/bench/image:1"
LAYERS, FILES, MEAN = 3, 3000, 20_000  # layers, files in each, bytes of a file on average


@contextmanager
def served(host: Host, place: Path) -> Iterator[None]:
    """A registry in the machine's network that has the image."""
    place.mkdir()
    registry = LocalRegistry(place / "registry", 5000, host.machine.netns.within)
    try:
        layout = Layout(place / "layout")
        layout.image("image", [_layer(number) for number in range(LAYERS)])
        registry.push(f"oci:{layout.path}:image", "bench/image:1")
        yield
    finally:
        registry.close()
        shutil.rmtree(place)


def _layer(number: int) -> bytes:
    random = Random(number)
    words = [bytes(random.choices(b"abcdefghijklmnopqrstuvwxyz_", k=8)) for _ in range(5000)]
    members = [folder(f"layer{number}/{part}") for part in range(FILES // 100)]
    for one in range(FILES):
        text = b" ".join(random.choices(words, k=int(random.expovariate(9 / MEAN)) + 1))
        members.append(member(f"layer{number}/{one // 100}/file{one}", text))
    return tar(members)


def by_banger(host: Host) -> float:
    """Milliseconds of `banger image pull`."""
    done = host.once("banger", "image", "pull", NAME, "--as", "bench")
    host.once("banger", "image", "delete", "bench")
    return (done.end - done.start) * 1000


def by_hand(host: Host, place: Path) -> dict[str, float]:
    """Milliseconds of skopeo, umoci and mksquashfs, and of all of them."""
    place.mkdir()
    commands = {
        "skopeo copy": ["skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{NAME}", f"oci:{place}/oci:x"],
        "umoci unpack": ["umoci", "--log=error", "unpack", "--image", f"{place}/oci:x", f"{place}/bundle"],
        "mksquashfs": ["mksquashfs", f"{place}/bundle/rootfs", f"{place}/squashfs", "-comp", "lz4", "-quiet",
                       "-no-progress", "-processors", "2", "-mem", "64M"],
    }  # fmt: skip
    took = {}
    for name, command in commands.items():
        begun = time.perf_counter()
        subprocess.run([*host.machine.netns.within, *command], check=True, stdout=subprocess.DEVNULL)
        took[name] = (time.perf_counter() - begun) * 1000
    shutil.rmtree(place)
    return took
