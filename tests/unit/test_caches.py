"""Cache disks: one writer at a time, the owner's own, and no more than root's at rest."""

import asyncio
from dataclasses import replace

import pytest
from tests.fakes.ports import World
from tests.fakes.service import ALICE, BOB, Service, ended

from bangerd.config import Config
from bangerd.core.effects import Effects
from bangerd.core.requests import CreateRequest, check_request
from bangerd.model.errors import (
    BangerError,
    CacheInUse,
    GuestFailed,
    InvalidSpec,
    LimitReached,
    NoSuchCache,
    StepFailed,
)
from bangerd.model.lifecycle import Step
from bangerd.model.vm import VMState

GO = {"/root/go": "go"}
ALICES, BOBS = (ALICE.uid, "go"), (BOB.uid, "go")


def wanted(name: str, caches: dict[str, str] = GO, *, start: bool = True, rm: bool = False) -> CreateRequest:
    return CreateRequest(name=name, caches=caches, start=start, ephemeral=rm)


async def test_a_cache_is_its_vms_while_that_runs() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(wanted("web", {"/root/go": "go", "/var/cache/apt": "apt"}))
        assert world.caches == {ALICES: vm.uid, (ALICE.uid, "apt"): vm.uid}
        unit = world.guests[vm.sid].spec
        paths = [str(path) for path in unit.read_write]
        assert paths == [f"/fake/state/{vm.sid}/disk.ext4", "/fake/cache/1000-go", "/fake/cache/1000-apt"]
        assert unit.file_max == 16 * 2**30  # the cache is larger than the VM's own disk
        seed = world.run_dirs[vm.sid]
        assert b"\x04mount:/root/go" in seed
        assert b"\x05mount:/var/cache/apt" in seed
        await ended(service.vms.stop(vm, ALICE))
        assert world.caches == {ALICES: 0, (ALICE.uid, "apt"): 0}
        await ended(service.vms.start(vm, ALICE))
        assert world.caches[ALICES] == vm.uid
        await ended(service.vms.delete(vm, ALICE))
        assert world.nothing_left()
        assert set(world.caches) == {ALICES, (ALICE.uid, "apt")}


async def test_folders_are_mounted_before_what_is_in_them() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(wanted("web", {"/srv/a/b": "inner", "/srv/a": "outer"}))
        seed = world.run_dirs[vm.sid]
        assert seed.index(b"\x04mount:/srv/a") < seed.index(b"\x05mount:/srv/a/b")


async def test_deleting_lets_the_guest_write_its_caches() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(wanted("web"))
        await ended(service.vms.delete(vm, ALICE))
        assert f"stop {vm.sid}" in world.log
        assert f"kill {vm.sid}" not in world.log
        once = await service.run(wanted("once", rm=True))
        await ended(service.vms.delete(once, ALICE))
        assert f"stop {once.sid}" in world.log
        other = await service.run(CreateRequest(name="other"))
        await ended(service.vms.delete(other, ALICE))
        assert f"stop {other.sid}" not in world.log


async def test_a_guest_that_does_not_stop_is_deleted_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(stops=False)
    async with Service(world) as service:
        vm = await service.run(wanted("web"))
        monkeypatch.setattr(Effects, "agent_patience_s", 0.01)
        monkeypatch.setattr(service.vms._effects, "patience_s", lambda _step: 0.01)
        await ended(service.vms.delete(vm, ALICE))
        assert world.log.count(f"stop {vm.sid}") == 1
        assert f"kill {vm.sid}" in world.log
        assert world.nothing_left()


async def test_killing_asks_no_guest() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(wanted("once", rm=True))
        await ended(service.vms.kill(vm, ALICE))
        assert f"stop {vm.sid}" not in world.log
        assert world.nothing_left()


