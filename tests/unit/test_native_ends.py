"""Every way in which a VM can end, begin again or be made to end."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.native_protocol import (
    STARTED,
    Shim,
    exec_message,
    process_state,
    read_line,
    wait_gone,
)

StartShim = Callable[..., Shim]


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def test_status_watch_and_a_guest_that_powers_off(chain: Shim) -> None:
    chain.run("true")  # by then the first figures have come too
    status = chain.status()
    assert status["state"] == "ready"
    assert process_state(int(status["vmm"])) in "SR"
    total, available = (int(n) for n in status["memory"].split(","))
    assert total > available > 0
    assert 0 <= int(status["t.spawn"]) <= int(status["t.hello"]) <= int(status["t.ready"]) < 30000
    with chain.wait_socket("control.sock") as watch:
        watch.sendall(b"WATCH\n")
        assert read_line(watch).startswith("state=ready ")
        assert chain.control("STOP 10") == "OK\n"
        assert read_line(watch).startswith("state=stopping ")
        assert read_line(watch) == ""
    assert chain.wait() == 0
    record = chain.record()
    assert (record["reason"], record["status"], record["ready"]) == ("stop", "0", "1")
    assert abs(int(record["at"]) - time.time()) < 60
    assert not chain.path("control.sock").exists()
    assert not chain.path("guest.sock").exists()


def test_reboot_starts_the_vmm_again_under_the_same_sockets(chain: Shim) -> None:
    first = chain.status()["vmm"]
    session = chain.session()
    session.send(exec_message(["sleep", "1000"]))
    pid = int.from_bytes(session.wait_for(STARTED), "little")
    with chain.wait_socket("control.sock") as watch:
        watch.sendall(b"WATCH\n")
        assert chain.control("REBOOT") == "OK\n"
        states = []
        while not (line := read_line(watch)).startswith("state=ready ") or len(states) < 2:
            states.append(line.split()[0])
    assert states == ["state=ready", "state=rebooting", "state=booting"]
    assert session.finish().exit is None
    session.close()
    wait_gone(pid)
    assert chain.status()["vmm"] != first
    assert chain.run("echo", "again").stdout == b"again\n"


def test_a_vm_that_reboots_without_end_is_given_up(start_shim: StartShim) -> None:
    shim = start_shim()
    for _ in range(5):
        shim.wait_state("ready")
        assert shim.control("REBOOT") == "OK\n"
        with shim.wait_socket("control.sock") as watch:
            watch.sendall(b"WATCH\n")
            while "state=rebooting" in read_line(watch):
                pass
    shim.wait_state("ready")
    assert shim.control("REBOOT") == "OK\n"
    assert shim.wait() == 1
    assert shim.record()["reason"] == "vmm-failed"


def test_kill(chain: Shim) -> None:
    vmm = int(chain.status()["vmm"])
    assert chain.control("KILL") == "OK\n"
    assert chain.wait() == 0
    assert (chain.record()["reason"], chain.record()["status"]) == ("kill", "137")
    assert process_state(vmm) == ""


def test_a_vmm_that_does_not_stop_is_killed_when_its_time_is_over(start_shim: StartShim) -> None:
    shim = start_shim(vmm=sh("trap '' TERM; while :; do sleep 0.05; done"))
    started = time.monotonic()
    assert shim.control("STOP 60") == "OK\n"
    assert shim.control("STOP 0.5") == "OK\n"  # the sooner one counts
    assert shim.wait() == 0
    assert 0.4 < time.monotonic() - started < 20
    record = {"reason": "stop", "status": "137", "signal": "9", "ready": "0", "at": ""}
    assert shim.record() | {"at": ""} == record


def test_stop_while_the_guest_boots_reaches_it_when_it_is_up(start_shim: StartShim, native: Path) -> None:
    shim = start_shim(vmm=sh(f"sleep 0.5; exec {native}/banger-guest --agent-fd 3"))
    assert shim.control("STOP 30") == "OK\n"
    assert shim.wait() == 0
    assert (shim.record()["reason"], shim.record()["status"]) == ("stop", "0")


def test_sigterm_stops_and_a_second_one_kills(start_shim: StartShim) -> None:
    shim = start_shim()
    shim.wait_state("ready")
    shim.process.send_signal(signal.SIGTERM)
    assert shim.wait() == 0
    assert (shim.record()["reason"], shim.record()["status"]) == ("stop", "0")

    shim = start_shim(vmm=["sleep", "1000"])
    shim.control("STATUS")
    shim.process.send_signal(signal.SIGTERM)
    shim.wait_state("stopping")
    shim.process.send_signal(signal.SIGTERM)
    assert shim.wait() == 0
    assert (shim.record()["reason"], shim.record()["status"]) == ("stop", "137")


def test_the_lifeline_ends_the_vm(start_shim: StartShim) -> None:
    ours, theirs = os.pipe()
    shim = start_shim("--lifeline", stdin=ours)
    os.close(ours)
    shim.wait_state("ready")
    vmm = int(shim.status()["vmm"])
    os.write(theirs, b"what is written there means nothing")
    assert shim.status()["state"] == "ready"
    os.close(theirs)
    assert shim.wait() == 0
    assert shim.record()["reason"] == "lifeline"
    wait_gone(vmm)


def test_a_lifeline_must_be_one(start_shim: StartShim) -> None:
    shim = start_shim("--lifeline")
    assert shim.wait() == 2
    assert "--lifeline needs a pipe" in shim.path("shim.err").read_text()


def test_a_guest_that_ends_by_itself(chain: Shim) -> None:
    session = chain.session()
    session.send(exec_message(sh("kill -TERM $PPID; sleep 1000")))
    assert session.finish().exit is None
    assert chain.wait() == 0
    assert chain.record() | {"at": ""} == {
            "reason": "poweroff", "status": "0", "signal": "0", "ready": "1", "at": ""
        }  # fmt: skip


@pytest.mark.parametrize(
    ("vmm", "end", "code", "log"),
    [
        (["/no/such/vmm"], ("vmm-failed", "127"), 1, "cannot run /no/such/vmm: No such file"),
        (["/etc/passwd"], ("vmm-failed", "127"), 1, "Permission denied"),
        (sh("echo no such option >&2; exit 3"), ("vmm-failed", "3"), 1, "no such option\n"),
        (sh("kill -SEGV $$"), ("vmm-failed", "139"), 1, ""),
        (sh("printf 'Kernel panic - not '; echo 'syncing: why'"), ("panic", "0"), 0, ""),
        (sh("echo Kernel panic - not; echo syncing"), ("poweroff", "0"), 0, ""),
        (sh("echo Kernel panic - not syncing; kill -KILL $$"), ("vmm-failed", "137"), 1, ""),
        (["true"], ("poweroff", "0"), 0, ""),
    ],
)
def test_a_vmm_that_ends_at_once(
    start_shim: StartShim, vmm: list[str], end: tuple[str, str], code: int, log: str
) -> None:
    shim = start_shim(vmm=vmm)
    assert shim.wait() == code
    record = shim.record()
    assert (record["reason"], record["status"], record["ready"]) == (*end, "0")
    assert log in shim.path("vmm.log").read_text()


def test_a_vmm_that_is_killed_while_it_shall_stop_has_failed(start_shim: StartShim) -> None:
    """systemd asks a unit to stop of which the kernel has killed a part, and that was not asked for."""
    shim = start_shim(vmm=["sleep", "1000"])
    vmm = int(shim.status()["vmm"])
    assert shim.control("STOP 60") == "OK\n"
    os.kill(vmm, signal.SIGKILL)
    assert shim.wait() == 1
    assert (shim.record()["reason"], shim.record()["signal"]) == ("vmm-failed", "9")


def test_nothing_of_the_vmm_outlives_a_killed_shim(chain: Shim) -> None:
    vmm = int(chain.status()["vmm"])
    chain.process.kill()
    chain.wait()
    wait_gone(vmm)


def test_reboot_needs_a_guest_that_answers(start_shim: StartShim) -> None:
    shim = start_shim(vmm=["sleep", "1000"])
    assert shim.control("REBOOT").startswith("ERR ")
    assert shim.control("CLOCK").startswith("ERR ")
    shim.control("KILL")
    shim.wait()


def test_a_client_that_waits_is_told_of_the_end(start_shim: StartShim) -> None:
    shim = start_shim(vmm=["sleep", "1000"])
    with shim.wait_socket("guest.sock") as sock:
        sock.sendall(b"CONNECT 1\n")
        shim.control("KILL")
        assert read_line(sock) == "ERR the machine has ended\n"
    assert shim.wait() == 0


def test_output_on_its_way_to_a_client_survives_the_vms_end(chain: Shim) -> None:
    vmm = int(chain.status()["vmm"])
    session = chain.session()
    session.send(exec_message(["head", "-c", "250000", "/dev/zero"]))
    while chain.status()["sessions"] != "0":  # the guest has sent its last word; nothing was read yet
        time.sleep(0.01)
    assert chain.control("KILL") == "OK\n"
    wait_gone(vmm)
    result = session.finish()
    session.close()
    assert (bytes(result.stdout), result.exit) == (bytes(250000), (0, 0))
    assert chain.wait() == 0
