"""What fails is told as what it is, whoever shows it, and leaves nothing: VMMs, guests' kernels, sockets, KVM."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from bangerd.model.newc import trailer
from tests.guest.machine import ALICE, Machine, User
from tests.patience import until
from tests.system.here import LAB

FULL = (
    "echo 2 >/proc/sys/vm/panic_on_oom; mount -t tmpfs -o size=1G none /mnt; dd if=/dev/zero of=/mnt/x bs=1M"
)
CRASH = ("sh", "-c", "echo c >/proc/sysrq-trigger")


def vmm_of(machine: Machine, alice: User, vm: str) -> int:
    """The VMM's process."""
    sid = alice.json("vm", "show", vm)["short_id"]
    (pid,) = (
        pid
        for pid, words in machine.netns.processes().items()
        if sid in words and "banger-shim" not in words and "--log" not in words
    )
    return pid


def shown(alice: User, vm: str) -> tuple[str, str, str]:
    """What `vm show` says: state, how the last run ended, why it failed."""
    told = alice.json("vm", "show", vm)
    return told["state"], told["end_reason"], told["error"]


@pytest.fixture
def web(alice: User) -> Iterator[str]:
    """A VM that runs; afterwards one that can still be started and used, whatever was done to it."""
    alice.ok("vm", "create", "--name", "web", "--memory", "256M")
    alice.ok("vm", "start", "web")
    yield "web"
    alice.ok("vm", "start", "web")
    assert alice.ok("vm", "exec", "web", "--", "echo", "up") == "up\n"
    assert shown(alice, "web") == ("running", "", "")
    alice.ok("vm", "delete", "web")


@pytest.mark.parametrize("rm", [pytest.param(False, marks=pytest.mark.lab), True])
def test_a_vmm_that_is_killed_under_a_session(machine: Machine, alice: User, web: str, rm: bool) -> None:
    vm = "once" if rm else web
    command = ("run", "--rm", "--name", vm) if rm else ("exec", vm)
    client = alice.popen(
        "banger", "vm", *command, "--", "sh", "-c", "echo on; sleep 1000",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout is not None
    assert client.stdout.readline() == b"on\n"
    os.kill(vmm_of(machine, alice, vm), signal.SIGKILL)
    _, err = client.communicate(timeout=30)
    assert client.returncode == 125
    why = "the VMM was killed from outside: by root, or by the kernel for want of memory"
    assert f"the guest went away before the command ended: {why}" in err.decode()
    if rm:
        assert vm not in [row["name"] for row in alice.json("vm", "list")]
        return
    assert shown(alice, vm) == ("failed", "vmm-failed", why)
    again = alice.banger("vm", "exec", vm, "--", "true")
    assert (again.status, again.err) == (
        125, f"banger: VM '{vm}' has failed: {why}; `banger vm start {vm}` starts it\n",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        pytest.param(CRASH, "sysrq triggered crash", marks=pytest.mark.lab),
        (("sh", "-c", f"echo 0 >/proc/sys/kernel/panic; {CRASH[2]}"), "sysrq triggered crash"),
        (("sh", "-c", FULL), "Out of memory: "),
    ],
    ids=["restarts", "stays", "memory"],
)
def test_a_kernel_that_panics(alice: User, web: str, command: tuple[str, ...], reason: str) -> None:
    """Also one that would stay so for ever: to nobody's use, and with the VM's memory."""
    done = alice.banger("vm", "exec", web, "--", *command)
    told = f"the guest's kernel panicked: {reason}"
    assert done.status == 125
    first, *console = done.err.splitlines()
    assert f"the guest went away before the command ended: {told}" in first
    assert "at the end of its console:" in first
    assert [line for line in console if line.startswith("  | ") and "Kernel panic - not syncing: " in line]
    state, ended, error = shown(alice, web)
    assert (state, ended) == ("failed", "panic")
    assert error.startswith(told)
    assert "Kernel panic - not syncing" in alice.ok("vm", "logs", web)


def test_a_panic_in_a_vm_that_its_client_deletes(machine: Machine, alice: User) -> None:
    before = machine.traces()
    done = alice.banger("vm", "run", "--rm", "--", *CRASH)
    assert done.status == 125
    assert "the guest's kernel panicked: sysrq triggered crash; at the end of its console:\n  | " in done.err
    assert machine.traces() == before


@contextmanager
def without_init(machine: Machine) -> Iterator[None]:
    """Kernels of this machine find nothing to run."""
    (initrd,) = (machine.state / "kernels").glob("*/initrd")
    empty = machine.folder / "empty.cpio"
    empty.write_bytes(trailer())
    within = ("nsenter", "--mount", f"--target={machine.host.activate()}")
    subprocess.run([*within, "mount", "--bind", empty, initrd], check=True)
    try:
        yield
    finally:
        subprocess.run([*within, "umount", initrd], check=True)


