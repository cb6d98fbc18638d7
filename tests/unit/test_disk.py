"""A VM's files: whole or not there, sparse, owned by the VM's uid, and removed whatever the VMM put there."""

import asyncio
import os
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from bangerd.host import disk, tree
from bangerd.host.disk import DiskFiles
from bangerd.model.errors import HostNotReady, StepFailed
from bangerd.model.vm import GIB, MIB, VM, Desired, VMSpec

OWN = os.getuid()
UID = 71000 if OWN == 0 else OWN
A_VM = VM(
    "0" * 32, "00000001", "web", 1000, "alice", VMSpec("i", "k", 1, 2**29, 8 * GIB), Desired.RUNNING, UID
)

pytestmark = pytest.mark.needs("mke2fs")


@pytest.fixture
def files(tmp_path: Path) -> DiskFiles:
    return DiskFiles(tmp_path / "state", tmp_path / "run")


def sized(size: int, sid: str = "00000002") -> VM:
    return replace(A_VM, sid=sid, spec=replace(A_VM.spec, disk=size))


@pytest.mark.needs("e2fsck")
@pytest.mark.parametrize("size", [256 * MIB, 8 * GIB, 64 * GIB, 3 * GIB + 12345 * 4096])
async def test_a_disk_is_a_whole_file_system_of_its_size(files: DiskFiles, size: int) -> None:
    vm = sized(size)
    assert not files.has_disk(vm)
    await files.ensure_disk(vm)
    assert files.has_disk(vm)
    path = files.disk_path(vm)
    subprocess.run(["e2fsck", "-f", "-n", path], check=True, capture_output=True)
    seen = path.stat()
    assert seen.st_size == size
    assert seen.st_blocks * 512 < MIB  # sparse: neither journal nor inode tables are written


async def test_only_the_vm_can_use_its_disk(files: DiskFiles) -> None:
    await files.ensure_disk(A_VM)
    seen, folder = files.disk_path(A_VM).stat(), files.disk_path(A_VM).parent.stat()
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (UID, UID, 0o600)
    assert (folder.st_uid, folder.st_gid, stat.S_IMODE(folder.st_mode)) == (OWN, UID, 0o750)


async def test_a_disk_that_is_there_is_left_alone(files: DiskFiles) -> None:
    await files.ensure_disk(A_VM)
    files.disk_path(A_VM).write_bytes(b"the user's data")
    await files.ensure_disk(A_VM)
    assert files.disk_path(A_VM).read_bytes() == b"the user's data"


