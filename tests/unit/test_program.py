"""What cannot be run here is told in words: what it is, and for which machine; and so is KVM that does not work."""

import os
import platform
import time
from pathlib import Path

import pytest
from tests.unit.test_firecracker import a_launch

from bangerd.core.vmm import Rates
from bangerd.host import facts
from bangerd.host.disk import DiskFiles
from bangerd.host.facts import HostFacts
from bangerd.host.firecracker import Firecracker
from bangerd.host.program import check_program
from bangerd.host.qemu import Qemu
from bangerd.model.errors import HostNotReady

HERE = platform.machine()


def elf(machine: int, *, order: str = "little") -> bytes:
    return (
        b"\x7fELF\x02" + (b"\x01" if order == "little" else b"\x02") + bytes(12) + machine.to_bytes(2, order)
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (elf(183), f"it is for aarch64, and this machine is {HERE}"),
        (elf(40), f"it is for arm, and this machine is {HERE}"),
        (elf(22, order="big"), "it is for machine 22"),
        (b"", "neither a program nor a script"),
        (b"\x7fELF", "neither a program nor a script"),
        (b"MZ" + bytes(100), "neither a program nor a script"),
    ],
)
def test_what_is_no_program_here(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / "vmm"
    path.write_bytes(content)
    path.chmod(0o755)
    with pytest.raises(HostNotReady, match=f"{path} cannot be run: .*{why}"):
        check_program(str(path))


def test_what_is_no_file_or_may_not_be_run(tmp_path: Path) -> None:
    with pytest.raises(HostNotReady, match="cannot be run: No such file or directory"):
        check_program(str(tmp_path / "none"))
    with pytest.raises(HostNotReady, match="cannot be run: it is a folder"):
        check_program(str(tmp_path))
    os.mkfifo(tmp_path / "fifo", 0o755)
    with pytest.raises(HostNotReady, match="it is not executable"):
        check_program(str(tmp_path / "fifo"))


def test_programs_and_scripts_are_run(tmp_path: Path) -> None:
    script = tmp_path / "vmm"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    check_program(str(script))
    check_program("/bin/true")


async def test_a_vmm_that_is_gone_since_the_service_started(tmp_path: Path) -> None:
    disks = DiskFiles(tmp_path / "state", tmp_path / "run")
    gone = tmp_path / "gone"
    for driver in (Firecracker(gone, (1, 16, 0), disks, Rates()), Qemu(str(gone), disks, kvm=False)):
        with pytest.raises(HostNotReady, match=f"{gone} cannot be (run|used): No such file"):
            await driver.plan(a_launch(tmp_path))


async def test_a_link_is_followed_to_where_the_programs_libraries_are(tmp_path: Path) -> None:
    """The unit sees of /opt what is beside the program, and of the link's folder nothing."""
    program, link = tmp_path / "opt/qemu/bin/qemu", tmp_path / "bin/qemu"
    for folder in (program.parent, link.parent):
        folder.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    link.symlink_to(program)
    disks = DiskFiles(tmp_path / "state", tmp_path / "run")
    plan = await Qemu(str(link), disks, kvm=False).plan(a_launch(tmp_path))
    assert plan.argv[0] == str(program)


@pytest.fixture
def with_virtualization(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "_why_no_cpu", lambda: "")


@pytest.mark.usefixtures("with_virtualization")
def test_kvm_is_looked_at_each_time_and_quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, device = HostFacts(()), tmp_path / "kvm"
    monkeypatch.setattr(facts, "KVM", str(device))
    assert host.kvm() == (False, f"{device} cannot be opened: No such file or directory")
    device.touch()
    assert host.kvm() == (False, f"{device} is no KVM device: Inappropriate ioctl for device")
    begun = time.perf_counter()
    for _ in range(100):
        host.kvm()
    assert time.perf_counter() - begun < 1  # 10 ms each, where some microseconds are usual


@pytest.mark.parametrize(
    ("version", "mode", "why"),
    [
        (12, 0o660, "opens and the CPU"),
        (12, 0o666, "opens and the CPU"),
        (12, 0o600, "is root's alone, and VMs do not run as root: chgrp kvm "),
        (12, 0o640, "is root's alone"),
        (11, 0o660, "speaks version 11"),
    ],
)
@pytest.mark.usefixtures("with_virtualization")
def test_a_device_that_vms_can_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, mode: int, why: str
) -> None:
    device = tmp_path / "kvm"
    device.touch()
    device.chmod(mode)
    monkeypatch.setattr(facts, "KVM", str(device))
    monkeypatch.setattr(facts.fcntl, "ioctl", lambda *_: version)
    works, said = HostFacts(()).kvm()
    assert works is why.startswith("opens")
    assert why in said