def test_a_kernel_that_panics_when_it_boots(machine: Machine, alice: User) -> None:
    before = machine.traces()
    told = r"the guest's kernel panicked: VFS: Unable to mount root fs"
    with without_init(machine):
        done = alice.banger("vm", "run", "--rm", "--name", "once", "--", "true")
        assert done.status == 125
        assert f"banger: cannot create VM 'once': {told}" in done.err
        assert "\n  | " in done.err
        assert machine.traces() == before
        alice.ok("vm", "create", "--name", "web")
        error = json.loads(alice.banger("vm", "start", "web", "--json").err.splitlines()[-1])
        assert error["error"] == "GuestFailed"
        assert error["message"].startswith(f"cannot start VM 'web': {told}")
    state, ended, why = shown(alice, "web")
    assert (state, ended) == ("failed", "panic")
    assert why.startswith(told)
    assert "at the end of its console:\n  | " in why
    alice.ok("vm", "start", "web")
    alice.ok("vm", "delete", "web")


@pytest.mark.lab
def test_a_vmm_that_does_not_answer(machine: Machine, alice: User, web: str) -> None:
    """It keeps nobody else waiting, and its guest is none the worse when it goes on."""
    vmm = vmm_of(machine, alice, web)
    os.kill(vmm, signal.SIGSTOP)
    try:
        pause = alice.popen("banger", "vm", "pause", web, stderr=subprocess.PIPE)
        alice.ok("vm", "run", "--rm", "--name", "other", "--", "true")
        alice.ok("vm", "show", web)
        _, err = pause.communicate(timeout=60)
    finally:
        os.kill(vmm, signal.SIGCONT)
    assert pause.returncode == 1
    assert f"banger: cannot pause VM '{web}': " in err.decode()
    assert "did not" in err.decode()
    assert shown(alice, web) == ("running", "", "")
    assert alice.ok("vm", "exec", web, "--", "echo", "on") == "on\n"
    if can_pause(alice, web):
        alice.ok("vm", "pause", web)
        assert alice.state(web) == "paused"


def can_pause(alice: User, vm: str) -> bool:
    """Not with Firecracker 1.16: docs/vmm.md."""
    return "pause" in alice.json("vm", "show", vm)["capabilities"]


def test_a_paused_vm_whose_vmm_does_not_answer_can_be_ended(machine: Machine, alice: User, web: str) -> None:
    if not can_pause(alice, web):
        pytest.skip("needs Firecracker of a version that pauses VMs: docs/vmm.md")
    alice.ok("vm", "pause", web)
    os.kill(vmm_of(machine, alice, web), signal.SIGSTOP)
    resume = alice.banger("vm", "resume", web)
    assert resume.status == 1, resume
    assert alice.state(web) == "paused"
    alice.ok("vm", "stop", web)
    assert alice.state(web) == "stopped"


@pytest.mark.lab
@pytest.mark.skipif(not LAB, reason="needs the lab: it takes the machine's /dev/kvm away")
def test_kvm_that_is_taken_away(machine: Machine, alice: User, web: str) -> None:
    kvm, away = Path("/dev/kvm"), Path("/dev/kvm-away")
    alice.ok("vm", "create", "--name", "later")
    before = machine.traces()
    kvm.rename(away)
    try:
        for command in (("start", "later"), ("run", "--", "true"), ("restart", web)):
            done = alice.banger("vm", *command)
            assert done.status in (1, 125)
            assert "KVM does not work any more: /dev/kvm cannot be opened: No such file" in done.err
        checks = {check["name"]: check for check in json.loads(alice.banger("doctor", "--json").out)}
        assert checks["vmm"]["state"] == "failed"
        assert machine.traces() == before
        assert alice.state("later") == "created"
    finally:
        away.rename(kvm)
    alice.ok("vm", "start", "later")
    alice.ok("vm", "delete", "later")


# VMMs that are none


@dataclass(frozen=True, slots=True)
class StandIn:
    """A machine whose VMM is the test's own program."""

    machine: Machine
    program: Path

    def becomes(self, content: str | bytes, mode: int = 0o755) -> None:
        self.program.unlink(missing_ok=True)
        self.program.write_bytes(content.encode() if isinstance(content, str) else content)
        self.program.chmod(mode)


@pytest.fixture(scope="module")
def stand_in(cache: Path, library: Path) -> Iterator[StandIn]:
    folder = cache / f"stand-in-{os.getpid()}"
    folder.mkdir()
    program = folder / "vmm"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    config = f'vmm = "qemu"\nqemu_bin = "{program}"\nboot_timeout_s = 3\n'
    machine = Machine(f"bgs{os.getpid()}", folder, library, config)
    try:
        machine.start()
        yield StandIn(machine, program)
    finally:
        machine.close()
        shutil.rmtree(folder)


