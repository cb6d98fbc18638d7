"""Use cases over an in-memory host: what is wanted comes true, failures leave nothing, crashes lose nothing."""

import asyncio
import os
from dataclasses import replace

import pytest
from tests.fakes.ports import World
from tests.fakes.service import ALICE, BOB, Service, ended

from bangerd.config import Config
from bangerd.core.jobs import JobState
from bangerd.core.requests import CreateRequest
from bangerd.model.errors import (
    BangerError,
    GuestFailed,
    HostNotReady,
    InvalidSpec,
    LimitReached,
    NoSuchImage,
    NoSuchVM,
    StepFailed,
    VMBusy,
    VMExists,
    WrongState,
)
from bangerd.model.vm import ExitReason, ExitRecord, Unit, VMState


async def test_create_start_stop_start_delete() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(CreateRequest(name="web"))
        assert service.vms.state(vm) is VMState.RUNNING
        assert vm.address == "172.16.0.2"
        assert world.rules == (vm.sid,)
        assert b"web" in world.run_dirs[vm.sid]
        await ended(service.vms.stop(vm, ALICE))
        assert service.vms.state(vm) is VMState.STOPPED
        assert world.taps == set()
        assert world.rules == ()
        await ended(service.vms.start(vm, ALICE))
        assert service.vms.state(vm) is VMState.RUNNING
        assert service.vms.find("web").address == "172.16.0.2"
        await ended(service.vms.delete(vm, ALICE))
        assert world.nothing_left()
        with pytest.raises(NoSuchVM):
            service.vms.find("web")


async def test_a_vm_of_banger_0_1_gets_its_host_key_when_it_starts() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(CreateRequest(name="web", start=False))
    world.rows[vm.sid] = replace(vm, host_key="", host_public="")
    async with Service(world) as again:
        await ended(again.vms.start(again.vms.find("web"), ALICE))
        assert world.rows[vm.sid].host_public == "ssh-ed25519 AAAAfake"
        assert b"the private key" in world.run_dirs[vm.sid]
        assert (await again.vms.describe(vm))["host_keys"] == ["ssh-ed25519 AAAAfake"]


async def test_created_but_not_started() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(CreateRequest(name="web", start=False))
        assert service.vms.state(vm) is VMState.CREATED
        assert world.disks == {vm.sid}
        assert not world.units


async def test_a_guest_that_does_not_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(boots=False, console=("Kernel panic - not syncing",))
    async with Service(world) as service:
        monkeypatch.setattr(service.vms._effects, "patience_s", lambda _step: 0.01)
        with pytest.raises(GuestFailed, match=r"(?s)did not answer.*vm logs web.*Kernel panic"):
            await service.run(CreateRequest(name="web"))
        vm = await service.settled("web", VMState.FAILED)
        assert "Kernel panic" in vm.last_error
        assert not world.guests
        assert not world.taps


@pytest.mark.parametrize("start", [True, False])
async def test_a_disk_that_cannot_be_made_leaves_no_vm(start: bool) -> None:
    world = World()
    async with Service(world) as service:
        world.broken["ensure_disk"] = OSError(28, "No space left on device")
        with pytest.raises(StepFailed, match="No space left on device; make room"):
            await service.run(CreateRequest(name="web", start=start))
        read, write = os.pipe()
        with pytest.raises(StepFailed):
            await service.run(CreateRequest(ephemeral=True), lifeline=read)
        with pytest.raises(BrokenPipeError):
            os.write(write, b"x")
        os.close(write)
        assert world.nothing_left()
        assert service.vms.all() == ()


@pytest.mark.parametrize("effect", ["ensure_run_dir", "ensure_tap", "apply", "start"])
async def test_a_failing_start_is_taken_back(effect: str) -> None:
    world = World()
    async with Service(world) as service:
        world.broken[effect] = OSError(28, "No space left on device")
        if effect == "start":
            world.broken[effect] = StepFailed("systemd said no")
        with pytest.raises(StepFailed):
            await service.run(CreateRequest(name="web"))
        del world.broken[effect]
        vm = await service.settled("web", VMState.FAILED)
        assert not world.guests
        assert not world.taps
        await ended(service.vms.delete(vm, ALICE))
        assert world.nothing_left()


async def test_a_failing_ephemeral_start_leaves_nothing() -> None:
    world = World()
    read, write = os.pipe()
    async with Service(world) as service:
        world.broken["start"] = StepFailed("systemd said no")
        with pytest.raises(StepFailed):
            await service.run(CreateRequest(ephemeral=True), lifeline=read)
        await service.gone()
    with pytest.raises(BrokenPipeError):
        os.write(write, b"x")
    os.close(write)


