"""The benchmarks' own arithmetic: what they read off the bus, the service's log and a guest's kernel log."""

import pytest
from tests.bench.bus import Message, parse
from tests.bench.floor import without_network
from tests.bench.guest import stretches
from tests.bench.host import Timed
from tests.bench.phases import BOOT, PHASES, SESSION, steps, timeline
from tests.bench.shim import Boot
from tests.bench.stats import Series, ratio, table

CLIENT, SERVICE, POLKIT = ":1.7", ":1.3", ":1.0"
NAME = "com.thaloco.Banger1"


def test_a_call_and_its_reply_are_read_from_a_profile() -> None:
    call = parse(f"mc\t12.5\t3\t{CLIENT}\t{NAME}\t/com/thaloco/Banger1\t{NAME}.Manager\tCreateVM\n")
    assert call == Message("mc", 12.5, 3, CLIENT, NAME, "CreateVM")
    assert parse(f"mr\t12.75\t9\t{SERVICE}\t{CLIENT}\t3\n") == Message(
        "mr", 12.75, 9, SERVICE, CLIENT, reply_to=3
    )
    assert parse("#type\ttimestamp\tserial\tsender\tdestination\tpath\tinterface\tmember\n") is None


def test_the_first_time_of_each_step_counts() -> None:
    log = (
        "bangerd.core.machine: @10.250000 0123abcd: ENSURE_DISK\n"
        "bangerd.host.process: @10.300000 + nft -f -\n"
        "bangerd.core.machine: @11.000000 0123abcd: AWAIT_READY\n"
        "bangerd.core.machine: @12.000000 0123abcd: AWAIT_READY\n"
    )
    assert steps(log) == {"ENSURE_DISK": 10.25, "AWAIT_READY": 11.0}


def exchange(serial: int, member: str, at: float, *, took: float = 0.125) -> list[Message]:
    call = Message("mc", at, serial, CLIENT, NAME, member)
    check = Message("mc", at, 100 + serial, SERVICE, "org.freedesktop.PolicyKit1", "CheckAuthorization")
    yes = Message("mr", at + 0.0625, 200 + serial, POLKIT, SERVICE, reply_to=100 + serial)
    return [call, check, yes, Message("mr", at + took, 300 + serial, SERVICE, CLIENT, reply_to=serial)]


def cold_run(*, jobs: int = 2) -> list[Message]:
    hello = Message("mc", 1.0, 1, CLIENT, "org.freedesktop.DBus", "Hello")
    ends = [Message("sig", at, 400, SERVICE, CLIENT, "JobRemoved") for at in (6.0, 9.0)]
    calls = (("ResolveSpec", 1.5), ("CreateVM", 2.0), ("Exec", 6.25), ("Delete", 8.0))
    exchanges = [m for i, (member, at) in enumerate(calls, 2) for m in exchange(i, member, at)]
    return [hello, *exchanges, *ends[:jobs]]


def test_phases_add_up_to_the_whole_run() -> None:
    taken = {
        "ENSURE_RUN_DIR": 2.75,
        "ENSURE_TAP": 3.0,
        "START_UNIT": 3.25,
        "REMOVE_TAP": 8.5,
    }
    run = Timed("banger", 0.5, 9.25, cpu=0.125)
    cold = timeline(run, cold_run(), taken, Boot(3.5, 3.625, 5.75, cpu=1.0), {})
    assert sum(cold.phases.values()) == pytest.approx(cold.total) == pytest.approx(8750)
    assert tuple(cold.phases) == PHASES
    assert cold.phases[BOOT] == pytest.approx(2125)
    assert cold.phases[SESSION] == pytest.approx(1625)
    assert (cold.checks, cold.polkit) == (4, pytest.approx(250))


def test_a_run_that_the_monitor_did_not_see_to_its_end_is_no_figure() -> None:
    with pytest.raises(RuntimeError, match="1 jobs ended"):
        timeline(Timed("banger", 0.5, 9.25, cpu=0), cold_run(jobs=1), {}, Boot(1, 1, 1, cpu=0), {})


def test_floor_is_the_same_command_line_without_its_nic() -> None:
    argv = ["shim", "--", "qemu", "-device", "virtio-blk-pci,drive=a", "-netdev", "tap,id=net0", "-device",
            "virtio-net-pci,netdev=net0", "-m", "512M"]  # fmt: skip
    assert without_network(argv) == [
        "shim", "--", "qemu", "-device", "virtio-blk-pci,drive=a", "-m", "512M", "-nic", "none",
    ]  # fmt: skip


def test_a_kernel_log_gives_the_stretches_of_a_boot() -> None:
    log = "[    1.500000] Run /init as init process\n[    1.750000] EXT4-fs (vdd): mounted filesystem\n"
    assert list(stretches(log).values()) == [pytest.approx(1500), pytest.approx(250)]


def test_a_ratio_is_taken_turn_by_turn() -> None:
    """A machine that slows down to a third between two turns changes no ratio."""
    goal = ratio("x", Series("a", [12.0, 36.0, 36.0]), Series("b", [10.0, 30.0, 30.0]), 1.2)
    assert goal.figure == pytest.approx(1.2)
    assert goal.met
    assert not ratio("x", Series("a", [13.0]), Series("b", [10.0]), 1.2).met


def test_a_table_lines_up() -> None:
    assert table("t", ("", "ms"), [("a", "1.00"), ("long name", "12.5")]).splitlines()[2:] == [
        "             ms",
        "---------  ----",
        "a          1.00",
        "long name  12.5",
    ]
