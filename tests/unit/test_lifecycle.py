"""Every cell of (wanted, seen) leads to the goal; what ended by itself is not started again."""

import itertools
from dataclasses import replace

import pytest

from bangerd.model.lifecycle import WAITING, Step, ending, next_step, state_of
from bangerd.model.vm import VM, Desired, ExitReason, ExitRecord, Observed, Unit, VMSpec, VMState

SPEC = VMSpec("image", "kernel", 1, 2**29, 2**33)
A_VM = VM("0" * 32, "00000000", "web", 1000, "alice", SPEC, Desired.RUNNING, 71000)
RECORD = ExitRecord(ExitReason.POWEROFF, ready=True)


def cells() -> list[Observed]:
    """Every observation that the host can show; ready and paused only of an active unit, fresh only of a run dir."""
    found = []
    for unit, disk, tap, run_dir in itertools.product(Unit, (False, True), (False, True), (False, True)):
        for fresh in (False, True) if run_dir else (False,):
            for ready, paused in (
                ((False, False), (True, False), (True, True)) if unit is Unit.ACTIVE else ((False, False),)
            ):
                for lent, missing in ((False, False), (True, False), (False, True), (True, True)):
                    found.append(Observed(unit, disk, tap, run_dir, fresh, ready, paused, lent, missing))
    return found


def act(step: Step, seen: Observed) -> Observed:
    """What the host shows after the step."""
    match step:
        case Step.WAIT:
            return replace(seen, unit=Unit.ACTIVE if seen.unit is Unit.ACTIVATING else Unit.ABSENT)
        case Step.ENSURE_DISK:
            return replace(seen, disk=True)
        case Step.ENSURE_RUN_DIR:
            return replace(seen, run_dir=True, fresh=True)
        case Step.LEND_CACHES:
            assert seen.caches_missing
            return replace(seen, caches_lent=True, caches_missing=False)
        case Step.RETURN_CACHES:
            assert seen.unit is Unit.ABSENT
            return replace(seen, caches_lent=False, caches_missing=True)
        case Step.ENSURE_TAP:
            return replace(seen, tap=True)
        case Step.RESET_UNIT:
            return replace(seen, unit=Unit.ABSENT)
        case Step.START_UNIT:
            assert seen.disk
            assert seen.tap
            assert seen.fresh
            assert not seen.caches_missing
            return replace(seen, unit=Unit.ACTIVE, fresh=False)
        case Step.AWAIT_READY:
            return replace(seen, ready=True)
        case Step.PAUSE | Step.RESUME:
            return replace(seen, paused=step is Step.PAUSE)
        case Step.STOP_GUEST | Step.KILL_UNIT:
            return replace(seen, unit=Unit.ABSENT, ready=False, paused=False)
        case Step.REMOVE_TAP:
            return replace(seen, tap=False)
        case Step.REMOVE_RUN_DIR:
            return replace(seen, run_dir=False, fresh=False)
        case Step.REMOVE_DISK:
            return replace(seen, disk=False)
        case Step.FORGET:
            raise AssertionError("the walk ends here")


@pytest.mark.parametrize("desired", Desired)
@pytest.mark.parametrize("seen", cells(), ids=str)
def test_every_cell_converges(desired: Desired, seen: Observed) -> None:
    for _ in range(9):
        step = next_step(desired, seen)
        if step is None or step is Step.FORGET:
            break
        seen = act(step, seen)
    else:
        pytest.fail(f"no end in sight at {seen}")
    match desired:
        case Desired.RUNNING:
            assert (seen.unit, seen.ready, seen.paused) == (Unit.ACTIVE, True, False)
        case Desired.PAUSED:
            assert (seen.unit, seen.paused) == (Unit.ACTIVE, True)
        case Desired.STOPPED:
            assert (seen.unit, seen.tap, seen.caches_lent) == (Unit.ABSENT, False, False)
        case Desired.ABSENT:
            assert replace(seen, caches_missing=False) == Observed()


def test_the_walk_covers_all_steps() -> None:
    assert {next_step(desired, seen) for desired in Desired for seen in cells()} == {*Step, None}


def test_deleting_waits_for_nothing_but_caches() -> None:
    assert not WAITING & {next_step(Desired.ABSENT, seen) for seen in cells() if not seen.caches_lent}


def test_what_a_deleted_guest_has_for_its_caches_is_written() -> None:
    runs = Observed(Unit.ACTIVE, ready=True, caches_lent=True)
    assert next_step(Desired.ABSENT, runs) is Step.STOP_GUEST
    assert next_step(Desired.ABSENT, replace(runs, paused=True)) is Step.RESUME
    assert next_step(Desired.ABSENT, replace(runs, ready=False)) is Step.KILL_UNIT


STARTED = replace(A_VM, started_boot="boot")