async def test_an_ephemeral_guest_that_never_answers_is_kept_for_its_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(boots=False)
    read, write = os.pipe()
    async with Service(world) as service:
        monkeypatch.setattr(service.vms._effects, "patience_s", lambda _step: 0.01)
        with pytest.raises(GuestFailed, match="did not answer"):
            await service.run(CreateRequest(name="once", ephemeral=True), lifeline=read)
        vm = await service.settled("once", VMState.FAILED)
        assert not vm.ephemeral
        assert not world.guests
        assert vm.sid in world.disks
        await ended(service.vms.delete(vm, ALICE))
        assert world.nothing_left()
    os.close(write)


async def test_the_lifeline_goes_to_the_shim_and_nowhere_else() -> None:
    world = World()
    read, write = os.pipe()
    async with Service(world) as service:
        vm = await service.run(CreateRequest(ephemeral=True), lifeline=read)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(read)
        os.write(write, b"x")
        world.end(vm.sid, ExitRecord(ExitReason.LIFELINE, ready=True))
        await service.gone()
    os.close(write)


async def test_a_guest_that_powers_off_stays_off() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(CreateRequest(name="web"))
        world.end(vm.sid, ExitRecord(ExitReason.POWEROFF, ready=True))
        vm = await service.settled("web", VMState.STOPPED)
        assert vm.last_error == ""
        assert not world.taps


async def test_pause_and_resume_are_kept_over_a_restart_of_the_service() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(CreateRequest(name="web"))
        await ended(service.vms.pause(vm, ALICE))
        assert service.vms.state(vm) is VMState.PAUSED
    async with Service(world) as service:
        await service.settled("web", VMState.PAUSED)
        with pytest.raises(WrongState, match="`banger vm resume web` lets it go on"):
            await service.vms.open_session(vm)
        await ended(service.vms.resume(vm, ALICE))
        assert service.vms.state(vm) is VMState.RUNNING
        assert not world.guests[vm.sid].paused
        assert world.log[-1] == f"clock {vm.sid}"


async def test_delete_replaces_a_running_start() -> None:
    world = World(boots=False)
    async with Service(world) as service:
        vm, job = await service.vms.create(CreateRequest(name="web"), ALICE)
        await service.settled("web", VMState.STARTING)
        with pytest.raises(VMBusy, match="create"):
            service.vms.start(vm, ALICE)
        await ended(service.vms.delete(vm, ALICE))
        assert job.state is JobState.CANCELED
        assert world.nothing_left()


@pytest.mark.parametrize("point", ["remove_disk_done", "forget", "forget_done"])
async def test_a_command_that_meets_the_end_of_a_vm(point: str) -> None:
    """Whenever it comes: it does not hang, and the VM does not come back."""
    world = World()
    async with Service(world) as service:
        vm = await service.run(CreateRequest(name="web"))
        there, go = asyncio.Event(), asyncio.Event()

        async def hook(reached: str) -> None:
            if reached == point:
                there.set()
                await go.wait()

        object.__setattr__(service.ports, "hook", hook)
        first = service.vms.delete(vm, ALICE)
        await there.wait()
        second = service.vms.delete(vm, ALICE)
        asyncio.get_running_loop().call_later(0.01, go.set)
        async with asyncio.timeout(5):
            await ended(second)
        assert first.state is JobState.CANCELED
        assert world.nothing_left()


async def test_a_creation_that_is_cancelled_when_its_vm_is_gone() -> None:
    """The job ends all the same, and its target is free."""
    world = World()
    async with Service(world) as service:
        vm, job = await service.vms.create(CreateRequest(name="web"), ALICE)
        machine = service.vms._machines[vm.sid]
        machine._forgotten = True
        job.cancel()
        await job.wait()
        assert job.state is JobState.CANCELED
        assert service.jobs.running(job.target) is None
        machine._forgotten = False
        await ended(service.vms.delete(vm, ALICE))
        assert world.nothing_left()


async def test_a_cancelled_creation_leaves_nothing() -> None:
    world = World(boots=False)
    async with Service(world) as service:
        vm, job = await service.vms.create(CreateRequest(name="web"), ALICE)
        async with asyncio.timeout(5):
            while vm.sid not in world.guests:
                await asyncio.sleep(0)
        job.cancel()
        await job.wait()
        assert job.state is JobState.CANCELED
        await service.gone()


