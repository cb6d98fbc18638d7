"""kill -9 of bangerd at each named step of create, start, stop and delete: afterwards all is as wanted."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.guest.machine import Machine, User

CREATE = ("ensure_disk", "ensure_disk_done")
START = (
    "ensure_run_dir", "ensure_run_dir_done", "ensure_tap", "ensure_tap_done",
    "start_unit", "start_unit_done", "await_ready",
)  # fmt: skip
STOP = ("stop_guest", "stop_guest_done", "remove_tap", "remove_tap_done")
KILL = ("kill_unit", "kill_unit_done")
DELETE = (
    "kill_unit", "kill_unit_done", "remove_tap", "remove_tap_done", "remove_run_dir", "remove_run_dir_done",
    "remove_disk", "remove_disk_done", "forget", "forget_done",
)  # fmt: skip

# Where what happens next is up to the VMM, or to what of it is left.
LAB = {"start_unit_done", "await_ready", "stop_guest_done", "remove_run_dir"}


def at(*points: str, verb: str = "") -> list[Any]:
    """Parameters of a test: each of these points, after the verb if there is one."""
    return [
        pytest.param(*([verb] if verb else []), point, marks=[pytest.mark.lab] if point in LAB else [])
        for point in points
    ]


@pytest.fixture
def crashing(machine: Machine, alice: User) -> Iterator[Machine]:
    """The machine, whose bangerd a test makes crash; healthy again afterwards, without VMs."""
    yield machine
    machine.crash_at("")
    alice.banger("vm", "delete", "crash")


def crash(machine: Machine, alice: User, point: str, *command: str) -> None:
    """Run a command during which bangerd dies at `point`; a healthy one starts with the next call."""
    machine.crash_at(point)
    pid = machine.host.activate()
    done = alice.banger(*command)
    assert machine.host.service_pid() != pid, f"bangerd never came to {point}: {done}"
    assert done.status != 0, done
    assert "Traceback" not in done.err
    machine.crash_at("")


@pytest.mark.parametrize("point", at(*CREATE))
def test_create(crashing: Machine, alice: User, point: str) -> None:
    """What was accepted is kept."""
    crash(crashing, alice, point, "vm", "create", "--name", "crash")
    assert [vm["name"] for vm in alice.json("vm", "list")] == ["crash"]
    alice.ok("vm", "start", "crash")
    assert alice.ok("vm", "exec", "crash", "--", "echo", "up") == "up\n"


@pytest.mark.parametrize("point", at(*CREATE))
def test_create_of_a_vm_that_nobody_waits_for(crashing: Machine, alice: User, point: str) -> None:
    crash(crashing, alice, point, "vm", "run", "--rm", "--name", "crash", "--", "true")
    alice.ok("vm", "list")  # has bangerd started
    alice.banger("vm", "delete", "crash")  # waits, if it is not gone yet
    assert alice.json("vm", "list") == []
    assert crashing.traces() == []


@pytest.mark.parametrize("point", at(*START))
def test_start(crashing: Machine, alice: User, point: str) -> None:
    alice.ok("vm", "create", "--name", "crash")
    crash(crashing, alice, point, "vm", "start", "crash")
    alice.ok("vm", "start", "crash")  # joins what the new bangerd does by itself
    assert alice.state("crash") == "running"
    assert alice.ok("vm", "exec", "crash", "--", "echo", "up") == "up\n"


@pytest.mark.parametrize(("verb", "point"), [*at(*STOP, verb="stop"), *at(*KILL, verb="kill")])
def test_stop(crashing: Machine, alice: User, verb: str, point: str) -> None:
    alice.ok("vm", "create", "--name", "crash")
    alice.ok("vm", "start", "crash")
    crash(crashing, alice, point, "vm", verb, "crash")
    alice.ok("vm", verb, "crash")
    assert alice.state("crash") == "stopped"
    assert crashing.running_traces() == []


@pytest.mark.parametrize("point", at(*DELETE))
def test_delete(crashing: Machine, alice: User, point: str) -> None:
    alice.ok("vm", "create", "--name", "crash")
    alice.ok("vm", "start", "crash")
    crash(crashing, alice, point, "vm", "delete", "crash")
    alice.ok("vm", "list")  # has bangerd started
    alice.banger("vm", "delete", "crash")  # waits, if it is not gone yet
    assert alice.json("vm", "list") == []
    assert crashing.traces() == []
