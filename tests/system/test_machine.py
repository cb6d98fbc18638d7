"""The test machine keeps its promises: otherwise the other tests of this folder would prove nothing."""

import pytest
from tests.system.machine import Machine


def test_exit_status_and_streams(machine: Machine) -> None:
    done = machine.run("sh", "-c", "cat; echo err >&2; exit 7", input=b"in", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "in", "err\n")


def test_commands_run_as_the_user(machine: Machine) -> None:
    assert machine.run("id", "-un", user="alice").stdout == "alice\n"


@pytest.mark.parametrize(
    ("session", "active", "remote_or_none"),
    [("active", "yes", False), ("inactive", "no", False), ("remote", "yes", True)],
)
def test_sessions(machine: Machine, session: str, active: str, remote_or_none: bool) -> None:
    done = machine.run(
        "sh", "-c", "loginctl show-session $XDG_SESSION_ID -p Active -p Seat --value",
        user="alice", session=session,  # type: ignore[arg-type]
    )  # fmt: skip
    seat, is_active = sorted(done.stdout.split("\n")[:2], key=lambda word: word in ("yes", "no"))
    assert is_active == active
    assert (seat == "") == remote_or_none


def test_policies_of_units_hold(machine: Machine) -> None:
    """Device and address policies are silently not enforced in a container without bpf."""
    done = machine.run(
        "systemd-run", "-q", "--wait", "--pipe", "-p", "DevicePolicy=closed", "head", "-c1", "/dev/net/tun",
        check=False,
    )  # fmt: skip
    assert "Operation not permitted" in done.stderr
