"""Which VMM drives a VM, and that what the service runs can be changed by root alone."""

import asyncio
import contextlib
import json
import re
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.unit.test_firecracker import a_vm

from bangerd.config import Config, VMLimits
from bangerd.core.launch import READ_ONLY
from bangerd.core.vmm import Capability, Disk, Driver, Launch, Rates, disk_roles
from bangerd.host import drivers, firecracker
from bangerd.host.disk import DiskFiles
from bangerd.host.qemu import Qemu
from bangerd.model.errors import HostNotReady, StepFailed
from bangerd.model.vm import MIB


@pytest.fixture
def disks(tmp_path: Path) -> DiskFiles:
    found = DiskFiles(tmp_path / "state", tmp_path / "run")
    found.run_dir(a_vm()).mkdir()
    return found


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that says it is Firecracker, where only root can have put it."""
    path = tmp_path / "firecracker"
    path.write_text("#!/bin/sh\necho 'Firecracker v1.17.0'\n")
    path.chmod(0o755)
    monkeypatch.setattr(firecracker, "check_binary", lambda path: path)
    return path


@pytest.fixture
def choose(
    disks: DiskFiles, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Config, bool, bool], Awaitable[drivers.Drivers]]:
    """With this config, on a machine where KVM works or not, and Firecracker is there or not."""
    qemu = binary.with_name("qemu")
    qemu.symlink_to("/bin/true")

    async def chosen(config: Config, works: bool, there: bool) -> drivers.Drivers:
        monkeypatch.setattr(drivers, "SEARCHED", str(binary.parent) if there else "/nonexistent")
        kvm = (works, "it works" if works else "the CPU shows neither vmx nor svm")
        if config.firecracker_bin == "HERE":
            config = structs.replace(config, firecracker_bin=str(binary))
        found = drivers.Drivers(structs.replace(config, qemu_bin=str(qemu)), disks, lambda: kvm)
        with contextlib.suppress(HostNotReady):
            await found.check()
        return found

    return chosen


@pytest.mark.parametrize(
    ("config", "works", "there", "reason"),
    [
        (Config(), True, True, r"firecracker: KVM works, and Firecracker is installed \(1\.17\.0\)"),
        (Config(), True, False, "qemu: Firecracker is not installed"),
        (Config(), False, True, "qemu: Firecracker needs KVM, and the CPU shows neither vmx nor svm"),
        (Config(vmm="qemu"), True, True, "qemu: .*admin's config"),
        (Config(vmm="firecracker"), True, True, "firecracker: .*admin's config"),
        (Config(firecracker_bin="HERE"), True, False, "firecracker: KVM works"),
    ],
)
async def test_the_best_driver_is_chosen_and_said_why(
    choose: Any, config: Config, works: bool, there: bool, reason: str
) -> None:
    found = await choose(config, works, there)
    assert re.match(reason, f"{found.name}: {found.reason}")
    assert found.of(a_vm()).name == found.name


@pytest.mark.parametrize(
    ("config", "works", "why"),
    [
        (Config(vmm="firecracker"), True, "not installed"),
        (Config(firecracker_bin="/nonexistent/fc"), True, "cannot be"),
        (Config(vmm="firecracker", firecracker_bin="HERE"), False, "needs KVM, and the CPU shows neither"),
        (Config(firecracker_bin="/bin/true"), True, "not how Firecracker tells its version"),
        (Config(firecracker_bin="/bin/false"), True, "cannot be run"),
    ],
)
async def test_what_the_admin_wants_and_cannot_be_is_said(
    choose: Any, config: Config, works: bool, why: str
) -> None:
    """Nothing is started then, and what runs is talked to all the same."""
    found = await choose(config, works, there=False)
    assert (found.accelerator, found.reason, found.missing) == ("", "", ())
    with pytest.raises(HostNotReady, match=why):
        await found.check()
    (found._disks.run_dir(a_vm()) / "control.sock").touch()
    assert found.of(a_vm()).name == "qemu"


async def test_what_was_missing_is_used_when_it_is_there(choose: Any, binary: Path) -> None:
    late = binary.with_name("late")
    found = await choose(Config(vmm="firecracker", firecracker_bin=str(late)), works=True, there=False)
    with pytest.raises(HostNotReady, match="late cannot be run"):
        await found.check()
    binary.rename(late)
    await found.check()
    assert (found.name, found.accelerator) == ("firecracker", "kvm")
    assert "1.17.0" in found.reason


async def test_a_program_that_has_gone_since_is_told_when_asked(choose: Any, binary: Path) -> None:
    found = await choose(Config(), works=True, there=True)
    await found.check()
    binary.unlink()
    with pytest.raises(HostNotReady, match="cannot be run"):
        await found.check()
    found = await choose(Config(vmm="qemu"), works=True, there=True)
    await found.check()
    binary.with_name("qemu").unlink()
    with pytest.raises(HostNotReady, match="cannot be run"):
        await found.check()


async def test_a_vm_that_runs_keeps_the_driver_it_was_started_with(disks: DiskFiles, choose: Any) -> None:
    found = await choose(Config(), works=True, there=True)
    run_dir = disks.run_dir(a_vm())
    (run_dir / "control.sock").touch()
    assert found.of(a_vm()).name == "qemu"
    (run_dir / "firecracker.json").touch()
    assert found.of(a_vm()).name == "firecracker"


@pytest.mark.parametrize("vmm", ["qemu", "auto"])
async def test_a_vm_of_the_other_vmm_is_talked_to_also_when_that_is_gone(
    disks: DiskFiles, choose: Any, vmm: str
) -> None:
    """What is in PATH and in the config concerns new starts alone."""
    found = await choose(Config(vmm=vmm), works=vmm == "auto", there=vmm == "auto")
    run_dir = disks.run_dir(a_vm())
    (run_dir / "control.sock").touch()
    assert isinstance(found.of(a_vm()), Qemu)
    (run_dir / "firecracker.json").touch()
    assert isinstance(found.of(a_vm()), firecracker.Firecracker)


LIMITED = Config(vm_limits=VMLimits(disk_rate="1M", network_rate="20K"))


async def test_limits_that_a_vmm_cannot_keep_are_told(choose: Any) -> None:
    assert (await choose(LIMITED, works=True, there=True)).missing == ()
    assert (await choose(Config(), works=False, there=False)).missing == ()
    assert (await choose(LIMITED, works=False, there=False)).missing == (
        "vm_limits.network_rate is not kept: qemu cannot do that",
    )


async def test_pci_that_is_not_there_is_told(choose: Any) -> None:
    wanted = Config(firecracker_pci=True)
    assert (await choose(wanted, works=True, there=True)).missing == ()
    (told,) = (await choose(wanted, works=False, there=False)).missing
    assert "firecracker_pci has no effect" in told


def a_launch(tmp_path: Path) -> Launch:
    disks = tuple(Disk(tmp_path / role, role, read_only=role in READ_ONLY) for role in disk_roles(a_vm()))
    return Launch(a_vm(), tmp_path, *(tmp_path / name for name in "kei"), "quiet", disks, kvm=True)


async def test_both_drivers_get_the_admins_limits(choose: Any, tmp_path: Path) -> None:
    launch = a_launch(tmp_path)
    launch.elf.touch()
    plan = await (await choose(LIMITED, works=True, there=True)).plan(launch)
    told = json.loads(dict(plan.files)["firecracker.json"])
    per_second = {"bandwidth": {"size": 20 * 1024, "refill_time": 1000}}
    (interface,) = told["network-interfaces"]
    assert interface["rx_rate_limiter"] == interface["tx_rate_limiter"] == per_second
    assert {drive["rate_limiter"]["bandwidth"]["size"] for drive in told["drives"]} == {MIB}
    plan = await (await choose(LIMITED, works=False, there=False)).plan(launch)
    drives = [word for word in plan.argv if word.startswith("if=none")]
    assert len(drives) == 4
    assert all(drive.endswith(f",throttling.bps-total={MIB}") for drive in drives)
    plan = await (await choose(Config(), works=False, there=False)).plan(launch)
    assert "throttling" not in " ".join(plan.argv)


PRIMITIVES: dict[Capability, Callable[[Driver], Awaitable[object]]] = {
    Capability.NETWORK_RATE: lambda driver: driver.limit(a_vm(), Rates(network=1)),
    Capability.METRICS: lambda driver: driver.metrics(a_vm()),
    Capability.SNAPSHOT: lambda driver: driver.snapshot(a_vm(), "state", "memory"),
}


@pytest.mark.parametrize("vmm", ["qemu", "firecracker"])
async def test_what_a_driver_lacks_it_refuses_as_such(choose: Any, vmm: str) -> None:
    """Without a VMM that answers, what it has fails otherwise."""
    driver = (await choose(Config(vmm=vmm), works=True, there=True)).of(a_vm())
    assert driver.name == vmm
    for capability, call in PRIMITIVES.items():
        lacks = capability not in driver.capabilities
        with pytest.raises(
            HostNotReady if lacks else StepFailed, match=capability if lacks else "reached|read"
        ):
            await call(driver)


async def test_the_table_in_the_docs_is_right(choose: Any) -> None:
    """docs/vmm.md: a row for each capability, with a mark for each driver."""
    page = (Path(__file__).parents[2] / "docs/vmm.md").read_text()
    rows = {
        row[0]: row[1:3]
        for row in re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \| ([^|]+) \|", page, re.MULTILINE)
    }
    assert rows.keys() == set(Capability)
    for column, vmm in enumerate(("firecracker", "qemu")):
        found = await choose(Config(vmm=vmm), works=True, there=True)
        marked = {name for name, marks in rows.items() if marks[column].startswith("yes")}
        assert marked == found.capabilities, vmm


def test_files_for_the_vmm_are_the_vms_and_do_not_make_a_run_folder_stale(disks: DiskFiles) -> None:
    vm = a_vm()
    asyncio.run(disks.ensure_run_dir(vm, b"seed"))
    assert disks.is_fresh(vm)
    (disks.run_dir(vm) / "firecracker.json").symlink_to("/etc/passwd")
    asyncio.run(disks.write_files(vm, (("firecracker.json", b"{}"), ("metrics.fifo", None))))
    written = disks.run_dir(vm) / "firecracker.json"
    assert (written.is_symlink(), written.read_bytes(), stat.S_IMODE(written.stat().st_mode)) == (
        False,
        b"{}",
        0o600,
    )
    pipe = (disks.run_dir(vm) / "metrics.fifo").stat()
    # To the service, which has no CAP_DAC_OVERRIDE, it is a file of others; the folder keeps real others out.
    assert (stat.filemode(pipe.st_mode), pipe.st_uid) == ("prw-r--r--", vm.uid)
    assert stat.filemode(disks.run_dir(vm).stat().st_mode) == "drwxrwx---"
    assert disks.is_fresh(vm)
    (disks.run_dir(vm) / "control.sock").touch()
    assert not disks.is_fresh(vm)
