"""Which VMM drives a VM, and that what the service runs can be changed by root alone."""

import asyncio
import os
import re
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from tests.unit.test_firecracker import a_vm

from bangerd.config import Config
from bangerd.host import drivers, firecracker
from bangerd.host.disk import DiskFiles
from bangerd.model.errors import HostNotReady


@pytest.fixture
def disks(tmp_path: Path) -> DiskFiles:
    found = DiskFiles(tmp_path / "state", tmp_path / "run")
    found.run_dir(a_vm()).mkdir()
    return found


@pytest.fixture
def binary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that says it is Firecracker, where only root can have put it."""
    path = tmp_path / "firecracker"
    path.write_text("#!/bin/sh\necho 'Firecracker v1.16.1'\n")
    path.chmod(0o755)
    monkeypatch.setattr(firecracker, "check_binary", lambda _path: None)
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
        return await drivers.choose(structs.replace(config, qemu_bin=str(qemu)), disks, lambda: kvm)

    return chosen


@pytest.mark.parametrize(
    ("config", "works", "there", "reason"),
    [
        (Config(), True, True, "firecracker: KVM works, and Firecracker is installed"),
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
    with pytest.raises(HostNotReady, match=why):
        await choose(config, works, there=False)


async def test_a_vm_that_runs_keeps_the_driver_it_was_started_with(disks: DiskFiles, choose: Any) -> None:
    found = await choose(Config(), works=True, there=True)
    run_dir = disks.run_dir(a_vm())
    (run_dir / "control.sock").touch()
    assert found.of(a_vm()).name == "qemu"
    (run_dir / "firecracker.json").touch()
    assert found.of(a_vm()).name == "firecracker"


@contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    before = stat.S_IMODE(path.stat().st_mode)
    path.chmod(bits)
    yield
    path.chmod(before)


def test_only_a_program_that_root_alone_can_change_is_run(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir(mode=0o755)
    path = folder / "fc"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    trusted = all(
        (parent.stat().st_uid == 0 and not parent.stat().st_mode & 0o022)
        or parent.stat().st_mode & stat.S_ISVTX
        for parent in path.parents
    )
    assert trusted, "the test's folder must be root's"
    firecracker.check_binary(path)
    with mode(path, 0o775), pytest.raises(HostNotReady, match="others than root can change .*/fc; chown"):
        firecracker.check_binary(path)
    with mode(folder, 0o777), pytest.raises(HostNotReady, match="others than root can change .*/bin; chown"):
        firecracker.check_binary(path)
    with mode(path, 0o644), pytest.raises(HostNotReady, match="is no program"):
        firecracker.check_binary(path)
    os.chown(path, 1000, 1000)
    with pytest.raises(HostNotReady, match="others than root"):
        firecracker.check_binary(path)
    with pytest.raises(HostNotReady, match="cannot be used"):
        firecracker.check_binary(folder / "gone")


def test_files_for_the_vmm_are_the_vms_and_do_not_make_a_run_folder_stale(disks: DiskFiles) -> None:
    vm = a_vm()
    asyncio.run(disks.ensure_run_dir(vm, b"seed"))
    assert disks.is_fresh(vm)
    (disks.run_dir(vm) / "firecracker.json").symlink_to("/etc/passwd")
    asyncio.run(disks.write_files(vm, (("firecracker.json", b"{}"), ("metrics.json", b""))))
    written = disks.run_dir(vm) / "firecracker.json"
    assert (written.is_symlink(), written.read_bytes(), stat.S_IMODE(written.stat().st_mode)) == (
        False,
        b"{}",
        0o600,
    )
    assert disks.is_fresh(vm)
    (disks.run_dir(vm) / "control.sock").touch()
    assert not disks.is_fresh(vm)