async def test_a_cancelled_start_stops_again() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(CreateRequest(name="web", start=False))
        world.boots = False
        job = service.vms.start(vm, ALICE)
        async with asyncio.timeout(5):
            while vm.sid not in world.guests:
                await asyncio.sleep(0)
        job.cancel()
        await job.wait()
        await service.settled("web", VMState.STOPPED)
        assert not world.guests


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (CreateRequest(name="Web"), InvalidSpec),
        (CreateRequest(name="-web"), InvalidSpec),
        (CreateRequest(name="a" * 64), InvalidSpec),
        (CreateRequest(name="web\n"), InvalidSpec),
        (CreateRequest(name="taken"), VMExists),
        (CreateRequest(image="no-such"), NoSuchImage),
        (CreateRequest(kernel="no-such"), BangerError),
        (CreateRequest(ephemeral=True, start=False), InvalidSpec),
        (CreateRequest(vcpu=0), InvalidSpec),
        (CreateRequest(vcpu=9), InvalidSpec),
        (CreateRequest(memory=1), InvalidSpec),
        (CreateRequest(memory=2**60), InvalidSpec),
        (CreateRequest(memory=2**29 + 1), InvalidSpec),
        (CreateRequest(disk=0), InvalidSpec),
        (CreateRequest(disk=2**60), InvalidSpec),
        (CreateRequest(ssh_keys=("ssh-ed25519 AAAA\nevil",)), InvalidSpec),
        (CreateRequest(labels={"a": "\x1b[31m"}), InvalidSpec),
    ],
)
async def test_nonsense_changes_nothing(request_: CreateRequest, error: type[BangerError]) -> None:
    world = World()
    read, write = os.pipe()
    async with Service(world) as service:
        await service.run(CreateRequest(name="taken", start=False))
        before = dict(world.rows)
        with pytest.raises(error):
            await service.vms.create(request_, ALICE, read)
        assert world.rows == before
        assert [vm.name for vm in service.vms.all()] == ["taken"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read)
    os.close(write)


async def test_limits() -> None:
    async with Service(World(), Config(max_vms_per_user=2, uid_count=3)) as service:
        for _ in range(2):
            await service.run(CreateRequest(start=False))
        with pytest.raises(LimitReached, match="you have 2 VMs"):
            await service.vms.create(CreateRequest(start=False), ALICE)
        await service.run(CreateRequest(start=False), BOB)
        with pytest.raises(LimitReached):
            await service.vms.create(CreateRequest(start=False), BOB)


async def test_two_owners_need_a_supervisor_that_keeps_them_apart() -> None:
    world = World()
    async with Service(world, isolates_owners=False) as service:
        await service.run(CreateRequest(start=False))
        with pytest.raises(HostNotReady, match="alice has VMs"):
            await service.vms.create(CreateRequest(start=False), BOB)
    async with Service(world, Config(allow_shared_host=True), isolates_owners=False) as service:
        await service.run(CreateRequest(start=False), BOB)


async def test_addresses_go_from_a_stopped_vm_to_one_that_starts() -> None:
    world = World()
    async with Service(world) as service:
        ports = service.ports
        pool = replace(ports.network.pool, network=next(ports.network.pool.network.subnets(new_prefix=30)))
        ports.network.pool = pool
        first = await service.run(CreateRequest(name="first"))
        with pytest.raises(LimitReached):
            await service.run(CreateRequest(name="second"))
        await ended(service.vms.stop(first, ALICE))
        second = service.vms.find("second")
        await ended(service.vms.start(second, ALICE))
        assert service.vms.find("second").address == first.address
        assert service.vms.find("first").address == ""


async def test_strays_are_removed_at_the_start() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(CreateRequest(name="web"))
        world.units["deadbeef"] = Unit.ACTIVE
        world.taps.add("deadbeef")
        world.disks.add("deadbeef")
    async with Service(world) as service:
        await service.settled("web", VMState.RUNNING)
        assert world.taps == world.disks == {vm.sid}
        assert await service.ports.supervisor.list_sids() == {vm.sid}


async def test_a_network_that_cannot_be_made_does_not_keep_the_service_away() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(CreateRequest(name="web"))
    world.broken["apply"] = StepFailed("nft is out of order")
    async with Service(world) as service:
        await service.settled("web", VMState.RUNNING)
        with pytest.raises(StepFailed, match="out of order"):
            await service.run(CreateRequest(name="more"))
        del world.broken["apply"]
        await ended(service.vms.delete(service.vms.find("more"), ALICE))
        await ended(service.vms.delete(vm, ALICE))
        assert world.nothing_left()


async def test_a_restart_of_the_host_does_not_start_guests() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(CreateRequest(name="web"))
        await service.run(CreateRequest(name="once", ephemeral=True))
    world.boot = "boot-2"
    for kind in (world.units, world.guests, world.taps, world.run_dirs, world.stale):
        kind.clear()
    async with Service(world) as service:
        stopped = await service.settled("web", VMState.FAILED)
        assert "host was restarted" in stopped.last_error
        async with asyncio.timeout(5):
            while len(service.vms.all()) > 1:
                await asyncio.sleep(0)
        assert world.disks == {vm.sid}
