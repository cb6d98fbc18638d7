"""Firecracker's program: who may change it, which release it is, how it is started, and that it may be replaced."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.unit.test_firecracker import a_launch

from bangerd.core.vmm import Capability, Plan, Rates
from bangerd.host import firecracker
from bangerd.host.disk import DiskFiles
from bangerd.host.firecracker import Firecracker
from bangerd.model.errors import HostNotReady


@pytest.fixture
def installed(tmp_path: Path) -> Callable[..., Path]:
    """Install a program that says it is Firecracker of this version, in place of the one before."""
    folder = tmp_path / "bin"
    folder.mkdir(mode=0o755)

    def install(version: str) -> Path:
        path, new = folder / "firecracker", folder / "new"
        new.write_text(f"#!/bin/sh\necho 'Firecracker v{version}'\n")
        new.chmod(0o755)
        return new.replace(path)

    return install


async def test_the_plan(tmp_path: Path, installed: Callable[..., Path]) -> None:
    disks = DiskFiles(tmp_path / "state", tmp_path / "run")
    binary = installed("1.13.0")
    plan = await Firecracker(binary, (1, 13, 0), disks, Rates(), pci=True).plan(a_launch(tmp_path))
    assert plan.argv == (
        str(binary), "--id", "0123abcd", "--api-sock", "api.sock", "--config-file", "firecracker.json", "--enable-pci",
    )  # fmt: skip
    assert (plan.channel, plan.sockets) == ("vsock:vsock.sock", ("api.sock",))
    assert dict(plan.files).keys() == {"firecracker.json", "metrics.fifo"}
    without = await Firecracker(binary, (1, 13, 0), disks, Rates()).plan(a_launch(tmp_path))
    assert "--enable-pci" not in without.argv


def kernel_of(plan: Plan) -> str:
    return str(json.loads(dict(plan.files)["firecracker.json"])["boot-source"]["kernel_image_path"])


async def test_a_kernel_without_its_elf_file_boots_where_a_bzimage_does(
    tmp_path: Path, installed: Callable[..., Path]
) -> None:
    launch = a_launch(tmp_path)
    disks = DiskFiles(tmp_path / "s", tmp_path / "r")
    newer = Firecracker(installed("1.17.0"), (1, 17, 0), disks, Rates())
    assert kernel_of(await newer.plan(launch)) == str(launch.elf)
    launch.elf.unlink()
    plan = await newer.plan(launch)
    assert (kernel_of(plan), plan.read_only) == (str(launch.kernel), (launch.kernel,))
    older = Firecracker(installed("1.16.0"), (1, 16, 0), disks, Rates())
    with pytest.raises(HostNotReady, match="banger image pull"):
        await older.plan(launch)


@pytest.mark.root
async def test_an_upgrade_counts_from_the_next_start_on(
    tmp_path: Path, installed: Callable[..., Path]
) -> None:
    binary = installed("1.12.0")
    driver = Firecracker(binary, (1, 12, 0), DiskFiles(tmp_path / "s", tmp_path / "r"), Rates(), pci=True)
    launch = a_launch(tmp_path)
    assert "--enable-pci" not in (await driver.plan(launch)).argv
    assert Capability.FREE_PAGE_REPORTING not in driver.capabilities
    assert installed("1.16.1") == binary
    assert "--enable-pci" in (await driver.plan(launch)).argv
    assert (driver.version, Capability.FREE_PAGE_REPORTING in driver.capabilities) == ("1.16.1", True)
    installed("1.11.0")
    for _ in range(2):  # the refusal is not forgotten with the first start
        with pytest.raises(HostNotReady, match=r"Firecracker 1\.11\.0 is too old"):
            await driver.plan(launch)
    binary.unlink()
    with pytest.raises(HostNotReady, match=f"{binary} cannot be used: No such file"):
        await driver.plan(launch)


@pytest.mark.root
async def test_a_link_that_leads_elsewhere_counts_as_replaced(
    tmp_path: Path, installed: Callable[..., Path]
) -> None:
    """Releases side by side, and a link to the one in use."""
    program = installed("1.12.0")
    old, new = program.rename(program.with_name("old")), program.with_name("newer")
    program.symlink_to(old)
    driver = Firecracker(program, (1, 12, 0), DiskFiles(tmp_path / "s", tmp_path / "r"), Rates())
    launch = a_launch(tmp_path)
    assert (await driver.plan(launch)).argv[0] == str(old)
    new.write_text("#!/bin/sh\necho 'Firecracker v1.16.1'\n")
    new.chmod(0o755)
    program.unlink()
    program.symlink_to(new)
    assert (await driver.plan(launch)).argv[0] == str(new)
    assert driver.version == "1.16.1"


@pytest.mark.root
async def test_a_replaced_binary_that_others_can_change_is_not_run(
    tmp_path: Path, installed: Callable[..., Path]
) -> None:
    binary = installed("1.16.1")
    driver = Firecracker(binary, (1, 16, 1), DiskFiles(tmp_path / "s", tmp_path / "r"), Rates())
    installed("1.16.1").chmod(0o777)
    with pytest.raises(HostNotReady, match="others than root can change"):
        await driver.plan(a_launch(tmp_path))


@contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    before = stat.S_IMODE(path.stat().st_mode)
    path.chmod(bits)
    yield
    path.chmod(before)


@pytest.mark.root
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
    with mode(path, 0o644), pytest.raises(HostNotReady, match="it is not executable"):
        firecracker.check_binary(path)
    with mode(path, 0o1777), pytest.raises(HostNotReady, match="others than root can change .*/fc; chown"):
        firecracker.check_binary(path)
    link = tmp_path / "links/fc"
    link.parent.mkdir(mode=0o755)
    link.symlink_to(path)
    assert firecracker.check_binary(link) == path.resolve()
    os.chown(link.parent, 1000, 1000)
    with pytest.raises(HostNotReady, match="others than root can change .*/links; chown"):
        firecracker.check_binary(link)
    # a link to a link: who owns the one in between decides, too
    (tmp_path / "first").symlink_to("links/../links/fc")
    with pytest.raises(HostNotReady, match="others than root can change .*/links; chown"):
        firecracker.check_binary(tmp_path / "first")
    os.chown(link.parent, 0, 0)
    assert firecracker.check_binary(tmp_path / "first") == path.resolve()
    os.chown(link, 1000, 1000, follow_symlinks=False)
    with pytest.raises(HostNotReady, match="others than root can change .*/links/fc; chown"):
        firecracker.check_binary(tmp_path / "first")
    (folder / "circle").symlink_to("circle")
    with pytest.raises(HostNotReady, match="circle cannot be used: "):
        firecracker.check_binary(folder / "circle")
    os.chown(path, 1000, 1000)
    with pytest.raises(HostNotReady, match="others than root"):
        firecracker.check_binary(path)
    with pytest.raises(HostNotReady, match="cannot be used"):
        firecracker.check_binary(folder / "gone")
