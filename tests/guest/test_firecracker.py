"""What the driver asks of a Firecracker that runs: each request is seen to have its effect, in guest or host."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bangerd.core.vmm import Capability, Rates
from bangerd.host.disk import DiskFiles
from bangerd.host.firecracker import Firecracker, read_version
from bangerd.model.errors import HostNotReady, StepFailed
from bangerd.model.vm import MIB
from tests.guest.machine import Netns
from tests.guest.vmm_alone import VMMAlone
from tests.patience import patience

pytestmark = pytest.mark.lab


@pytest.fixture
async def alone(library: Path, tmp_path: Path, firecracker_bin: Path) -> AsyncIterator[VMMAlone]:
    """Firecracker as the driver has it started, its guest ready."""
    tmp_path.chmod(0o711)
    for folder in tmp_path.parents[:2]:
        folder.chmod(0o711)
    disks = DiskFiles(tmp_path / "state", tmp_path / "run")
    driver = Firecracker(firecracker_bin, await read_version(firecracker_bin), disks, Rates())
    netns = Netns(f"bgf{os.getpid()}")
    rig = VMMAlone(driver, disks, library, netns.within, uid=700_000_000 + os.getpid() % 100_000)
    try:
        await rig.prepare()
        rig.start()
        await rig.ready()
        yield rig
    finally:
        await rig.close()
        netns.close()


def driver_of(alone: VMMAlone) -> Firecracker:
    assert isinstance(alone.driver, Firecracker)
    return alone.driver


async def test_pause_stops_the_guest_and_resume_lets_it_go_on(alone: VMMAlone) -> None:
    driver = driver_of(alone)
    if Capability.PAUSE not in driver.capabilities:  # docs/vmm.md
        with pytest.raises(HostNotReady, match="hear nothing of their host after a pause"):
            await driver.pause(alone.vm)
        assert await alone.sh("echo still here") == "still here\n"
        return
    assert not await driver.paused(alone.vm)
    begun = asyncio.Event()
    asked = asyncio.create_task(alone.sh("echo up; sleep 1; echo on", begun))
    await begun.wait()
    await driver.pause(alone.vm)
    assert await driver.paused(alone.vm)
    await asyncio.sleep(3)
    assert not asked.done()
    await driver.resume(alone.vm)
    assert await asked == "up\non\n"
    assert not await driver.paused(alone.vm)
    assert await alone.sh("echo new") == "new\n"


async def test_metrics_count_what_the_guest_does(alone: VMMAlone) -> None:
    driver = driver_of(alone)
    await driver.metrics(alone.vm)
    await alone.sh("dd if=/dev/zero of=/root/file bs=1M count=8 conv=fsync 2>/dev/null")
    found = await driver.metrics(alone.vm)
    block, vsock = found["block"], found["vsock"]
    assert isinstance(block, dict)
    assert isinstance(vsock, dict)
    assert block["write_bytes"] >= 8 * MIB
    assert vsock["tx_bytes_count"] > 0


async def test_a_rate_limit_holds_and_can_be_taken_away(alone: VMMAlone) -> None:
    driver = driver_of(alone)
    write = "dd if=/dev/zero of=/root/file bs=1M count=12 oflag=direct 2>/dev/null"

    async def seconds() -> float:
        start = time.monotonic()
        await alone.sh(write)
        return time.monotonic() - start

    await driver.limit(alone.vm, Rates(disk=MIB, network=MIB))
    limited = await seconds()
    assert limited > 8  # of 12 MiB the first may go at once
    await driver.limit(alone.vm, Rates())
    assert await seconds() < limited / 2


async def test_a_snapshot_is_restored_where_it_was(alone: VMMAlone, tmp_path: Path) -> None:
    """Memory, disk and the guest program come back; the shim finds it again by its vsock."""
    driver = driver_of(alone)
    if Capability.SNAPSHOT not in driver.capabilities:
        pytest.skip("needs Firecracker of a version that pauses VMs: docs/vmm.md")
    await alone.sh("echo remembered >/run/note; echo written >/root/note; sync")
    with pytest.raises(StepFailed, match="refused"):
        await driver.snapshot(alone.vm, "state", "memory")  # it runs
    await driver.pause(alone.vm)
    await driver.snapshot(alone.vm, "state", "memory")
    alone.keep(tmp_path / "kept", ("seed.img", "state", "memory"))
    alone.kill()

    alone.put_back(tmp_path / "kept")
    alone.start(configured=False)
    await alone.listens("api.sock")
    await driver.restore(alone.vm, "state", "memory", resume=True)
    await alone.ready()
    await alone.shims.set_clock(alone.vm)
    assert abs(float(await alone.sh("date +%s")) - time.time()) < patience(5)
    assert await alone.sh("cat /run/note /root/note") == "remembered\nwritten\n"
