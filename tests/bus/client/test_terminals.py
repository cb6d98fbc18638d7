"""Shells in a terminal: raw mode and back, size, keys."""

import os
import signal
import time

import pytest


@pytest.fixture
def shell(lab, terminal):
    """A shell of the guest in a terminal, at its prompt."""
    opened = terminal("vm", "exec", "web", "--", "sh", "-c", "PS1='> ' exec sh -i")
    opened.before = opened.mode()
    opened.expect("> ")
    return opened


def test_a_shell_with_its_status(lab, terminal):
    lab.set(vms=[{"name": "web", "state": "running", "owner": 0}])
    tty = terminal("vm", "run", "--name", "web")
    before = tty.mode()
    tty.expect("spec:")
    time.sleep(0.5)
    tty.type("PS1=; stty -echo\n")
    tty.type("echo $((6*7)):$TERM:$-\n")
    flags = tty.expect(":xterm:")
    assert "42:" in flags
    tty.type("exit 3\n")
    assert tty.wait() == 3
    assert b"banger vm exec web" in tty.seen
    assert tty.mode() == before


def test_the_terminal_is_raw_meanwhile_and_as_before_afterwards(shell):
    assert shell.mode() != shell.before
    shell.type("exit\n")
    assert shell.wait() == 0
    assert shell.mode() == shell.before


def test_size_at_the_start_and_when_it_changes(lab, terminal):
    tty = terminal(
        "vm",
        "exec",
        "web",
        "--",
        "sh",
        "-c",
        "trap 'stty size' WINCH; stty size; while :; do sleep 0.05; done",
        size=(33, 101),
    )
    tty.expect("33 101")
    tty.resize(40, 120)
    os.kill(tty.process.pid, signal.SIGWINCH)
    tty.expect("40 120")
    tty.type("\x03")
    assert tty.wait() == 130


def test_ctrl_c_is_a_key_of_the_guest(shell):
    shell.type("sleep 60; echo no\n")
    time.sleep(0.3)
    shell.type("\x03")
    shell.expect("> ")
    shell.type("echo st=$?\n")
    shell.expect("st=130")
    shell.type("\x04")
    assert shell.wait() == 0


def test_escape_keys_leave_a_shell_that_hangs(lab, terminal):
    tty = terminal("vm", "exec", "web", "--", "sh", "-c", "trap '' INT HUP; stty raw; echo up; sleep 5")
    before = tty.mode()
    tty.expect("up")
    tty.type("\x1d\x1d\x1d")
    assert tty.wait() == 125
    tty_mode = tty.mode()
    assert tty_mode == before or tty_mode[3] == before[3]


def test_single_escape_keys_are_the_guests(shell):
    shell.type("stty -icanon min 2 -echo; head -c 2 | od -An -tx1; stty icanon echo\n")
    time.sleep(0.3)
    shell.type("\x1d")
    time.sleep(1.2)
    shell.type("\x1d")
    shell.expect("1d 1d")
    shell.type("exit\n")
    assert shell.wait() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_from_outside_ends_it_and_restores_the_terminal(shell, signum):
    shell.process.send_signal(signum)
    assert shell.wait() == 128 + signum
    assert shell.mode() == shell.before


def test_stopped_and_continued(shell):
    """Stopping from outside gives the shell around us its terminal back; going on makes it raw again."""
    raw = shell.mode()
    shell.process.send_signal(signal.SIGTSTP)
    deadline = time.monotonic() + 5
    while shell.mode() != shell.before:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shell.process.send_signal(signal.SIGCONT)
    while shell.mode() != raw:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shell.type("exit 6\n")
    assert shell.wait() == 6


def test_no_tty_on_demand(lab, terminal):
    tty = terminal(
        "vm", "exec", "web", "--no-tty", "--", "sh", "-c", "test -t 1 || echo none; test -t 0 || echo nil"
    )
    tty.expect("none")
    tty.expect("nil")
    assert tty.wait() == 0


def test_a_tty_on_demand(lab):
    done = lab.run("vm", "exec", "web", "--tty", "--", "sh", "-c", "stty size; test -t 2")
    assert (done.status, done.text.strip()) == (0, "24 80")


def test_progress_on_a_terminal(lab, terminal):
    lab.set(jobs={"Start": {"seconds": 2.4, "stages": ["disk", "boot"]}})
    tty = terminal("vm", "start", "web")
    first = tty.expect("disk")
    assert "\r\x1b[K" in first
    tty.expect("50%")
    tty.expect("web: boot")
    tty.expect("web runs")
    assert tty.wait() == 0


def test_no_colour_on_demand(lab, terminal):
    tty = terminal("vm", "list", NO_COLOR="1")
    assert tty.wait() == 0
    assert b"\x1b" not in tty.seen
    tty = terminal("vm", "list")
    assert tty.wait() == 0
    assert b"\x1b[1mNAME" in tty.seen


def test_a_terminal_that_is_resized_while_the_vm_boots(lab, terminal):
    lab.set(jobs={"CreateVM": {"seconds": 1.5}})
    tty = terminal("vm", "run", "--rm", "--", "sh", "-c", "sleep 0.5; stty size")
    lab.wait_for("Describe")
    tty.resize(50, 132)
    tty.expect("50 132")
    assert tty.wait() == 0
