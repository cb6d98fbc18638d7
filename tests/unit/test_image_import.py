"""Images of files and pipes that a user hands over."""

import asyncio
import gzip
import json
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest
from tests.ocilayout import Layout, digest_of, folder, member, tar
from tests.registry import LocalRegistry
from tests.unit.library_bench import Bench
from tests.unit.user_images import CONFIG, LAYERS, ORDER, Pull, listing

from bangerd.core.ports import Order
from bangerd.host import manifest
from bangerd.model.errors import DigestMismatch, OCILayerInvalid, PullFailed, StepFailed
from bangerd.model.image import Image

pytestmark = [
    pytest.mark.root,
    pytest.mark.needs("mksquashfs", "sqfstar", "unsquashfs", "docker-registry", "skopeo", "zstd"),
]


async def handed_over(bench: Bench, source: int) -> Image:
    try:
        return await bench.library.import_image(source, ORDER, lambda _p: None)
    finally:
        os.close(source)


ROOTFS = tar([folder("."), folder("sbin"), member("sbin/init", b"x", mode=0o755), member("b", b"2", uid=5)])


@pytest.mark.parametrize("tool", ["cat", "gzip", "zstd", "xz", "bzip2"])
async def test_import_of_a_root_file_system(bench: Bench, tmp_path: Path, tool: str) -> None:
    packed = subprocess.run([tool], input=ROOTFS, stdout=subprocess.PIPE, check=True).stdout
    (tmp_path / "file").write_bytes(packed)
    image = await handed_over(bench, os.open(tmp_path / "file", os.O_RDONLY))
    assert (image.name, image.owner_uid, image.source, image.init) == (
        "mine",
        1000,
        "imported",
        "/sbin/init",
    )
    assert (image.entrypoint, image.env, image.manifest) == ((), (), "")
    assert listing(bench, image)["b"] == "-rw-r--r-- 5/0"


async def test_import_from_a_pipe_that_does_not_wait(bench: Bench) -> None:
    read, write = os.pipe()
    os.set_blocking(read, False)
    task = asyncio.create_task(handed_over(bench, read))
    packed = gzip.compress(ROOTFS)
    for block in (packed[:100], packed[100:]):
        await asyncio.sleep(0.3)
        os.write(write, block)
    os.close(write)
    assert (await task).init == "/sbin/init"


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
async def test_import_of_saved_images(
    bench: Bench, layout: Layout, registry: LocalRegistry, pull: Pull, kind: str
) -> None:
    layout.image("one", LAYERS, config=CONFIG)
    file = layout.path / "saved.tar"
    subprocess.run(["skopeo", "copy", "-q", f"oci:{layout.path}:one", f"{kind}:{file}:a/b:c"], check=True)
    image = await handed_over(bench, os.open(file, os.O_RDONLY))
    registry.push(f"oci:{layout.path}:one", "team/same")
    pulled = await pull("team/same", Order("other", 1000, "alice", 1 << 30))
    assert image.digest == pulled.digest
    assert (image.entrypoint, image.env, image.user) == (pulled.entrypoint, pulled.env, pulled.user)


def archived(parts: dict[str, bytes]) -> bytes:
    return tar([member(name, content) for name, content in parts.items()])


