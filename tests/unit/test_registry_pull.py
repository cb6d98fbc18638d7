"""Images of a real registry, real workers in their sandbox, and skopeo as the peer."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tests.ocilayout import INDEX, Layout, digest_of, member, tar
from tests.registry import LocalRegistry
from tests.unit.library_bench import Bench
from tests.unit.user_images import CONFIG, LAYERS, ORDER, Pull, listing

from bangerd.core.ports import Order, Progress
from bangerd.model.errors import LimitReached, OCILayerInvalid, PullFailed
from bangerd.model.reference import parse

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("mksquashfs", "sqfstar", "unsquashfs", "docker-registry", "skopeo", "zstd"),
]


async def test_a_pull(bench: Bench, registry: LocalRegistry, layout: Layout, pull: Pull) -> None:
    layout.image("one", LAYERS, config=CONFIG)
    registry.push(f"oci:{layout.path}:one", "team/app:1")
    seen: list[Progress] = []
    image = await pull("team/app:1", seen=seen)
    assert (image.name, image.owner_uid, image.owner_name) == ("mine", 1000, "alice")
    assert image.reference == image.source == f"{registry.host}/team/app:1"
    assert image.manifest == registry.digest("team/app:1")
    assert image.entrypoint == ("/app", "--flag", "two words", "новый")
    assert (image.env, image.init) == (("PATH=/bin", "A=b=c\nd"), "")
    assert (image.working_dir, image.user) == ("/srv", "1000:1000")
    assert image.labels == {"org.example": "ä"}
    content = bench.library.image_path(image).read_bytes()
    assert image.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert listing(bench, image) == {
        "app": "-rwxr-xr-x 0/0", "app2": "-rwxr-xr-x 0/0", "bin": "drwxr-xr-x 0/0",
        "lib": "lrwxrwxrwx 0/0", "usr": "drwxr-xr-x 0/0", "usr/lib": "drwxr-xr-x 0/0",
        "usr/lib/x": "-rw-r--r-- 70000/0",
    }  # fmt: skip
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["resolve", "download", "check", "compress", "check"] or stages[:2] == [
        "resolve",
        "download",
    ]
    last = [progress for progress in seen if progress.stage == "download"][-1]
    assert (last.done, last.unit) == (last.total, "bytes")
    assert last.total > 200_000
    assert bench.open().images() == bench.library.images() == (image,)


async def test_the_same_again(registry: LocalRegistry, layout: Layout, pull: Pull, bench: Bench) -> None:
    layout.image("one", LAYERS)
    registry.push(f"oci:{layout.path}:one", "team/again:1")
    image = await pull("team/again:1")
    seen: list[Progress] = []
    assert await pull("team/again:1", seen=seen) == image
    assert [progress.stage for progress in seen] == ["resolve"]
    seen.clear()
    by_digest = await pull(f"team/again@{image.manifest}", seen=seen)
    assert by_digest.digest == image.digest
    seen.clear()
    assert await pull(f"team/again@{image.manifest}", seen=seen) == by_digest
    assert seen == []  # a digest never leads elsewhere
    other = await pull("team/again:1", Order("mine", 1001, "bob", 1 << 30))
    assert (other.digest, other.owner_uid) == (image.digest, 1001)
    assert other.id != image.id
    assert len(bench.library.images()) == 2
    # The tag moves.
    layout.image("two", [*LAYERS, tar([member("new")])])
    registry.push(f"oci:{layout.path}:two", "team/again:1")
    moved = await pull("team/again:1")
    assert moved.manifest == registry.digest("team/again:1") != image.manifest
    assert "new" in listing(bench, moved)


@pytest.mark.parametrize("compress", ["gzip", "zstd", ""])
async def test_the_same_bytes_however_compressed(
    registry: LocalRegistry, layout: Layout, pull: Pull, bench: Bench, compress: str
) -> None:
    layout.image("one", LAYERS, compress=compress)
    registry.push(f"oci:{layout.path}:one", f"team/packed:{compress or 'plain'}")
    image = await pull(f"team/packed:{compress or 'plain'}")
    assert "usr/lib/x" in listing(bench, image)


async def test_an_index(registry: LocalRegistry, layout: Layout, pull: Pull, bench: Bench) -> None:
    entries = []
    for system, architecture in (("linux", "arm64"), ("linux", "amd64"), ("windows", "amd64")):
        entry = layout.image(architecture + system, [tar([member(f"{system}-{architecture}")])],
                             os=system, architecture=architecture)  # fmt: skip
        entries.append({**entry, "platform": {"os": system, "architecture": architecture}})

    def tag(name: str, chosen: list[Any]) -> None:
        index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": chosen}).encode()
        layout.tag(name, {"mediaType": INDEX, **layout.blob(index)})
        registry.push(f"oci:{layout.path}:{name}", f"team/index:{name}")

    tag("all", entries)
    image = await pull("team/index:all")
    assert "linux-amd64" in listing(bench, image)
    assert image.manifest == digest_of(
        json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode()
    )
    tag("none", [entries[0], entries[2]])
    with pytest.raises(
        PullFailed, match="has no image for linux/amd64; there is linux/arm64, windows/amd64"
    ):
        await pull("team/index:none")
    with pytest.raises(PullFailed, match="is for linux/arm64; this machine runs linux/amd64"):
        await pull(f"team/index@{entries[0]['digest']}")


async def test_the_peer_gets_the_same(
    registry: LocalRegistry, layout: Layout, pull: Pull, tmp_path: Path
) -> None:
    layout.image("one", LAYERS, config=CONFIG)
    registry.push(f"oci:{layout.path}:one", "team/peer")
    image = await pull("team/peer")
    assert image.reference.endswith("/team/peer:latest")
    registry.pull("team/peer", f"dir:{tmp_path}/peer")
    manifest = (tmp_path / "peer/manifest.json").read_bytes()
    assert digest_of(manifest) == image.manifest


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("team/nothing:1", "team/nothing 1: the registry does not have it"),
        (f"team/nothing@sha256:{0:064}", "the registry does not have it"),
    ],
)
async def test_what_is_not_there(pull: Pull, bench: Bench, name: str, says: str) -> None:
    with pytest.raises(PullFailed, match=says):
        await pull(name)
    assert bench.library.images() == ()


async def test_a_hostile_layer(registry: LocalRegistry, layout: Layout, pull: Pull, bench: Bench) -> None:
    bad = tar([member("fine"), member("../../etc/cron.d/x", b"evil")])
    layout.image("bad", [LAYERS[0], bad])
    registry.push(f"oci:{layout.path}:bad", "team/bad")
    with pytest.raises(
        OCILayerInvalid, match=r"member '../../etc/cron.d/x' of layer 2 \(sha256:[0-9a-f]{12}\): its"
    ):
        await pull("team/bad")
    assert bench.library.images() == ()
    assert list((bench.state / "images").iterdir()) == []


async def test_no_room_left_for_the_user(
    registry: LocalRegistry, layout: Layout, pull: Pull, bench: Bench
) -> None:
    layout.image("one", LAYERS)
    registry.push(f"oci:{layout.path}:one", "team/room")
    with pytest.raises(LimitReached, match="you may have 0 MiB more of images"):
        await pull("team/room", Order("mine", 1000, "alice", 5000))
    assert list((bench.state / "images").iterdir()) == []


async def test_where_nobody_may_pull_from(registry: LocalRegistry, bench: Bench, pull: Pull) -> None:
    with pytest.raises(
        PullFailed, match="'169.254.169.254' has an address that images are never pulled from"
    ):
        await bench.library.pull_reference(parse("169.254.169.254/a/b"), ORDER, lambda _p: None)
    with pytest.raises(PullFailed, match="has an address that images are never pulled from"):
        await bench.library.pull_reference(parse("[::ffff:a9fe:a9fe]/a/b"), ORDER, lambda _p: None)
    bench.denied = ("127.0.0.0/8",)
    with pytest.raises(PullFailed, match=r"'127.0.0.1' has an address that images are never pulled from"):
        await bench.open().pull_reference(parse(f"{registry.host}/a/b"), ORDER, lambda _p: None)
    bench.plain, bench.denied = (), ()
    with pytest.raises(
        PullFailed, match="it does not speak https; the admin can allow plain http in insecure_reg"
    ):
        await bench.open().pull_reference(parse(f"{registry.host}/a/b"), ORDER, lambda _p: None)
