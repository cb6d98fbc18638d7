"""What fails is told as what it is, and leaves the VM in a state that is known: the core over an in-memory host."""

import asyncio
import os

import pytest
from tests.fakes.ports import World
from tests.fakes.service import ALICE, Service, ended

from bangerd.core import machine
from bangerd.core.requests import CreateRequest
from bangerd.model.errors import GuestFailed, HostNotReady, StepFailed, WrongState
from bangerd.model.vm import VM, ExitReason, ExitRecord, VMState

PANIC = ExitRecord(ExitReason.PANIC, ready=True, at=1)
KILLED = ExitRecord(ExitReason.VMM_FAILED, 137, 9, ready=True, at=1)
SILENT = StepFailed("it did not answer PATCH /vm within 10 s")


async def a_vm(service: Service, *, ephemeral: bool = False) -> VM:
    lifeline, _ = os.pipe() if ephemeral else (None, None)
    return await service.run(CreateRequest(name="web", ephemeral=ephemeral), lifeline=lifeline)


async def test_a_panic_is_told_with_its_reason_and_what_led_to_it() -> None:
    lines = [f"line {n}" for n in range(9)]
    world = World(console=(*lines, "[ 1.2] Kernel panic - not syncing: no init found", "RIP: 0010"))
    async with Service(world) as service:
        vm = await a_vm(service)
        world.end(vm.sid, PANIC)
        vm = await service.settled("web", VMState.FAILED)
        told = (
            "the guest's kernel panicked: no init found; `banger vm logs web` shows its console; at the end"
        )
        assert vm.last_error.startswith(told)
        assert "line 3\n" not in vm.last_error
        assert vm.last_error.endswith("\n  | line 8\n  | [ 1.2] Kernel panic - not syncing: no init found")
        assert (await service.vms.describe(vm))["end_reason"] == "panic"
        with pytest.raises(
            WrongState, match="has failed: the guest's kernel panicked: no init found; `banger vm s"
        ):
            await service.vms.open_session(vm)
        await ended(service.vms.start(vm, ALICE))
        assert service.vms.state(vm) is VMState.RUNNING
        assert (await service.vms.describe(vm))["end_reason"] == ""


async def test_a_panic_whose_words_are_lost() -> None:
    world = World()
    async with Service(world) as service:
        vm = await a_vm(service)
        world.end(vm.sid, PANIC)
        vm = await service.settled("web", VMState.FAILED)
        assert vm.last_error == "the guest's kernel panicked; `banger vm logs web` shows its console"


@pytest.mark.parametrize(
    ("record", "lacked", "told"),
    [
        (
            ExitRecord(ExitReason.VMM_FAILED, 1),
            False,
            "the VMM ended with status 1; it said:\n  | no such option",
        ),
        (
            ExitRecord(ExitReason.VMM_FAILED, 152),
            False,
            "the VMM ended with status 152 (it said so); it said:",
        ),
        (KILLED, False, "the VMM was killed from outside"),
        (KILLED, True, "the kernel ended the VMM for want of memory"),
        (ExitRecord(ExitReason.LOST), True, "the kernel ended the VMM for want of memory"),
        (ExitRecord(ExitReason.VMM_FAILED, 1), True, "the VMM ended with status 1"),
    ],
)
async def test_why_the_vmm_ended(record: ExitRecord, lacked: bool, told: str) -> None:
    world = World(vmm_words=("no such option",), console=("login:",), memory_lacked=lacked)
    async with Service(world) as service:
        vm = await a_vm(service)
        world.end(vm.sid, record, failed=True)
        vm = await service.settled("web", VMState.FAILED)
        assert vm.last_error.startswith(told)
        assert "login:" not in vm.last_error
        assert ("no such option" in vm.last_error) is not record.killed
        assert not world.taps


async def test_what_a_vm_of_run_rm_failed_with_can_be_read_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    async with Service(world) as service:
        monkeypatch.setattr(machine, "LAST_WORDS_S", 0.2)
        vm = await a_vm(service, ephemeral=True)
        world.end(vm.sid, PANIC)
        vm = await service.settled("web", VMState.FAILED)
        assert vm.last_error == "the guest's kernel panicked"
        assert not world.taps
        await service.gone()


async def test_a_service_that_starts_keeps_no_last_words() -> None:
    world = World()
    async with Service(world) as service:
        vm = await a_vm(service, ephemeral=True)
        world.end(vm.sid, PANIC)
        await service.settled("web", VMState.FAILED)
    async with Service(world) as again:
        await again.gone()


async def test_a_start_of_run_rm_that_fails_leaves_nothing() -> None:
    world = World(boots=False, vmm_words=("no such option",))
    async with Service(world) as service:
        lifeline, _ = os.pipe()
        vm, job = await service.vms.create(CreateRequest(name="web", ephemeral=True), ALICE, lifeline)
        await service.settled("web", VMState.STARTING)
        while vm.sid not in world.guests:
            await asyncio.sleep(0)
        world.end(vm.sid, ExitRecord(ExitReason.VMM_FAILED, 1), failed=True)
        with pytest.raises(GuestFailed, match="status 1; it said:\n  . no such option$"):
            await ended(job)
        assert world.nothing_left()