def refused(stand_in: StandIn, code: str) -> str:
    """What a start is told; the same with `vm run --rm`, of which nothing is left. The VM `web` is there then."""
    alice = stand_in.machine.user(ALICE)
    once = alice.banger("vm", "run", "--rm", "--name", "once", "--", "true")
    assert (once.status, once.out) == (125, ""), once
    assert "`banger vm logs once`" not in once.err
    assert stand_in.machine.traces() == []
    alice.ok("vm", "create", "--name", "web")
    done = alice.banger("vm", "start", "web", "--json")
    assert (done.status, done.out) == (1, "")
    told = json.loads(done.err.splitlines()[-1])
    assert told["error"] == code
    why = str(told["message"].removeprefix("cannot start VM 'web': "))
    assert why.splitlines()[0] in once.err
    assert stand_in.machine.running_traces() == []
    return why


@pytest.fixture
def gone(stand_in: StandIn) -> Iterator[None]:
    yield
    stand_in.machine.user(ALICE).ok("vm", "delete", "web")
    assert stand_in.machine.traces() == []


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (
            "echo Could not access KVM: busy >&2; exit 1",
            "the VMM ended with status 1; it said:\n  | Could not access KVM: busy",
        ),
        ("echo chatter; exit 4", "the VMM ended with status 4"),
        ("kill -SYS $$", "the VMM was ended by SIGSYS: it made a system call that its filter forbids"),
        ("kill -SEGV $$", "the VMM crashed (SIGSEGV)"),
    ],
)
@pytest.mark.usefixtures("gone")
def test_a_vmm_that_dies_at_its_start(stand_in: StandIn, script: str, told: str) -> None:
    stand_in.becomes(f"#!/bin/sh\n{script}\n")
    assert refused(stand_in, "GuestFailed") == told
    assert shown(stand_in.machine.user(ALICE), "web") == ("failed", "vmm-failed", told)


@pytest.mark.usefixtures("gone")
def test_a_vmm_that_is_silent(stand_in: StandIn) -> None:
    stand_in.becomes("#!/bin/sh\necho what it meant >&2; exec sleep 1000\n")
    alice = stand_in.machine.user(ALICE)
    alice.ok("vm", "create", "--name", "web")
    done = alice.banger("vm", "start", "web")
    assert done.status == 1
    hint = "`banger vm logs web` shows its console; the last words of its VMM and of its console:"
    told = f"cannot start VM 'web': the guest did not answer within 3 s; {hint}\n  | what it meant\n"
    assert done.err.endswith(f"banger: {told}")
    assert stand_in.machine.running_traces() == []
    assert alice.state("web") == "failed"


def foreign_elf() -> bytes:
    program = bytearray(Path("/bin/true").read_bytes())
    program[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64
    return bytes(program)


@pytest.mark.parametrize(
    ("content", "mode", "told"),
    [
        (foreign_elf(), 0o755, f"it is for aarch64, and this machine is {os.uname().machine}"),
        ("#!/bin/sh\n", 0o644, "it is not executable"),
        ("no program", 0o755, "it is neither a program nor a script"),
        ("#!/no/such/interpreter\n", 0o755, "the VMM could not be run; it said:"),
    ],
)
@pytest.mark.usefixtures("gone")
def test_a_vmm_that_is_none(stand_in: StandIn, content: str | bytes, mode: int, told: str) -> None:
    stand_in.becomes(content, mode)
    early = "could not" not in told
    why = refused(stand_in, "HostNotReady" if early else "GuestFailed")
    if early:
        assert why == f"{stand_in.program} cannot be run: {told}"
    else:
        assert why.startswith(told)
        assert f"cannot run {stand_in.program}: No such file or directory" in why


@pytest.mark.usefixtures("gone")
def test_a_vmm_that_is_removed(stand_in: StandIn) -> None:
    stand_in.program.unlink()
    assert (
        refused(stand_in, "HostNotReady") == f"{stand_in.program} cannot be run: No such file or directory"
    )


def test_what_a_client_that_was_killed_would_have_read_is_not_kept(machine: Machine, alice: User) -> None:
    """Of a `vm run --rm` whose VM failed and whose client never asked why."""
    before = machine.traces()
    client = alice.popen(
        "banger", "vm", "run", "--rm", "--name", "once", "--", "sh", "-c", "echo on; sleep 1000",
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert client.stdout is not None
    assert client.stdout.readline() == b"on\n"
    vmm = vmm_of(machine, alice, "once")
    client.kill()
    os.kill(vmm, signal.SIGKILL)
    client.wait()
    client.stdout.close()
    until(lambda: machine.traces() == before, machine.traces, 30)