async def test_a_paused_guest_writes_too() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(wanted("web"))
        await ended(service.vms.pause(vm, ALICE))
        await ended(service.vms.delete(vm, ALICE))
        assert world.log.index(f"resume {vm.sid}") < world.log.index(f"stop {vm.sid}")
        assert world.nothing_left()


async def test_one_vm_at_a_time() -> None:
    world = World()
    async with Service(world) as service:
        first = await service.run(wanted("first"))
        second = await service.run(wanted("second", start=False))
        before = (dict(world.rows), dict(world.caches), list(world.log))
        with pytest.raises(CacheInUse, match="cache 'go' is in use by VM 'first'.*`banger vm stop first`"):
            service.vms.start(second, ALICE)
        with pytest.raises(CacheInUse, match="'first'"):
            await service.vms.create(wanted("third"), ALICE)
        assert (dict(world.rows), dict(world.caches), list(world.log)) == before
        await ended(service.vms.start(first, ALICE))  # it runs already
        await ended(service.vms.restart(first, ALICE))
        await ended(service.vms.pause(first, ALICE))
        with pytest.raises(CacheInUse):
            service.vms.start(second, ALICE)
        await ended(service.vms.stop(first, ALICE))
        await ended(service.vms.start(second, ALICE))
        assert world.caches[ALICES] == second.uid


async def test_of_two_starts_at_once_one_wins() -> None:
    world = World()
    async with Service(world) as service:
        vms = [await service.run(wanted(name, start=False)) for name in ("first", "second")]
        jobs = [service.vms.start(vm, ALICE) for vm in vms]
        async with asyncio.timeout(5):
            for job in jobs:
                await job.wait()
        lost = [vm for vm, job in zip(vms, jobs, strict=True) if job.error is not None]
        won = [vm for vm in vms if vm not in lost]
        assert len(lost) == len(won) == 1
        assert world.caches[ALICES] == won[0].uid
        await service.settled(won[0].name, VMState.RUNNING)
        assert lost[0].sid not in world.taps


@pytest.mark.parametrize("rm", [False, True])
async def test_of_two_new_vms_at_once_one_wins(*, rm: bool) -> None:
    world = World()
    async with Service(world) as service:
        (first, one), (second, other) = [
            await service.vms.create(wanted(name, rm=rm), ALICE) for name in ("first", "second")
        ]
        async with asyncio.timeout(5):
            await one.wait()
            await other.wait()
        assert [type(job.error) for job in (one, other)].count(CacheInUse) == 1
        lost = first if one.error else second
        assert {vm.name for vm in service.vms.all()} == (
            {"first", "second"} - {lost.name} if rm else {"first", "second"}
        )


async def test_another_users_cache_is_another_disk() -> None:
    world = World()
    async with Service(world) as service:
        mine = await service.run(wanted("mine"))
        his = await service.run(wanted("his"), BOB)
        assert world.caches == {ALICES: mine.uid, BOBS: his.uid}
        await ended(service.vms.stop(his, ALICE))  # as one who may manage others' VMs
        await ended(service.vms.start(his, ALICE))
        assert world.caches == {ALICES: mine.uid, BOBS: his.uid}


async def test_a_start_that_fails_gives_its_caches_back() -> None:
    world = World(broken={"start": StepFailed("no unit")})
    async with Service(world) as service:
        with pytest.raises(StepFailed):
            await service.run(wanted("web"))
        await service.settled("web", VMState.FAILED)
        assert world.caches == {ALICES: 0}


async def test_a_guest_that_ends_gives_its_caches_back() -> None:
    world = World(boots=False)
    async with Service(world) as service:
        vm, job = await service.vms.create(wanted("web"), ALICE)
        async with asyncio.timeout(5):
            while not world.guests:
                await asyncio.sleep(0)
        world.end(vm.sid, None, failed=True)
        with pytest.raises(GuestFailed):
            await ended(job)
        await service.settled("web", VMState.FAILED)
        assert world.caches == {ALICES: 0}