@pytest.mark.parametrize(
    ("vm", "seen", "wanted", "said"),
    [
        pytest.param(STARTED, Observed(exit=RECORD), Desired.STOPPED, "", id="powered off"),
        pytest.param(replace(STARTED, ephemeral=True), Observed(exit=RECORD), Desired.ABSENT, "", id="--rm"),
        pytest.param(
            STARTED,
            Observed(exit=ExitRecord(ExitReason.POWEROFF)),
            Desired.STOPPED,
            "before it was up",
            id="no boot",
        ),
        pytest.param(
            STARTED,
            Observed(Unit.FAILED, exit=ExitRecord(ExitReason.VMM_FAILED, 127)),
            Desired.STOPPED,
            "could not be run",
            id="no VMM",
        ),
        pytest.param(
            STARTED,
            Observed(Unit.FAILED, exit=ExitRecord(ExitReason.VMM_FAILED, 3, ready=True)),
            Desired.STOPPED,
            "ended with status 3",
            id="VMM failed",
        ),
        pytest.param(
            STARTED,
            Observed(Unit.FAILED, exit=ExitRecord(ExitReason.VMM_FAILED, 139, 11)),
            Desired.STOPPED,
            "crashed (SIGSEGV)",
            id="VMM crashed",
        ),
        pytest.param(
            STARTED,
            Observed(Unit.FAILED, exit=ExitRecord(ExitReason.VMM_FAILED, 255, 127)),
            Desired.STOPPED,
            "crashed (signal 127)",
            id="of no signal that there is",
        ),
        pytest.param(
            STARTED,
            Observed(Unit.FAILED, exit=ExitRecord(ExitReason.VMM_FAILED, 159, 31)),
            Desired.STOPPED,
            "SIGSYS: it made a system call",
            id="its filter",
        ),
        pytest.param(
            STARTED,
            Observed(Unit.FAILED, exit=ExitRecord(ExitReason.VMM_FAILED, 137, 9)),
            Desired.STOPPED,
            "killed from outside: by root, or",
            id="killed",
        ),
        pytest.param(
            STARTED,
            Observed(
                Unit.FAILED, exit=ExitRecord(ExitReason.VMM_FAILED, 137, 9, ready=True, memory_killed=True)
            ),
            Desired.STOPPED,
            "for want of memory: the host's is used up, or",
            id="no memory for the VMM",
        ),
        pytest.param(
            STARTED,
            Observed(Unit.FAILED, exit=ExitRecord(ExitReason.LOST, memory_killed=True)),
            Desired.STOPPED,
            "for want of memory",
            id="no memory for the shim",
        ),
        pytest.param(
            STARTED,
            Observed(exit=ExitRecord(ExitReason.PANIC, ready=True)),
            Desired.STOPPED,
            "kernel panicked",
            id="panic",
        ),
        pytest.param(
            STARTED,
            Observed(Unit.FAILED, exit=ExitRecord(ExitReason.LOST)),
            Desired.STOPPED,
            "from outside",
            id="lost",
        ),
        pytest.param(
            replace(STARTED, started_boot="old"),
            Observed(),
            Desired.STOPPED,
            "host was restarted",
            id="host",
        ),
    ],
)
def test_an_end_changes_what_is_wanted(vm: VM, seen: Observed, wanted: Desired, said: str) -> None:
    end = ending(vm, seen, "boot")
    assert end is not None
    assert end.desired is wanted
    assert said in end.error


@pytest.mark.parametrize(
    ("vm", "seen"),
    [
        pytest.param(STARTED, Observed(Unit.ACTIVE), id="runs"),
        pytest.param(STARTED, Observed(), id="crashed between the record of the start and the start"),
        pytest.param(A_VM, Observed(exit=RECORD), id="a new start, with the record of the run before"),
        pytest.param(
            replace(STARTED, desired=Desired.STOPPED), Observed(exit=RECORD), id="stopped on demand"
        ),
    ],
)
def test_no_end(vm: VM, seen: Observed) -> None:
    assert ending(vm, seen, "boot") is None


@pytest.mark.parametrize(
    ("vm", "seen", "state"),
    [
        (A_VM, Observed(), VMState.STARTING),
        (A_VM, Observed(Unit.ACTIVE, ready=True), VMState.RUNNING),
        (A_VM, Observed(Unit.ACTIVE, ready=True, paused=True), VMState.PAUSED),
        (replace(A_VM, desired=Desired.STOPPED), Observed(), VMState.CREATED),
        (replace(STARTED, desired=Desired.STOPPED), Observed(), VMState.STOPPED),
        (replace(STARTED, desired=Desired.STOPPED), Observed(Unit.ACTIVE), VMState.STOPPING),
        (replace(STARTED, desired=Desired.STOPPED, last_error="no"), Observed(), VMState.FAILED),
        (replace(A_VM, desired=Desired.ABSENT), Observed(), VMState.DELETING),
    ],
)
def test_the_state_people_see(vm: VM, seen: Observed, state: VMState) -> None:
    assert state_of(vm, seen) is state
