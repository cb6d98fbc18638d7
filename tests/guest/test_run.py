"""The product's main command, as an unprivileged user runs it."""

import re
import time
from collections.abc import Callable

import pytest

from tests.guest.machine import Machine, Terminal, User
from tests.patience import until


def test_output_and_status_of_a_command_in_a_throwaway_vm(alice: User) -> None:
    done = alice.banger("vm", "run", "--rm", "--", "sh", "-c", "cat /etc/os-release; uname -r; exit 7")
    assert done.status == 7, done
    assert 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"' in done.out
    assert re.search(r"^6\.1\.\d+-\d+-cloud-amd64$", done.out, re.MULTILINE)


@pytest.mark.lab
def test_streams_are_apart_and_stdin_reaches_the_command(alice: User) -> None:
    data = bytes(range(256)) * 4096  # 1 MiB that no terminal or text layer would let through unchanged
    done = alice.banger("vm", "run", "--rm", "--", "sh", "-c", "sha256sum; echo oops >&2", stdin=data)
    assert done.status == 0, done
    assert done.out.split()[0] == "fbbab289f7f94b25736c58be46a994c441fd02552cc6022352e3d86d2fab7c83"
    assert "oops" in done.err
    assert "oops" not in done.out


def test_statuses_of_what_cannot_run(alice: User) -> None:
    """One VM for all: 127 not found, 126 not executable, 128+n by a signal."""
    name = alice.ok("vm", "create").strip()
    alice.ok("vm", "start", name)
    try:
        assert alice.banger("vm", "exec", name, "--", "no-such-program").status == 127
        assert alice.banger("vm", "exec", name, "--", "/etc/passwd").status == 126
        assert alice.banger("vm", "exec", name, "--", "sh", "-c", "kill -TERM $$").status == 128 + 15
        assert alice.banger("vm", "exec", name, "--", "sh", "-c", "exit 255").status == 255
    finally:
        alice.ok("vm", "delete", name)


@pytest.mark.lab
def test_a_shell_on_a_terminal(terminal: Callable[..., Terminal]) -> None:
    """Line editing, window size and its changes, Ctrl-C, and `exit 3` gives 3."""
    prompt = r":~# "
    shell = terminal("banger", "vm", "run", "--rm", rows=40, columns=132)
    shell.expect(prompt)
    shell.type("stty size\r")
    shell.expect(r"40 132")
    shell.expect(prompt)
    shell.resize(50, 100)  # the kernel tells the terminal's foreground group
    shell.type("stty size\r")
    shell.expect(r"50 100")
    shell.expect(prompt)
    shell.type("echo helo\x1b[Dl\r")  # cursor left, insert: hel-l-o
    shell.expect(r"[\r\n]hello\r\n")
    shell.expect(prompt)
    shell.type("sh -c 'echo on; exec sleep 1000'\r")
    shell.expect(r"[\r\n]on\r\n")
    shell.type("\x03")
    shell.expect(prompt)
    shell.type("echo status $?\r")
    shell.expect(r"status 130\r\n")
    shell.expect(prompt)
    shell.type("exit 3\r")
    assert shell.wait() == 3, shell.seen


@pytest.mark.lab
def test_killing_the_client_of_rm_ends_the_vm(alice: User, machine: Machine) -> None:
    client = alice.popen("banger", "vm", "run", "--rm", "--name", "brief", "--", "sleep", "1000")
    try:
        up = {"name": "brief", "state": "running"}.items()
        until(lambda: any(up <= vm.items() for vm in alice.json("vm", "list")), "the VM runs")
    finally:
        client.kill()
        client.wait()
    until(lambda: not (alice.json("vm", "list") or machine.traces()), machine.traces, 20)


@pytest.mark.lab
def test_ctrl_c_while_it_boots_leaves_nothing(alice: User, terminal: Callable[..., Terminal]) -> None:
    shell = terminal("banger", "vm", "run", "--rm", "--name", "early", "--", "true")
    until(lambda: alice.json("vm", "list"), "there is a VM", 30)
    shell.type("\x03")
    assert shell.wait() == 130, shell.seen
    assert alice.json("vm", "list") == []


@pytest.mark.lab
def test_guest_knows_its_machine(alice: User) -> None:
    """Hostname, address, resolver, own disk, modules of the running kernel, a clock that is right."""
    script = "hostname; ip -4 -o addr show eth0; cat /etc/resolv.conf; ls /lib/modules/$(uname -r)/kernel; date +%s"
    done = alice.banger("vm", "run", "--rm", "--name", "facts", "--", "sh", "-c", script)
    assert done.status == 0, done
    lines = done.out.splitlines()
    assert lines[0] == "facts"
    assert re.search(r"172\.16\.0\.\d+/24", done.out)
    assert "drivers" in lines
    stamp = next(int(line) for line in lines if line.isdecimal())
    assert abs(stamp - time.time()) < 30
