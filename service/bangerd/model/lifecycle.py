"""What to do next: pure decisions from what is wanted and what is seen."""

import signal
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from bangerd.model.vm import VM, Desired, ExitReason, ExitRecord, Observed, Unit, VMState


class Step(StrEnum):
    """One idempotent effect on one VM. The value is what a progress bar says."""

    WAIT = "waiting for the unit"
    ENSURE_DISK = "making the disk"
    ENSURE_RUN_DIR = "writing the seed"
    LEND_CACHES = "attaching the caches"
    ENSURE_TAP = "connecting the network"
    RESET_UNIT = "clearing the failed unit"
    START_UNIT = "starting the VMM"
    AWAIT_READY = "booting"
    PAUSE = "pausing"
    RESUME = "resuming"
    STOP_GUEST = "stopping"
    KILL_UNIT = "ending the VMM"
    RETURN_CACHES = "detaching the caches"
    REMOVE_TAP = "disconnecting the network"
    REMOVE_RUN_DIR = "removing the runtime files"
    REMOVE_DISK = "removing the disk"
    FORGET = "forgetting"


_NO_MEMORY = (
    "the kernel ended the VMM for want of memory: the host's is used up, or what the VM's unit may have"
)
CANNOT_RUN = 127  # the shim's word, and a shell's, for a program that is not there

# Steps that only wait: taken again and again until the world has changed. A new command wakes them.
WAITING = frozenset({Step.WAIT, Step.AWAIT_READY, Step.STOP_GUEST})


def next_step(desired: Desired, seen: Observed) -> Step | None:
    """The one thing to do now so that the host comes to match; None when it does."""
    match desired:
        case Desired.RUNNING | Desired.PAUSED:
            return _towards_running(desired, seen)
        case Desired.STOPPED:
            return _towards_stopped(seen)
        case Desired.ABSENT:
            return _towards_absent(seen)
        case _:
            assert_never(desired)


def _towards_running(desired: Desired, seen: Observed) -> Step | None:
    match seen.unit:
        case Unit.ACTIVATING | Unit.DEACTIVATING:
            return Step.WAIT
        case Unit.FAILED:
            return Step.RESET_UNIT
        case Unit.ABSENT:
            if not seen.disk:
                return Step.ENSURE_DISK
            if not seen.fresh:
                return Step.ENSURE_RUN_DIR
            if seen.caches_missing:
                return Step.LEND_CACHES
            return Step.START_UNIT if seen.tap else Step.ENSURE_TAP
        case Unit.ACTIVE:
            if not seen.ready and not seen.paused:
                return Step.AWAIT_READY
            if desired is Desired.PAUSED:
                return None if seen.paused else Step.PAUSE
            return Step.RESUME if seen.paused else None
        case _:
            assert_never(seen.unit)


def _towards_stopped(seen: Observed) -> Step | None:
    match seen.unit:
        case Unit.ACTIVATING | Unit.DEACTIVATING:
            return Step.WAIT
        case Unit.ACTIVE:
            return Step.RESUME if seen.paused else Step.STOP_GUEST
        case Unit.FAILED:
            return Step.RESET_UNIT
        case Unit.ABSENT:
            if seen.caches_lent:
                return Step.RETURN_CACHES
            return Step.REMOVE_TAP if seen.tap else None
        case _:
            assert_never(seen.unit)


def _towards_absent(seen: Observed) -> Step:
    match seen.unit:
        case Unit.ACTIVE if seen.caches_lent and seen.ready:
            # What is deleted need not be whole, but a cache outlives it: the guest is to write what it has.
            return Step.RESUME if seen.paused else Step.STOP_GUEST
        case Unit.ACTIVE | Unit.ACTIVATING | Unit.DEACTIVATING:
            return Step.KILL_UNIT
        case Unit.FAILED:
            return Step.RESET_UNIT
        case Unit.ABSENT:
            if seen.caches_lent:
                return Step.RETURN_CACHES
            if seen.tap:
                return Step.REMOVE_TAP
            if seen.run_dir:
                return Step.REMOVE_RUN_DIR
            return Step.REMOVE_DISK if seen.disk else Step.FORGET
        case _:
            assert_never(seen.unit)


@dataclass(frozen=True, slots=True)
class Ending:
    """A run is over although nobody asked for that: what is wanted from now on, and the error to keep."""

    desired: Desired
    error: str = ""
    record: ExitRecord | None = None


def ending(vm: VM, seen: Observed, boot_id: str) -> Ending | None:
    """Whether `vm`, wanted up, has ended by itself and so must not be started again.

    `started_boot` is the host's boot id at the last start, "" as long as the present start has not come to its
    unit; an exit record seen then is the one of the run before.
    """
    if vm.desired not in (Desired.RUNNING, Desired.PAUSED) or not vm.started_boot:
        return None
    if seen.unit not in (Unit.ABSENT, Unit.FAILED):
        return None
    after = Desired.ABSENT if vm.ephemeral else Desired.STOPPED
    if vm.started_boot != boot_id:
        return Ending(after, "the host was restarted")
    if seen.exit is None:
        return None
    return Ending(after, _why(seen.exit), seen.exit)


def _why(record: ExitRecord) -> str:
    match record.reason:
        case ExitReason.VMM_FAILED:
            return _vmm_failed(record)
        case ExitReason.PANIC:
            return "the guest's kernel panicked"
        case ExitReason.LOST if record.memory_killed:
            return _NO_MEMORY
        case ExitReason.LOST:
            return "the VMM was ended from outside"
        case ExitReason.POWEROFF if not record.ready:
            return "the guest ended before it was up"
        case ExitReason.POWEROFF | ExitReason.STOP | ExitReason.KILL | ExitReason.LIFELINE:
            return ""
        case _:
            assert_never(record.reason)


def _vmm_failed(record: ExitRecord) -> str:
    if record.memory_killed:
        return _NO_MEMORY
    if record.signal == signal.SIGKILL:
        return "the VMM was killed from outside: by root, or by the kernel for want of memory"
    if record.signal == signal.SIGSYS:
        return "the VMM was ended by SIGSYS: it made a system call that its filter forbids"
    if record.signal:
        return f"the VMM crashed ({_signal_name(record.signal)})"
    if record.status == CANNOT_RUN and not record.ready:
        return "the VMM could not be run"
    return f"the VMM ended with status {record.status}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def state_of(vm: VM, seen: Observed) -> VMState:
    """What people are shown."""
    match vm.desired:
        case Desired.ABSENT:
            return VMState.DELETING
        case Desired.STOPPED:
            if seen.unit not in (Unit.ABSENT, Unit.FAILED):
                return VMState.STOPPING
            if vm.last_error:
                return VMState.FAILED
            return VMState.STOPPED if vm.started_boot else VMState.CREATED
        case Desired.RUNNING | Desired.PAUSED:
            if seen.unit is Unit.ACTIVE and seen.paused:
                return VMState.PAUSED
            if seen.unit is Unit.ACTIVE and seen.ready:
                return VMState.RUNNING
            return VMState.STARTING
        case _:
            assert_never(vm.desired)
