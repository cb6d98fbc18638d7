"""bangerd goes, guests stay: kill -9 and a restart disturb neither VMs nor sessions."""

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.guest.machine import Machine, User
from tests.patience import patience


@pytest.fixture
def web(alice: User) -> Iterator[str]:
    alice.ok("vm", "create", "--name", "web")
    alice.ok("vm", "start", "web")
    yield "web"
    alice.banger("vm", "delete", "web")


def boot_id(user: User, vm: str) -> str:
    return user.ok("vm", "exec", vm, "--", "cat", "/proc/sys/kernel/random/boot_id")


def test_guest_and_session_survive_kill_9(alice: User, machine: Machine, web: str) -> None:
    before = boot_id(alice, web)
    session = alice.popen(
        "banger", "vm", "exec", web, "--", "cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert session.stdin is not None
    assert session.stdout is not None
    try:
        session.stdin.write(b"one\n")
        session.stdin.flush()
        assert session.stdout.readline() == b"one\n"
        first = machine.kill_service()
        session.stdin.write(b"two\n")
        session.stdin.flush()
        assert session.stdout.readline() == b"two\n", "the session went through bangerd"
        assert boot_id(alice, web) == before  # the call starts bangerd again
        assert machine.host.service_pid() != first
        session.stdin.close()
        assert session.wait(20) == 0
    finally:
        session.kill()
        session.wait()
        session.stdout.close()
    assert alice.state(web) == "running"
    alice.ok("vm", "stop", web)
    assert alice.state(web) == "stopped"


@pytest.mark.lab
def test_guest_that_ends_while_bangerd_is_away(alice: User, machine: Machine, web: str) -> None:
    script = "echo armed; sleep 3; systemctl poweroff --force --force"
    client = alice.popen("banger", "vm", "exec", web, "--", "sh", "-c", script, stdout=subprocess.PIPE)
    assert client.stdout is not None
    with client.stdout:
        assert client.stdout.readline() == b"armed\n"
        machine.kill_service()
        client.wait(60)
    for pid, line in machine.netns.processes().items():
        if "banger-shim" in line:
            subprocess.run(["tail", f"--pid={pid}", "-f", "/dev/null"], timeout=patience(60), check=True)
    assert "banger-shim" not in " ".join(machine.netns.processes().values())
    while (state := alice.state(web)) == "starting":
        assert "banger-shim" not in " ".join(machine.netns.processes().values()), "it was started again"
    assert state == "stopped"


def test_client_says_that_the_service_went(alice: User, machine: Machine) -> None:
    """A client that waits for a job when bangerd dies ends with a clear message, and the VM is as wanted."""
    alice.ok("vm", "create", "--name", "late")
    client = alice.popen("banger", "vm", "start", "late", stderr=subprocess.PIPE)
    assert client.stderr is not None
    while not any(job["state"] == "running" for job in alice.json("job", "list")):
        assert client.poll() is None, client.stderr.read()
    machine.kill_service()
    _, said = client.communicate(timeout=60)
    try:
        assert client.returncode in (0, 1), said
        if client.returncode == 1:
            assert b"service" in said or b"bangerd" in said, said
        alice.ok("vm", "start", "late")
        assert alice.state("late") == "running"
    finally:
        alice.ok("vm", "delete", "late")


@pytest.fixture
def without_vmm(machine: Machine) -> Iterator[None]:
    """The admin's config wants a VMM that is not there. The service that reads it is yet to start."""
    config = machine.layout.runtime / "banger.toml"
    before = config.read_text()
    kept = [line for line in before.splitlines() if not line.startswith(("vmm", "firecracker_bin"))]
    config.write_text("\n".join(['firecracker_bin = "/usr/local/bin/gone"', *kept]))
    machine.kill_service()
    yield
    config.write_text(before)
    machine.kill_service()


@pytest.mark.lab
@pytest.mark.usefixtures("web", "without_vmm")
def test_without_a_vmm_what_runs_is_looked_after(alice: User) -> None:
    """Nothing is started, with the reason; the VM that runs is as ever."""
    boot_id(alice, "web")
    why = "/usr/local/bin/gone cannot be used: No such file or directory"
    for command, status in ((("run", "--", "true"), 125), (("restart", "web"), 1)):
        done = alice.banger("vm", *command)
        assert (done.status, why in done.err) == (status, True), done
    checks = {check["name"]: check for check in json.loads(alice.banger("doctor", "--json").out)}
    assert checks["vmm"]["state"] == "failed"
    assert why in checks["vmm"]["text"]
    assert alice.state("web") == "running"
    alice.ok("vm", "stop", "web")
    assert why in alice.banger("vm", "start", "web").err
    assert alice.state("web") == "stopped"