async def test_no_more_than_allowed() -> None:
    world = World()
    async with Service(world, Config(max_caches_per_user=2)) as service:
        vm = await service.run(wanted("web", {"/a": "a", "/b": "b"}))
        with pytest.raises(LimitReached, match="2 caches are as many.*`banger cache delete`"):
            await service.vms.create(wanted("more", {"/c": "c"}, start=False), ALICE)
        await service.run(wanted("his", {"/c": "c"}), BOB)
        await ended(service.vms.stop(vm, ALICE))
        await service.run(wanted("again", {"/other": "a"}))  # one that is there already


async def test_deleting_a_cache() -> None:
    world = World()
    async with Service(world) as service:
        caches = service.vms.caches
        vm = await service.run(wanted("web"))
        (cache,) = caches.all()
        assert (cache.name, caches.user(cache)) == ("go", "web")
        with pytest.raises(CacheInUse, match="'web'"):
            await caches.delete(*ALICES)
        with pytest.raises(NoSuchCache):
            await caches.delete(*BOBS)
        await ended(service.vms.stop(vm, ALICE))
        assert caches.user(caches.all()[0]) == ""
        await caches.delete(*ALICES)
        assert world.caches == {}
        await ended(service.vms.start(vm, ALICE))  # gets an empty one
        assert world.caches == {ALICES: vm.uid}


async def test_a_run_that_nobody_waits_for_leaves_its_cache() -> None:
    """The service dies between lending and the start of an ephemeral VM."""
    world = World()
    service = Service(world)
    await service.vms.begin()
    there = asyncio.Event()

    async def hook(reached: str) -> None:
        if reached == Step.LEND_CACHES.name.lower() + "_done":
            there.set()
            await asyncio.Event().wait()

    object.__setattr__(service.ports, "hook", hook)
    vm, _ = await service.vms.create(wanted("once", rm=True), ALICE)
    await there.wait()
    assert world.caches == {ALICES: vm.uid}
    await service.jobs.close()
    await service.vms.close()
    async with Service(world) as again:
        await again.gone()
        assert world.caches == {ALICES: 0}


async def test_what_nobody_has_is_taken_back_at_the_start() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(wanted("web"))
    world.caches[BOBS] = 71999
    async with Service(world) as again:
        assert world.caches == {ALICES: vm.uid, BOBS: 0}
        await again.settled("web", VMState.RUNNING)


@pytest.mark.parametrize("name", ["", "Go", "go.old", "-go", "go-", "x" * 64, "go/..", "g\no", "gö"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(InvalidSpec, match="no valid name of a cache"):
        check_request(wanted("web", {"/a": name}))


@pytest.mark.parametrize(
    "path",
    ["", "a", "/", "//", "//a", "/a/", "/a//b", "/a/./b", "/a/../b", "/a/..", "/proc", "/proc/x", "/sys/fs",
     "/dev/shm", "/run", "/run/lock", "/a\nb", "/a\0", "/\x1b[31m", "/" + "x" * 255, "/\udcff"],
)  # fmt: skip
def test_paths_that_are_none(path: str) -> None:
    with pytest.raises(InvalidSpec, match="a cache cannot be mounted at") as failed:
        check_request(wanted("web", {path: "go"}))
    assert str(failed.value).isprintable()


def test_paths_and_names_that_are_possible() -> None:
    paths = ["/runner", "/devel", "/root/.cache", "/a b,c=d", "/é", "/srv/a:b", "/a...", "/var/lib/docker"]
    check_request(wanted("web", {path: f"c{n}" for n, path in enumerate(paths)}))


@pytest.mark.parametrize("caches", [{f"/{n}": f"c{n}" for n in range(9)}, {"/a": "go", "/b": "go"}])
def test_too_many_and_the_same_twice(caches: dict[str, str]) -> None:
    with pytest.raises(BangerError, match="caches; 8 are possible|at two paths"):
        check_request(replace(wanted("web"), caches=caches))
