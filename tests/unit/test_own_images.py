"""Images of users' own: whose they are, what they are called, how many there may be."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fakes.ports import IMAGE, World
from tests.fakes.service import ALICE, BOB, Service, ended

from bangerd.config import Config
from bangerd.core import jobs
from bangerd.core.images import Images
from bangerd.core.requests import CreateRequest
from bangerd.model.errors import (
    ImageExists,
    ImageInUse,
    InvalidSpec,
    LimitReached,
    NoSuchImage,
    StepFailed,
    WrongState,
)
from bangerd.model.image import Image
from bangerd.model.reference import Reference, check_image_name, parse

ALPINE = "docker.io/library/alpine"


class Desk(Service):
    """The core with its images."""

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(World(), config)
        self.images = Images(self.ports, self.jobs, self.vms)

    def own(self, name: str) -> list[Image]:
        return [image for image in self.images.images() if image.name == name]

    async def imported(self, name: str, by: object = ALICE) -> Image:
        read, write = os.pipe()
        os.write(write, b"content")
        os.close(write)
        await ended(self.images.import_image(name, read, by))  # type: ignore[arg-type]
        return self.own(name)[-1]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with Desk() as made:
        yield made


def open_descriptors() -> set[str]:
    """But for the one that lists them."""
    return {str(number) for number in range(256) if Path(f"/proc/self/fd/{number}").is_symlink()}


async def test_a_pull_is_the_callers_own(desk: Desk) -> None:
    job = desk.images.pull(ALPINE, ALICE)
    await ended(job)
    (image,) = desk.own(f"{ALPINE}:latest")
    assert (image.owner_uid, image.owner_name, image.reference) == (1000, "alice", f"{ALPINE}:latest")
    assert job.result == {"image": image.id, "name": image.name, "digest": image.digest, "size": 1000}
    for name in (ALPINE, f"{ALPINE}:latest", image.id):
        assert desk.images.find_image(name, 1000) == image
        with pytest.raises(NoSuchImage):
            desk.images.find_image(name, 1001)
        with pytest.raises(NoSuchImage):
            desk.images.find_image(name, -1)
        with pytest.raises(NoSuchImage):
            await desk.run(CreateRequest(image=name), BOB)
        assert not desk.vms.resolve(CreateRequest(image=name), 1001)["image_present"]
    vm = await desk.run(CreateRequest(name="web", image=ALPINE))
    assert vm.spec.image == image.id
    with pytest.raises(ImageInUse, match="is in use by web"):
        desk.images.remove_image(image, ALICE)


async def test_a_name_of_ones_own(desk: Desk) -> None:
    await ended(desk.images.pull(f"{ALPINE}:3.20", ALICE, "alpine"))
    await ended(desk.images.pull(f"{ALPINE}:3.19", BOB, "alpine"))
    alices, bobs = desk.own("alpine")
    assert desk.images.find_image("alpine", 1000) == alices
    assert desk.images.find_image("alpine", 1001) == bobs
    for name, says in (
        ("debian-bookworm", "is the name of an image of the catalog"),
        ("a/b", "is no name for an image"),
        ("UPPER", "is no name for an image"),
        ("-x", "is no name"),
        ("x" * 64, "1 to 63"),
    ):
        with pytest.raises(InvalidSpec, match=says):
            desk.images.pull(ALPINE, ALICE, name)
        read, write = os.pipe()
        before = open_descriptors()
        with pytest.raises(InvalidSpec, match=says):
            desk.images.import_image(name, read, ALICE)
        assert before - open_descriptors() == {str(read)}
        os.close(write)
    with pytest.raises(InvalidSpec, match="has no other name"):
        desk.images.pull("debian-trixie", ALICE, "mine")
    with pytest.raises(
        NoSuchImage, match=r"has no image 'alpine'; it has .* such as docker.io/library/alpine"
    ):
        desk.images.pull("alpine", ALICE)


async def test_a_shared_image_gives_way_to_ones_own_of_that_name(desk: Desk) -> None:
    mine = await desk.imported("tools")
    desk.world.images.append(
        Image(**{**fields(IMAGE), "id": "c" * 12, "name": "tools", "created_at": 2**33})
    )
    assert desk.images.find_image("tools", 1000) == mine
    assert desk.images.find_image("tools", 1001).id == "c" * 12


def fields(image: Image) -> dict[str, object]:
    return {name: getattr(image, name) for name in Image.__slots__}


async def test_a_tag_that_moves(desk: Desk) -> None:
    """The earlier image goes, unless a VM is made from it."""
    for _ in range(2):
        await ended(desk.images.pull(ALPINE, ALICE))
    assert len(desk.own(f"{ALPINE}:latest")) == 1
    await desk.run(CreateRequest(name="web", image=ALPINE))
    await ended(desk.images.pull(ALPINE, ALICE))
    await ended(desk.images.pull(ALPINE, BOB))
    assert [image.owner_uid for image in desk.own(f"{ALPINE}:latest")] == [1000, 1000, 1001]


async def test_joined_and_refused(desk: Desk) -> None:
    desk.ports.library.pause = asyncio.Event()  # type: ignore[attr-defined]
    first = desk.images.pull(ALPINE, ALICE, "one")
    assert desk.images.pull(ALPINE, ALICE, "one") is first
    with pytest.raises(WrongState, match="image 'one' is being made already, by job 1"):
        desk.images.pull(f"{ALPINE}:other", ALICE, "one")
    assert desk.images.pull(ALPINE, BOB, "one") is not first
    desk.images.pull(ALPINE, ALICE, "two")
    before = open_descriptors()
    read, write = os.pipe()
    with pytest.raises(LimitReached, match="2 images in the making"):
        desk.images.import_image("three", read, ALICE)
    os.close(write)
    assert open_descriptors() == before
    desk.ports.library.pause.set()  # type: ignore[attr-defined]


async def test_import(desk: Desk) -> None:
    before = open_descriptors()
    image = await desk.imported("mine")
    assert (image.name, image.owner_uid) == ("mine", 1000)
    assert "read content" in desk.world.log
    with pytest.raises(
        ImageExists, match="you have an image named 'mine' already; delete it, or choose another"
    ):
        await desk.imported("mine")
    assert (await desk.imported("mine", BOB)).owner_uid == 1001
    assert open_descriptors() == before


async def test_a_descriptor_is_closed_however_it_goes(desk: Desk) -> None:
    before = open_descriptors()
    desk.world.broken["make"] = StepFailed("no")
    with pytest.raises(StepFailed):
        await desk.imported("broken")
    assert desk.own("broken") == []
    desk.world.broken.clear()
    desk.ports.library.pause = asyncio.Event()  # type: ignore[attr-defined]
    for wait in (0, 3):  # before the job has begun, and in the midst of it
        read, write = os.pipe()
        os.write(write, b"x")
        job = desk.images.import_image("gone", read, ALICE)
        for _ in range(wait):
            await asyncio.sleep(0)
        job.cancel()
        await job.wait()
        os.close(write)
        assert job.state == "canceled"
        del job
        await asyncio.sleep(0)
    assert desk.own("gone") == []
    for known in desk.jobs.all():  # jobs are remembered for a minute, descriptors are not
        assert known.state != "running"
    assert open_descriptors() == before


async def test_a_job_too_many_keeps_no_descriptor(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PER_USER", 0)
    before = open_descriptors()
    read, write = os.pipe()
    with pytest.raises(LimitReached, match="0 jobs running already"):
        desk.images.import_image("mine", read, ALICE)
    taken = os.dup(write)  # gets the number that was closed, and keeps it
    gc.collect()
    os.write(taken, b"x" * 0)
    os.close(taken)
    os.close(write)
    assert open_descriptors() == before


async def test_limits() -> None:
    async with Desk(Config(max_images_per_user=2, image_room_per_user="1M")) as desk:
        await desk.imported("one")
        await ended(desk.images.pull(ALPINE, ALICE, "two"))
        with pytest.raises(LimitReached, match="you have 2 images, as many as this machine allows"):
            await desk.imported("three")
        await ended(desk.images.pull(ALPINE, ALICE, "two"))  # in place of the earlier one
        await desk.imported("one", BOB)
        desk.world.images[:] = [
            Image(**{**fields(image), "size": 2**20}) if image.name == "one" else image
            for image in desk.world.images
        ]
        desk.world.images.remove(desk.own("two")[0])
        with pytest.raises(LimitReached, match="take up all the room"):
            await desk.imported("four")


@pytest.mark.parametrize(
    ("text", "reference", "host"),
    [
        (
            "docker.io/library/alpine",
            Reference("docker.io", "library/alpine", "latest"),
            "registry-1.docker.io",
        ),
        ("ghcr.io/a/b-c/d__e.f:V1.2_x", Reference("ghcr.io", "a/b-c/d__e.f", "V1.2_x"), "ghcr.io"),
        (f"quay.io/a@sha256:{1:064}", Reference("quay.io", "a", "", f"sha256:{1:064}"), "quay.io"),
        (f"quay.io/a:t@sha256:{1:064}", Reference("quay.io", "a", "t", f"sha256:{1:064}"), "quay.io"),
        ("localhost/a", Reference("localhost", "a", "latest"), "localhost"),
        ("[::1]:5000/a:b", Reference("[::1]:5000", "a", "b"), "[::1]:5000"),
    ],
)
def test_references(text: str, reference: Reference, host: str) -> None:
    found = parse(text)
    assert found == reference
    assert found.host == host
    assert parse(str(found)) == found
    assert found.wanted == (reference.digest or reference.tag)


def test_image_names() -> None:
    for name in ("a", "debian_12.5-slim", "0"):
        assert check_image_name(name) == name
    for name in ("", "a ", "a\n", "-a", "a-", "ä", "a/b", "a:b", "A"):
        with pytest.raises(InvalidSpec, match="is no name for an image"):
            check_image_name(name)
