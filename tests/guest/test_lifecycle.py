"""A VM that stays: created, started, used, stopped, started again, deleted; and kept from other users."""

import re
from collections.abc import Iterator

import pytest

from tests.guest.machine import ALICE, Machine, User
from tests.patience import until


@pytest.fixture(scope="module")
def web(machine: Machine) -> Iterator[str]:
    """A running VM of Alice's; tests leave it as it is."""
    alice = machine.user(ALICE)
    alice.ok("vm", "create", "--name", "web", "--memory", "512M", "--disk", "2G", "--vcpu", "1")
    alice.ok("vm", "start", "web")
    yield "web"
    alice.ok("vm", "delete", "web")
    assert machine.traces() == []


@pytest.mark.lab
def test_from_create_to_delete(alice: User) -> None:
    assert alice.ok("vm", "create", "--name", "box", "--memory", "512M").strip() == "box"
    assert alice.state("box") == "created"
    alice.ok("vm", "start", "box")
    assert alice.state("box") == "running"
    alice.ok("vm", "exec", "box", "--", "sh", "-c", "echo kept > /root/note; sync")
    alice.ok("vm", "stop", "box")
    assert alice.state("box") == "stopped"
    alice.ok("vm", "start", "box")
    assert alice.ok("vm", "exec", "box", "--", "cat", "/root/note") == "kept\n"
    assert "box" in [vm["name"] for vm in alice.json("vm", "list")]
    alice.ok("vm", "delete", "box")
    assert "box" not in [vm["name"] for vm in alice.json("vm", "list")]


@pytest.mark.lab
def test_spec_reaches_the_guest(alice: User, web: str) -> None:
    shown = alice.json("vm", "show", web)
    assert (shown["vcpu"], shown["memory"], shown["disk"]) == (1, 512 << 20, 2 << 30)
    assert alice.ok("vm", "exec", web, "--", "nproc") == "1\n"
    kib = int(alice.ok("vm", "exec", web, "--", "sh", "-c", "grep MemTotal /proc/meminfo").split()[1])
    assert 400 << 10 < kib < 512 << 10
    size = int(alice.ok("vm", "exec", web, "--", "sh", "-c", "df -B1 --output=size / | tail -n 1"))
    assert 1.7e9 < size < 2 << 30


def test_many_sessions_at_once(alice: User, web: str) -> None:
    clients = [
        alice.popen("banger", "vm", "exec", web, "--", "sh", "-c", f"sleep 1; exit {number}")
        for number in range(8)
    ]
    assert [client.wait(60) for client in clients] == list(range(8))


def test_environment_folder_and_user_of_a_command(alice: User, web: str) -> None:
    done = alice.banger("vm", "exec", web, "--env", "A=b c", "--user", "nobody", "--workdir", "/tmp", "--",
                        "sh", "-c", 'echo "$A"; id -un; pwd')  # fmt: skip
    assert done.out == "b c\nnobody\n/tmp\n", done


@pytest.mark.lab
def test_log_shows_the_console(alice: User, web: str) -> None:
    assert re.search(r"^banger: kernel \d+ ms", alice.ok("vm", "logs", web), re.MULTILINE)


@pytest.mark.lab
def test_guest_that_powers_off_is_stopped(alice: User) -> None:
    alice.ok("vm", "create", "--name", "off")
    alice.ok("vm", "start", "off")
    # The agent answers before the image's systemd is up.
    alice.banger("vm", "exec", "off", "--", "sh", "-c", "until systemctl poweroff; do sleep 0.5; done")
    until(lambda: alice.state("off") == "stopped", "the VM stops", 200)
    alice.ok("vm", "start", "off")
    assert alice.ok("vm", "exec", "off", "--", "echo", "back") == "back\n"
    alice.ok("vm", "delete", "off")


@pytest.mark.parametrize("verb", ["stop", "kill", "delete", "start", "exec", "logs", "show"])
def test_another_user_is_refused_and_told_why(bob: User, alice: User, web: str, verb: str) -> None:
    done = bob.banger("vm", verb, web, *(("--", "true") if verb == "exec" else ()))
    assert done.status in (1, 125), done
    assert "VM 'web' belongs to games" in done.err, done
    assert alice.state(web) == "running"


def test_without_a_rule_nothing_is_allowed(stranger: User) -> None:
    done = stranger.banger("vm", "create", "--name", "mine")
    assert done.status == 1, done
    assert "com.thaloco.banger1.vm.create" in done.err, done