ABOUT = json.dumps(
    {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": [digest_of(ROOTFS)]}}
).encode()
DIGEST_1 = f"{1:064}"
INDEXED = json.dumps({"manifests": [{"digest": f"sha256:{DIGEST_1}", "size": 3}]}).encode()


def docker(manifest: str) -> bytes:
    return archived({"manifest.json": manifest.encode(), "c.json": ABOUT, "l/layer.tar": ROOTFS})


def oci(index: bytes, **more: bytes) -> bytes:
    return archived({"oci-layout": b"{}", "index.json": index, **more})


NO_IMAGES: list[tuple[bytes, type[Exception], str]] = [
    (b"", OCILayerInvalid, "the archive is empty"),
    (b"PK\3\4" + bytes(600), OCILayerInvalid, "the archive: no tar archive that can be read"),
    (tar([]), OCILayerInvalid, "the archive has nothing in it that could be an image"),
    (
        tar([member("a/../../b")]),
        OCILayerInvalid,
        r"member 'a/../../b' of the archive: its path leads outside",
    ),
    (gzip.compress(ROOTFS)[:-20], DigestMismatch, "compressed data is damaged: gzip: stdin: unexpected end"),
    (docker('[{"Layers": []}, {"Layers": []}]'), OCILayerInvalid, "holds 2 images; save one"),
    (docker('[{"Config": "c.json", "Layers": ["x"]}]'), OCILayerInvalid, "lacks 'x'"),
    (docker('[{"Config": "../c", "Layers": []}]'), OCILayerInvalid, "lacks '../c'"),
    (docker('[{"Config": 5, "Layers": []}]'), OCILayerInvalid, "lacks '5'"),
    (docker('[{"Config": "c.json", "Layers": 5}]'), OCILayerInvalid, "no list of layers"),
    (docker('[{"Config": "c.json", "Layers": []}]'), PullFailed, "does not name as many"),
    (docker('[{"Config": "c.json", "Layers": ["c.json"]}]'), OCILayerInvalid, "no tar"),
    (oci(b"[]"), PullFailed, "no JSON object"),
    (oci(b'{"manifests": []}'), PullFailed, "no image for"),
    (oci(INDEXED), OCILayerInvalid, "lacks 'blobs/sha256/0"),
    (oci(INDEXED, **{f"blobs/sha256/{DIGEST_1}": b"{} "}), DigestMismatch, "holds other bytes"),
]


@pytest.mark.parametrize("number", range(len(NO_IMAGES)), ids=[says[:40] for _, _, says in NO_IMAGES])
async def test_import_of_what_is_no_image(bench: Bench, tmp_path: Path, number: int) -> None:
    raw, error, says = NO_IMAGES[number]
    (tmp_path / "file").write_bytes(raw)
    with pytest.raises(error, match=says):
        await handed_over(bench, os.open(tmp_path / "file", os.O_RDONLY))
    assert bench.library.images() == ()


async def test_files_that_only_look_like_an_image_are_root_file_systems(
    bench: Bench, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(
        archived({"manifest.json": b'{"name": "app"}', "index.json": b"", "bin/x": b"1"})
    )
    image = await handed_over(bench, os.open(tmp_path / "file", os.O_RDONLY))
    assert "bin/x" in listing(bench, image)


async def test_an_id_that_is_that_of_anothers_image(bench: Bench, tmp_path: Path) -> None:
    """48 bits can be found by trying names; what others make VMs from is not to be had by that."""
    (tmp_path / "file").write_bytes(ROOTFS)
    image = await handed_over(bench, os.open(tmp_path / "file", os.O_RDONLY))
    assert await handed_over(bench, os.open(tmp_path / "file", os.O_RDONLY)) == replace(
        image, created_at=ANY
    )
    folder_of_it = bench.library.image_path(image).parent
    for theirs in (
        replace(image, owner_uid=0, name="debian-bookworm"),
        replace(image, owner_uid=1001),
        replace(image, digest="sha256:" + "0" * 64),
    ):
        manifest.write(folder_of_it, theirs)
        with pytest.raises(StepFailed, match=f"the id {image.id} is that of another image"):
            await handed_over(bench, os.open(tmp_path / "file", os.O_RDONLY))
        assert bench.open().images() == (theirs,)


async def test_import_of_no_file(bench: Bench, tmp_path: Path) -> None:
    for descriptor, says in (
        (os.open(tmp_path, os.O_RDONLY), "no file and no pipe"),
        (os.open("/dev/zero", os.O_RDONLY), "no file and no pipe"),
        (os.open(tmp_path / "w", os.O_WRONLY | os.O_CREAT), "Bad file descriptor"),
    ):
        with pytest.raises((OCILayerInvalid, PullFailed), match=says):
            await handed_over(bench, descriptor)


async def test_an_import_cancelled_while_its_pipe_is_open(bench: Bench) -> None:
    read, write = os.pipe()
    reading = asyncio.Event()
    task = asyncio.create_task(
        bench.library.import_image(read, ORDER, lambda p: reading.set() if p.stage == "read" else None)
    )
    await reading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.close(read)
    with pytest.raises(BrokenPipeError):  # nobody has it any more
        os.write(write, b"x")
    os.close(write)
    assert bench.leftovers() == []


async def test_a_stranger_gets_no_descriptor(bench: Bench) -> None:
    """The socket that hands a file over asks who comes."""
    read, write = os.pipe()
    reading = asyncio.Event()
    bench.worker_does("")
    task = asyncio.create_task(
        bench.library.import_image(read, ORDER, lambda p: reading.set() if p.stage == "read" else None)
    )
    while not (found := list((bench.state / "work").glob("*/code/handover"))) and not task.done():
        await asyncio.sleep(0)
    with socket.socket(socket.AF_UNIX) as channel:
        here = os.open(found[0].parent, os.O_PATH)
        channel.setblocking(False)
        await asyncio.get_running_loop().sock_connect(channel, f"/proc/self/fd/{here}/handover")
        os.close(here)
        await reading.wait()
        assert socket.recv_fds(channel, 1, 1)[:2] == (b"", [])
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    os.close(read)
    os.close(write)
