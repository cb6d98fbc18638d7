"""What holds a VM within its share of the machine, shown by VMs that want more: no container can show it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.system.here import LAB
from tests.system.installed import CONFIG, SMALL, banger, configure, running, vms_of
from tests.system.machine import Machine
from tests.system.unit_of_vm import SLICE, RunningVM, cpu_use

from bangerd.model.vm import MIB

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(not LAB, reason="needs the lab: in a container limits have no effect; tests/lab/run"),
    pytest.mark.usefixtures("nothing_left"),
]

IMPOSTORS = Path("/usr/local/lib/banger-test")
SYSTEM_SLICE = Path("/sys/fs/cgroup/system.slice")
MEASURE_S = 10.0
TOLD = "the kernel ended the VMM for want of memory"
GUEST_BUSY = ("sh", "-c", "echo on; while :; do :; done")


@contextmanager
def impostor(machine: Machine, deed: str) -> Iterator[None]:
    """New VMs get impostor.c in their VMM's place."""
    program = IMPOSTORS / deed
    source = Path(__file__).with_name("impostor.c")
    machine.run("mkdir", "-p", str(IMPOSTORS))
    machine.run("cc", "-static", "-O1", "-o", str(program), str(source))
    kept = Path(CONFIG).read_text().splitlines()
    vmm = "firecracker" if any("firecracker" in line for line in kept) else "qemu"
    configure(machine, f'vmm = "{vmm}"', f'{vmm}_bin = "{program}"')
    try:
        yield
    finally:
        configure(machine, *kept)
        machine.run("rm", "-r", str(IMPOSTORS))


def start_impostor(machine: Machine, deed: str, *sizes: str) -> tuple[str, str]:
    """What `vm start` says of a VM with such a VMM, and what that says itself. Of the size SMALL, or what is added."""
    with impostor(machine, deed):
        banger(machine, "vm", "create", "--name", deed, *SMALL, *sizes)
        status, _, err = banger(machine, "vm", "start", deed, check=False)
        assert status == 1, err
        return err, banger(machine, "vm", "logs", deed)[1]


def memory_max(machine: Machine, name: str) -> int:
    return int(RunningVM.find(machine, name).cgroup("memory.max"))


def test_a_vmm_that_takes_more_memory_is_ended(installed: Machine) -> None:
    """It alone: the shim writes down how it ended; other VMs and the service go on."""
    running(installed, "other")
    limit = memory_max(installed, "other")  # VMs of one size have the same
    since = installed.sh("date +%s").strip()
    err, said = start_impostor(installed, "take-memory")
    assert TOLD in err, err
    steps = [int(line.split()[1]) for line in said.splitlines() if line.startswith("bytes ")]
    assert limit - 32 * MIB < max(steps) <= limit
    kernel = installed.sh(f"journalctl -k -o cat --no-pager --since=@{since}")
    assert re.search(r"task_memcg=/banger\.slice/banger-vm-[0-9a-f]{8}\.service,task=take-memory", kernel), (
        kernel
    )
    assert banger(installed, "vm", "exec", "other", "--", "echo", "alive")[1] == "alive\n"
    states = {vm["name"]: vm["state"] for vm in vms_of(installed, "alice")}
    assert states == {"other": "running", "take-memory": "failed"}
    assert TOLD in banger(installed, "vm", "show", "take-memory")[1]


def test_a_vmm_cannot_make_processes_without_end(installed: Machine) -> None:
    _, said = start_impostor(installed, "fork-away")
    found = re.search(r"processes (\d+) errno (\d+)", said)
    assert found, said
    assert 4 < int(found[1]) < 200
    assert int(found[2]) == 11  # EAGAIN


def test_a_vmm_cannot_write_more_than_its_disks_size(installed: Machine) -> None:
    _, said = start_impostor(installed, "fill-the-host", "--disk", "512M")
    assert f"limit {512 * MIB} within 1 beyond -1 errno 27" in said  # EFBIG


def test_vms_share_and_the_host_goes_first(installed: Machine) -> None:
    """On one CPU that three want: what the host runs gets twice what all VMs get, and these get the same."""
    for name in ("one", "two"):
        running(installed, name)
    vms = [RunningVM.find(installed, name) for name in ("one", "two")]
    load = "banger-test-load.service"
    with busy(installed, "one"), busy(installed, "two"):
        for vm in vms:
            vm.pin(0)
        installed.run(
            "systemd-run", "-q", f"--unit={load}", "-p", "CPUAffinity=0", "sh", "-c", "while :; do :; done"
        )
        try:
            cgroups = [SYSTEM_SLICE / load, SLICE, *(SLICE / vm.unit for vm in vms)]
            host, all_vms, one, two = cpu_use(cgroups, MEASURE_S)
        finally:
            installed.run("systemctl", "stop", load)
    print(f"host {host:.2f}, VMs {all_vms:.2f}: {one:.2f} and {two:.2f}")
    assert 0.8 < host + all_vms < 1.2
    assert 1.4 < host / all_vms < 2.8
    assert 0.6 < one / two < 1.6


@contextmanager
def busy(machine: Machine, name: str) -> Iterator[None]:
    """The guest's CPU has always something to do."""
    words = ("banger", "vm", "exec", name, "--", *GUEST_BUSY)
    with machine.spawn(*words, user="alice", session="active") as session:
        assert session.stdout
        assert session.stdout.readline() == b"on\n"
        yield