@pytest.mark.parametrize("silent_before", [True, False])
async def test_a_vmm_that_does_not_pause_goes_on(silent_before: bool) -> None:
    world = World()
    async with Service(world) as service:
        vm = await a_vm(service)
        world.broken["pause"] = world.broken["paused"] = SILENT
        with pytest.raises(StepFailed, match="did not answer PATCH"):
            await ended(service.vms.pause(vm, ALICE))
        vm = service.vms.get(vm.sid)
        assert (service.vms.state(vm), vm.last_error) == (VMState.RUNNING, "")
        if not silent_before:
            world.broken.clear()
            await ended(service.vms.pause(vm, ALICE))
            assert service.vms.state(vm) is VMState.PAUSED
        await ended(service.vms.stop(vm, ALICE))
        assert service.vms.state(vm) is VMState.STOPPED


async def test_a_vmm_that_says_it_paused_and_did_not(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    async with Service(world) as service:
        vm = await a_vm(service)

        async def paused(_vm: VM) -> bool:
            return False

        monkeypatch.setattr(service.ports.vmm, "paused", paused)
        with pytest.raises(StepFailed, match="pausing of 'web' changed nothing"):
            await ended(service.vms.pause(vm, ALICE))
        assert service.vms.state(vm) is VMState.RUNNING


async def test_a_vmm_that_does_not_resume_stays_paused_and_can_be_stopped() -> None:
    world = World()
    async with Service(world) as service:
        vm = await a_vm(service)
        await ended(service.vms.pause(vm, ALICE))
        world.broken["resume"] = world.broken["paused"] = SILENT
        with pytest.raises(StepFailed, match="did not answer PATCH"):
            await ended(service.vms.resume(vm, ALICE))
        assert service.vms.state(vm) is VMState.PAUSED
        await ended(service.vms.stop(vm, ALICE))
        assert f"kill {vm.sid}" in world.log
        assert service.vms.state(vm) is VMState.STOPPED


async def test_a_silent_vmm_is_no_reason_to_end_its_guest_when_the_service_starts_anew() -> None:
    world = World()
    async with Service(world) as service:
        vm = await a_vm(service)
        await ended(service.vms.pause(vm, ALICE))
    world.broken["paused"] = SILENT
    async with Service(world) as again:
        vm = await again.settled("web", VMState.PAUSED)
        assert world.guests[vm.sid].paused
        asked = world.log.count(f"paused {vm.sid}")
        for _ in range(5):  # news of the VM: it is not asked again each time
            world.changed(vm.sid)
            await asyncio.sleep(0.01)
        assert world.log.count(f"paused {vm.sid}") == asked


async def test_what_a_silent_vmm_did_after_all_is_seen_and_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It paused its guest when nobody was waiting for that any more."""
    monkeypatch.setattr(machine, "SILENCE_S", 0.1)
    world = World()
    async with Service(world) as service:
        vm = await a_vm(service)
        world.broken["pause"] = SILENT
        with pytest.raises(StepFailed):
            await ended(service.vms.pause(vm, ALICE))
        world.guests[vm.sid].paused = True
        async with asyncio.timeout(5):
            while world.guests[vm.sid].paused:
                await asyncio.sleep(0.01)
        assert service.vms.state(vm) is VMState.RUNNING


async def test_a_supervisor_that_does_not_answer_is_no_reason_to_end_a_vm_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    async with Service(world) as service:
        vm = await a_vm(service)
        supervisor = service.ports.supervisor
        observe, failures = supervisor.observe, 3

        async def failing(sid: str) -> object:
            nonlocal failures
            failures -= 1
            if failures > 0:
                raise StepFailed("systemd did not answer in time")
            return await observe(sid)

        monkeypatch.setattr(machine, "RETRY_FIRST_S", 0.01)
        monkeypatch.setattr(supervisor, "observe", failing)
        world.changed(vm.sid)
        async with asyncio.timeout(10):
            while failures > 0:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert service.vms.state(vm) is VMState.RUNNING
        assert vm.sid in world.guests


async def test_kvm_that_is_taken_away_is_told_before_anything_is_touched() -> None:
    world = World()
    async with Service(world) as service:
        vm = await service.run(CreateRequest(name="web", start=False))
        up = await service.run(CreateRequest(name="up"))
        world.kvm = (False, "/dev/kvm cannot be opened: No such file or directory")
        done = list(world.log)
        for refused in (service.vms.start, service.vms.restart):
            with pytest.raises(
                HostNotReady, match=r"KVM does not work any more: /dev/kvm cannot .*restart banger`"
            ):
                await ended(refused(vm, ALICE))
        with pytest.raises(HostNotReady, match="does not work any more"):
            await service.vms.create(CreateRequest(name="new"), ALICE)
        assert world.log == done
        assert service.vms.state(vm) is VMState.CREATED
        await service.run(CreateRequest(name="later", start=False))
        await ended(service.vms.stop(up, ALICE))
        world.kvm = (True, "it works again")
        await ended(service.vms.start(vm, ALICE))


async def test_kvm_that_is_taken_away_between_the_request_and_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    effect = world.effect

    def taking(name: str, sid: str) -> None:
        if name == "ensure_run_dir":
            world.kvm = (False, "it is gone")
        effect(name, sid)

    monkeypatch.setattr(world, "effect", taking)
    async with Service(world) as service:
        vm = await service.run(CreateRequest(name="web", start=False))
        job = service.vms.start(vm, ALICE)
        with pytest.raises(HostNotReady, match="it is gone"):
            await ended(job)
        vm = await service.settled("web", VMState.FAILED)
        assert vm.last_error.startswith("KVM does not work any more: it is gone")
        assert not world.taps
