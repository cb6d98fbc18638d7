"""What each driver can do with a VMM that runs: memory given back, limits, balloon, snapshot, the power button."""

import asyncio
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bangerd.config import parse
from bangerd.core.vmm import Capability, Driver, Rates
from bangerd.host import drivers
from bangerd.host.disk import DiskFiles
from bangerd.host.facts import probe_kvm
from bangerd.model.errors import HostNotReady
from bangerd.model.vm import GIB, MIB, VM, Desired, VMSpec
from tests.guest.machine import ALICE, Machine, User
from tests.ocilayout import folder, member, symlink, tar
from tests.patience import until

pytestmark = pytest.mark.needs("sqfstar")

MEMORY, TOUCHED = 640 * MIB, 256 * MIB


@dataclass(frozen=True, slots=True)
class Running:
    """A VM's VMM, and the driver as the service has it."""

    driver: Driver
    vm: VM
    pid: int
    run_dir: Path

    def memory(self) -> int:
        """Bytes of the host's that it has."""
        found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{self.pid}/status").read_text(), re.MULTILINE)
        assert found
        return int(found[1]) * 1024


def running(machine: Machine, alice: User, vmm_config: str, name: str) -> Running:
    shown = alice.json("vm", "show", name)
    sid = shown["short_id"]
    disks = DiskFiles(machine.state, machine.layout.runtime / "banger")
    (pid,) = (
        pid
        for pid, line in machine.netns.processes().items()
        if sid in line and Path(f"/proc/{pid}/comm").read_text().startswith(("qemu", "firecracker"))
    )
    spec = VMSpec(image="", kernel="", vcpu=1, memory=shown["memory"], disk=GIB)
    vm = VM("", sid, name, 0, "", spec, Desired.RUNNING, uid=Path(f"/proc/{pid}").stat().st_uid)
    chosen = drivers.Drivers(parse(vmm_config), disks, probe_kvm)
    asyncio.run(chosen.check())
    driver = chosen.of(vm)
    assert shown["vmm"] == driver.name
    assert set(shown["capabilities"]) == driver.capabilities
    return Running(driver, vm, pid, disks.run_dir(vm))


