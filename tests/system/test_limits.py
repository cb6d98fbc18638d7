"""What holds a VM within its share of the machine, shown by VMs that want more: no container can show it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.patience import until
from tests.system.here import LAB
from tests.system.installed import CONFIG, SMALL, banger, configure, running, show, vms_of, with_each_vmm
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


@with_each_vmm
def test_a_guest_can_use_all_its_memory(installed: Machine) -> None:
    """What the VMM and the kernel need beside it is allowed for: nothing is killed for it."""
    running(installed, "full")
    vm = RunningVM.find(installed, "full")
    script = (
        "free = int(next(l for l in open('/proc/meminfo') if l.startswith('MemAvailable')).split()[1])\n"
        "taken = bytearray(free * 1024 * 85 // 100)\n"
        "taken[::4096] = b'x' * len(taken[::4096])\n"
        "print(len(taken))"
    )
    taken = int(banger(installed, "vm", "exec", "full", "--", "python3", "-c", script)[1])
    assert taken > 150 * MIB
    assert vm.memory_events()["oom_kill"] == 0
    peak = int(vm.cgroup("memory.peak"))
    assert taken < peak <= int(vm.cgroup("memory.max")), (taken, peak)
    print(f"of {vm.cgroup('memory.max')} bytes at most {peak} were used")


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


def test_a_vm_that_runs_and_is_ended_for_memory_says_so(installed: Machine) -> None:
    """Something else in its unit has taken what the limit leaves, and may not be ended itself."""
    running(installed, "web")
    vm = RunningVM.find(installed, "web")
    free = int(vm.cgroup("memory.max")) - int(vm.cgroup("memory.current"))
    script = (
        f"import os, time\nopen('/proc/self/oom_score_adj', 'w').write('-1000')\n"
        f"open('{SLICE}/{vm.unit}/cgroup.procs', 'w').write(str(os.getpid()))\n"
        f"x = bytearray({free + 64 * MIB}); x[::4096] = b'x' * len(x[::4096]); time.sleep(1000)"
    )
    with installed.spawn("python3", "-c", script):
        until(lambda: vms_of(installed, "alice")[0]["state"] != "running", "web's end")
    assert TOLD in banger(installed, "vm", "show", "web")[1]
    banger(installed, "vm", "start", "web")
    assert banger(installed, "vm", "exec", "web", "--", "echo", "again")[1] == "again\n"


def test_a_vmm_cannot_make_processes_without_end(installed: Machine) -> None:
    _, said = start_impostor(installed, "fork-away")
    found = re.search(r"processes (\d+) errno (\d+)", said)
    assert found, said
    assert 4 < int(found[1]) < 200
    assert int(found[2]) == 11  # EAGAIN


def test_a_vmm_cannot_write_more_than_its_disks_size(installed: Machine) -> None:
    _, said = start_impostor(installed, "fill-the-host", "--disk", "512M")
    assert f"limit {512 * MIB} within 1 beyond -1 errno 27" in said  # EFBIG


def test_what_the_kernel_holds_a_unit_to(installed: Machine) -> None:
    running(installed, "web", "--vcpu", "1", "--memory", "384M", "--disk", "1G")
    vm = RunningVM.find(installed, "web")
    overhead = int(vm.cgroup("memory.max")) - 384 * MIB
    assert 0 < overhead <= 256 * MIB
    assert vm.cgroup("cpu.max") == "200000 100000"
    assert vm.cgroup("cpu.weight") == "50"
    assert int(vm.cgroup("pids.max")) < 200
    weights = [
        SLICE / vm.unit / name
        for name in ("io.weight", "io.bfq.weight")
        if (SLICE / vm.unit / name).exists()
    ]
    assert weights or "io" not in (SLICE / "cgroup.subtree_control").read_text().split()
    assert all(path.read_text().split()[1] == "50" for path in weights)
    for pid in (vm.shim, vm.vmm):
        rows = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
        limits = {row[:25].strip(): row[25:].split()[:2] for row in rows}
        assert limits["Max file size"] == [str(1024 * MIB)] * 2
        assert limits["Max open files"] == ["4096"] * 2
        assert limits["Max core file size"] == ["0"] * 2
        assert limits["Max locked memory"] == [str(8 * MIB)] * 2
        assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "300"


def test_a_busy_guest_gets_no_more_than_its_quota(installed: Machine) -> None:
    """Of half a CPU here, for the sake of small machines: its own quota is more than its one CPU can use."""
    running(installed, "busy")
    vm = RunningVM.find(installed, "busy")
    installed.run("systemctl", "set-property", "--runtime", vm.unit, "CPUQuota=50%")
    with busy(installed, "busy"):
        (used,) = cpu_use([SLICE / vm.unit], MEASURE_S)
    print(f"{used:.2f} CPUs used of 0.50")
    assert 0.3 < used < 0.6


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


@with_each_vmm
def test_a_host_without_memory_takes_it_from_a_vm(installed: Machine) -> None:
    """Rather than from anything else; and what was ended is told."""
    running(installed, "web")
    vm = RunningVM.find(installed, "web")
    service = show(installed, "banger.service", "MainPID")
    since = installed.sh("date +%s").strip()
    with little_memory_left(machine=installed):
        until(lambda: not Path(f"/proc/{vm.vmm}").exists(), "the VMM's end")
    kernel = installed.sh(f"journalctl -k -o cat --no-pager --since=@{since}")
    killed = re.findall(r"Out of memory: Killed process (\d+)", kernel)
    assert killed[0] == str(vm.vmm), kernel
    assert show(installed, "banger.service", "MainPID") == service
    until(lambda: vms_of(installed, "alice")[0]["state"] != "running", "the record of its end")
    assert TOLD in banger(installed, "vm", "show", "web")[1]


@contextmanager
def little_memory_left(machine: Machine) -> Iterator[None]:
    """All but a little of the machine's memory is set aside, and the little is wanted by what must not be ended."""
    pages = Path("/proc/sys/vm/nr_hugepages")
    rows = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(rows["MemAvailable"].split()[0]) * 1024
    wanted = 1024 * MIB
    assert free > wanted
    pages.write_text(str((free - wanted // 2) // (2 * MIB)))
    script = f"x = bytearray({wanted}); x[::4096] = b'x' * len(x[::4096]); import time; time.sleep(1000)"
    try:
        with machine.spawn(
            "systemd-run", "-q", "--pipe", "--wait", "-p", "OOMScoreAdjust=-1000", "python3", "-c", script
        ):
            yield
    finally:
        pages.write_text("0")