async def test_a_cancelled_step_ends_when_its_thread_has(
    files: DiskFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before that its descriptors must not be closed: their numbers would be another file's."""
    copying, go, real = threading.Event(), threading.Event(), disk.copy_sparse

    def slow(source: int, target: int) -> None:
        copying.set()
        go.wait(10)
        real(source, target)

    monkeypatch.setattr(disk, "copy_sparse", slow)
    step = asyncio.create_task(files.ensure_disk(A_VM))
    await asyncio.to_thread(copying.wait, 10)
    step.cancel()
    await asyncio.sleep(0.05)
    assert not step.done()
    go.set()
    with pytest.raises(asyncio.CancelledError):
        await step
    assert files.has_disk(A_VM)  # whole, and made before anything that comes after the cancellation


async def test_two_vms_have_two_disks(files: DiskFiles) -> None:
    other = replace(A_VM, sid="0000000b")
    await files.ensure_disk(A_VM)
    await files.ensure_disk(other)
    with files.disk_path(A_VM).open("r+b") as written:
        written.write(b"x" * 4096)
    with files.disk_path(other).open("rb") as read:
        assert read.read(4096) != b"x" * 4096
    assert files.list_sids() == {A_VM.sid, other.sid}


async def test_what_an_interrupted_step_left_is_replaced(files: DiskFiles, tmp_path: Path) -> None:
    (tmp_path / f"state/vm/.new-{A_VM.sid}").mkdir()
    (tmp_path / f"state/vm/.new-{A_VM.sid}/disk.ext4").touch()
    (tmp_path / f"state/vm/{A_VM.sid}").mkdir()
    assert not files.has_disk(A_VM)
    assert files.list_sids() == {A_VM.sid}
    await files.ensure_disk(A_VM)
    assert files.disk_path(A_VM).stat().st_size == 8 * GIB
    assert [path.name for path in (tmp_path / "state/vm").iterdir()] == [A_VM.sid]


async def test_many_sizes_keep_few_templates(files: DiskFiles, tmp_path: Path) -> None:
    for number in range(12):
        await files.ensure_disk(sized(GIB + number * MIB, f"{number:08x}"))
    assert len(list((tmp_path / "state/templates").iterdir())) <= disk._TEMPLATES_KEPT + 1


async def test_a_disk_larger_than_the_host_is_refused(files: DiskFiles, tmp_path: Path) -> None:
    with pytest.raises(HostNotReady, match=r"does not fit: the file system of .* has .* choose a smaller"):
        await files.ensure_disk(sized(files.total_bytes() + 4096))
    assert list((tmp_path / "state/vm").iterdir()) == []


async def test_a_full_host_is_said(
    files: DiskFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(disk, "RESERVE", files.free_bytes() + GIB)
    with pytest.raises(HostNotReady, match=r"no room for another VM: \d+ MiB are free in .*free some room"):
        await files.ensure_disk(A_VM)
    assert list((tmp_path / "state/vm").iterdir()) == []


async def test_a_failing_mke2fs_leaves_no_template(files: DiskFiles, tmp_path: Path) -> None:
    with pytest.raises(StepFailed, match="mke2fs"):
        await files.ensure_disk(sized(512))
    with pytest.raises(StepFailed, match="mke2fs"):
        await files.ensure_disk(sized(512))
    assert list((tmp_path / "state/vm").iterdir()) == []


async def test_the_run_folder_is_fresh_once(files: DiskFiles) -> None:
    assert not files.has_run_dir(A_VM)
    assert not files.is_fresh(A_VM)
    await files.ensure_run_dir(A_VM, b"seed")
    folder = files.run_dir(A_VM)
    assert files.has_run_dir(A_VM)
    assert files.is_fresh(A_VM)
    seen, seed = folder.stat(), (folder / "seed.img").stat()
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (OWN, UID, 0o770)
    assert (seed.st_uid, stat.S_IMODE(seed.st_mode)) == (UID, 0o400)
    (folder / "exit").touch()
    assert not files.is_fresh(A_VM)
    await files.ensure_run_dir(A_VM, b"another")
    assert files.is_fresh(A_VM)
    assert (folder / "seed.img").read_bytes() == b"another"


async def test_remove_and_strays(files: DiskFiles, tmp_path: Path) -> None:
    await files.ensure_disk(A_VM)
    await files.ensure_run_dir(A_VM, b"seed")
    await files.remove_run_dir(A_VM)
    assert files.list_sids() == {A_VM.sid}
    await files.remove_disk(A_VM)
    await files.remove_disk(A_VM)  # nothing there is no error
    assert files.list_sids() == frozenset()
    (tmp_path / f"run/vm/.old-{A_VM.sid}").mkdir()
    (tmp_path / "run/vm/0000000c").mkdir()
    assert files.list_sids() == {A_VM.sid, "0000000c"}
    for sid in files.list_sids():
        await files.remove_stray(sid)
    assert files.list_sids() == frozenset()


async def test_removal_follows_no_link(files: DiskFiles, tmp_path: Path) -> None:
    """What a VMM that was broken into may leave in its folder."""
    outside = tmp_path / "outside"
    (outside / "folder").mkdir(parents=True)
    (outside / "file").write_text("kept")
    await files.ensure_run_dir(A_VM, b"seed")
    folder = files.run_dir(A_VM)
    (folder / "seed.img").unlink()
    (folder / "seed.img").symlink_to(outside / "file")
    (folder / "guest.sock").symlink_to(outside)
    (folder / "sub").mkdir()
    (folder / "sub/link").symlink_to(outside / "folder")
    os.link(outside / "file", folder / "hard")
    os.mkfifo(folder / "fifo")
    (folder / "\udcff").touch()
    await files.remove_run_dir(A_VM)
    assert not files.has_run_dir(A_VM)
    assert (outside / "file").read_text() == "kept"
    assert (outside / "folder").is_dir()
    assert stat.S_IMODE((outside / "folder").stat().st_mode) == 0o755


async def test_a_link_in_place_of_a_vms_folder_is_only_a_link(files: DiskFiles, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / f"run/vm/{A_VM.sid}").symlink_to(tmp_path / "outside")
    assert not files.has_run_dir(A_VM)
    await files.remove_run_dir(A_VM)
    assert (tmp_path / "outside").is_dir()
    assert not (tmp_path / f"run/vm/{A_VM.sid}").is_symlink()


def deep(folder: Path, depth: int) -> None:
    """A chain of folders, each with a file; deeper than a path may be long, or a stack may be."""
    at = tree.open_folder(folder)
    for _ in range(depth):
        os.mkdir("d", 0o700, dir_fd=at)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=at))
        at, last = tree.open_folder("d", at), at
        os.close(last)
    os.close(at)


async def test_removal_of_a_bottomless_folder(files: DiskFiles) -> None:
    await files.ensure_run_dir(A_VM, b"seed")
    deep(files.run_dir(A_VM), 3000)
    (files.run_dir(A_VM) / ".1").mkdir()  # a name that the removal would use
    await files.remove_run_dir(A_VM)
    assert files.list_sids() == frozenset()


@pytest.mark.root
@pytest.mark.needs("setpriv")
def test_removal_needs_no_more_than_the_service_has(tmp_path: Path) -> None:
    """CAP_CHOWN and CAP_FOWNER, and not CAP_DAC_OVERRIDE, although folders are others' and closed."""
    folder = tmp_path / "victim/a/b/c"
    folder.mkdir(parents=True)
    (folder / "file").touch()
    for path in (*sorted(tmp_path.joinpath("victim").rglob("*"), reverse=True), tmp_path / "victim"):
        os.chown(path, 71000, 71000)
        path.chmod(0)
    capabilities = "-all,+chown,+fowner"
    code = (
        "import os, sys; from bangerd.host import tree; "
        "parent = tree.open_folder(sys.argv[1]); tree.remove(parent, 'victim')"
    )
    subprocess.run(
        ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}",
         sys.executable, "-c", code, tmp_path],
        env={"PYTHONPATH": ":".join(sys.path)}, check=True,
    )  # fmt: skip
    assert not (tmp_path / "victim").exists()