@pytest.fixture(scope="module")
def image(machine: Machine) -> Iterator[str]:
    """A busybox: no udev that would load a module."""
    busybox = member("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    applets = (symlink(f"bin/{name}", "busybox") for name in ("sh", "dd", "rm", "cat", "ls"))
    alice = machine.user(ALICE)
    alice.ok("image", "import", "box", "-", stdin=tar([folder("bin"), busybox, *applets]))
    yield "box"
    alice.ok("image", "delete", "box")


@pytest.fixture
def box(machine: Machine, alice: User, vmm_config: str, image: str) -> Iterator[Running]:
    alice.ok(
        "vm", "create", "--name", "box", "--image", image, "--memory", f"{MEMORY // MIB}M", "--vcpu", "1"
    )
    alice.ok("vm", "start", "box")
    yield running(machine, alice, vmm_config, "box")
    alice.ok("vm", "delete", "box")


def inside(alice: User, script: str) -> str:
    return alice.ok("vm", "exec", "box", "--", "/bin/sh", "-c", f"PATH=/bin; {script}")


@pytest.mark.lab
def test_memory_that_a_guest_has_freed_is_the_hosts_again(alice: User, box: Running) -> None:
    if Capability.FREE_PAGE_REPORTING not in box.driver.capabilities:
        pytest.skip("needs Firecracker with free page reporting: 1.14")
    before = box.memory()  # in huge pages: of some, the guest has only touched a part
    inside(alice, f"dd if=/dev/zero of=/dev/shm/much bs=1M count={TOUCHED // MIB} 2>/dev/null")
    much = box.memory()
    assert much > before + TOUCHED * 3 // 4
    inside(alice, "rm /dev/shm/much")
    until(lambda: box.memory() < much - TOUCHED * 3 // 4, lambda: f"{much} bytes became {box.memory()}")


@pytest.mark.lab
def test_a_guest_has_an_entropy_device(alice: User, box: Running) -> None:
    """The driver is loaded when the guest is up, by nobody but the guest program."""
    current = "cat /sys/class/misc/hw_random/rng_current"
    until(lambda: inside(alice, current).startswith("virtio_rng"), lambda: inside(alice, current))


async def _use(box: Running) -> None:
    driver, vm = box.driver, box.vm
    network = Capability.NETWORK_RATE in driver.capabilities
    await driver.limit(vm, Rates(disk=MIB, network=MIB if network else 0))
    await driver.limit(vm, Rates())
    await driver.balloon(vm, 64 * MIB)
    await driver.balloon(vm, 0)
    if Capability.METRICS in driver.capabilities:
        assert "vcpu" in await driver.metrics(vm)
    if Capability.PAUSE not in driver.capabilities:
        return
    await driver.pause(vm)
    assert await driver.paused(vm)
    if Capability.SNAPSHOT in driver.capabilities:
        await driver.snapshot(vm, "state", "memory")
        assert (box.run_dir / "memory").stat().st_size == vm.spec.memory
        assert (box.run_dir / "state").stat().st_size > 0
    else:
        with pytest.raises(HostNotReady):
            await driver.snapshot(vm, "state", "memory")
    await driver.resume(vm)
    assert not await driver.paused(vm)


@pytest.mark.lab
def test_the_whole_interface_with_a_real_vmm(alice: User, box: Running) -> None:
    # The guest's driver of the balloon is there a moment after the guest is.
    until(lambda: "virtio_balloon" in inside(alice, "ls /sys/bus/virtio/drivers"), "the balloon's driver")
    asyncio.run(_use(box))
    assert inside(alice, "echo fine") == "fine\n"


def seconds_to_read(alice: User) -> float:
    """5 MiB of its own disk."""
    begun = time.monotonic()
    inside(alice, "dd if=/dev/vdd of=/dev/null bs=1M count=5 skip=1000 iflag=direct 2>/dev/null")
    return time.monotonic() - begun


@pytest.mark.lab
def test_a_limit_of_disks_holds_and_can_be_lifted(alice: User, box: Running) -> None:
    asyncio.run(box.driver.limit(box.vm, Rates(disk=MIB)))
    limited = seconds_to_read(alice)
    assert limited > 3
    asyncio.run(box.driver.limit(box.vm, Rates()))
    assert seconds_to_read(alice) < limited


@pytest.mark.lab
def test_the_power_button_of_an_image_without_init(alice: User, box: Running) -> None:
    """It is a reboot in order: what was written is there afterwards."""
    inside(alice, "echo kept >/note")
    before = boot_of(alice)
    asyncio.run(box.driver.power_button(box.vm))
    until(lambda: boot_of(alice) not in ("", before), lambda: alice.ok("vm", "logs", "box")[-2000:])
    assert inside(alice, "cat /note") == "kept\n"


INIT = b"""#!/bin/sh
PATH=/bin
trap 'echo pressed >/note' INT
while :; do sleep 1 & wait; done
"""


def test_the_power_button_resets_no_machine_whose_init_knows_none(
    machine: Machine, alice: User, vmm_config: str
) -> None:
    """Such an init may be busy with stopping in order; a reset would lose what it has not written yet."""
    busybox = member("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    links = [symlink(f"bin/{name}", "busybox") for name in ("sh", "sleep", "cat")]
    init = member("sbin/init", INIT, mode=0o755)
    alice.ok(
        "image", "import", "own", "-", stdin=tar([folder("bin"), folder("sbin"), busybox, *links, init])
    )
    try:
        alice.ok("vm", "create", "--name", "box", "--image", "own", "--memory", "256M", "--vcpu", "1")
        alice.ok("vm", "start", "box")
        vm, before = running(machine, alice, vmm_config, "box"), boot_of(alice)
        asyncio.run(vm.driver.power_button(vm.vm))
        until(
            lambda: "pressed" in inside(alice, "cat /note || :"),
            lambda: alice.ok("vm", "logs", "box")[-2000:],
        )
        assert boot_of(alice) == before
    finally:
        alice.banger("vm", "delete", "box")
        alice.ok("image", "delete", "own")


def boot_of(alice: User) -> str:
    """Of the guest that answers now; "" while there is none."""
    done = alice.banger("vm", "exec", "box", "--", "/bin/cat", "/proc/sys/kernel/random/boot_id")
    return done.out if done.status == 0 else ""


def test_a_systemd_that_has_lost_its_agent_stops_in_order(alice: User) -> None:
    """By the power button, before the VM would be ended: what it still has to write gets to the disk."""
    alice.ok("vm", "create", "--name", "mute", "--memory", "512M")
    alice.ok("vm", "start", "mute")
    try:
        script = (
            'until [ "$(systemctl is-system-running)" = running ] || systemctl --failed -q; do sleep 0.3; done;'
            "systemd-run -q -p ExecStop='/bin/sh -c \"echo in order >/root/end\"' -p RemainAfterExit=yes true"
        )
        alice.ok("vm", "exec", "mute", "--", "sh", "-c", script)
        kill = "setsid sh -c 'sleep 1; pkill -KILL banger-agent' >/dev/null 2>&1 </dev/null &"
        alice.ok("vm", "exec", "mute", "--", "sh", "-c", kill)
        alice.ok("vm", "stop", "mute")
        alice.ok("vm", "start", "mute")
        assert alice.ok("vm", "exec", "mute", "--", "cat", "/root/end") == "in order\n"
    finally:
        alice.ok("vm", "delete", "mute")
