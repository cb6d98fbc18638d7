"""Cache disks as files: whole or not there, the VM's uid's or root's, and nobody else's to reach."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bangerd.host.caches import CacheFiles
from bangerd.host.disk import DISK, DiskFiles
from bangerd.host.facts import HostFacts
from bangerd.model.errors import CacheInUse, HostNotReady, LimitReached, StepFailed
from bangerd.model.vm import GIB, MIB, VM, Desired, VMSpec

pytestmark = [pytest.mark.root, pytest.mark.needs("mke2fs")]

SPEC = VMSpec("i", "k", 1, 2**29, 8 * GIB, caches={"/root/go": "go", "/apt": "apt"})
A_VM = VM("0" * 32, "00000001", "web", 1000, "alice", SPEC, Desired.RUNNING, 71000)
OTHER = replace(A_VM, sid="00000002", uid=71001)


@pytest.fixture
def files(tmp_path: Path) -> CacheFiles:
    return CacheFiles(tmp_path / "state", DiskFiles(tmp_path / "state", tmp_path / "run"))


async def lend(files: CacheFiles, vm: VM = A_VM, *, size: int = GIB, limit: int = 8) -> None:
    await files.lend(vm, size=size, limit=limit)


@pytest.mark.needs("e2fsck")
async def test_from_nothing_to_the_vm_and_back(files: CacheFiles) -> None:
    assert files.all() == ()
    assert files.lent_to(A_VM) == frozenset()
    await lend(files)
    assert files.lent_to(A_VM) == {"go", "apt"}
    assert [(c.owner_uid, c.name, c.size, c.holder) for c in files.all()] == [
        (1000, "apt", GIB, 71000),
        (1000, "go", GIB, 71000),
    ]
    path = files.path(1000, "go")
    subprocess.run(["e2fsck", "-f", "-n", path], check=True, capture_output=True)
    seen = path.stat()
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (71000, 71000, 0o600)
    assert files.all()[0].used < MIB  # sparse
    await lend(files)  # twice is no error
    with path.open("r+b") as written:
        written.seek(MIB)
        written.write(b"kept")
    await files.give_back(A_VM)
    await files.give_back(A_VM)
    assert files.lent_to(A_VM) == frozenset()
    seen = path.stat()
    assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (0, 0, 0o600)
    await lend(files, OTHER)
    assert files.lent_to(OTHER) == {"go", "apt"}
    with path.open("rb") as read:
        read.seek(MIB)
        assert read.read(4) == b"kept"


async def test_when_it_was_made_stays_known(files: CacheFiles) -> None:
    await lend(files)
    folder = files.path(1000, "go").parent
    os.utime(folder, (5, 5))
    await files.give_back(A_VM)
    await lend(files)
    assert {cache.name: cache.created_at for cache in files.all()}["go"] == 5


async def test_two_cannot_have_it(files: CacheFiles) -> None:
    await lend(files)
    only = replace(OTHER, spec=replace(SPEC, caches={"/x": "apt", "/y": "new"}))
    with pytest.raises(CacheInUse, match="in use by another VM"):
        await lend(files, only)
    assert files.lent_to(A_VM) == {"go", "apt"}
    assert files.lent_to(only) == frozenset()
    with pytest.raises(CacheInUse):
        await files.remove(1000, "go")
    await files.give_back(OTHER)  # has none
    assert files.lent_to(A_VM) == {"go", "apt"}


async def test_each_user_has_their_own(files: CacheFiles) -> None:
    bobs = replace(OTHER, owner_uid=1001)
    await lend(files)
    await lend(files, bobs)
    assert files.path(1000, "go") != files.path(1001, "go")
    assert files.lent_to(bobs) == {"go", "apt"}


async def test_no_more_than_allowed(files: CacheFiles) -> None:
    with pytest.raises(LimitReached):
        await lend(files, limit=1)
    assert [cache.name for cache in files.all()] == ["apt"]
    await lend(files, replace(OTHER, owner_uid=1001), limit=2)


async def test_none_is_larger_than_the_host(
    files: CacheFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files._disks, "total_bytes", lambda: GIB + MIB + 5)
    await lend(files, size=16 * GIB)
    assert {cache.size for cache in files.all()} == {GIB + MIB}


async def test_a_host_without_room(
    files: CacheFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bangerd.host.disk.RESERVE", 2**62)
    with pytest.raises(HostNotReady, match="no room for another cache"):
        await lend(files)
    assert list((tmp_path / "state/cache").iterdir()) == []


async def test_removal(files: CacheFiles, tmp_path: Path) -> None:
    await lend(files)
    await files.give_back(A_VM)
    await files.remove(1000, "go")
    await files.remove(1000, "go")
    assert [path.name for path in (tmp_path / "state/cache").iterdir()] == ["1000-apt"]


async def test_what_a_crash_left(files: CacheFiles, tmp_path: Path) -> None:
    await lend(files)
    parent = tmp_path / "state/cache"
    (parent / ".new-1000-x").mkdir()
    (parent / ".new-1000-x" / DISK).touch()
    (parent / ".old-1000-y").mkdir()
    (parent / "1000-half").mkdir()
    await files.reclaim([A_VM])
    assert sorted(path.name for path in parent.iterdir()) == ["1000-apt", "1000-go", "1000-half"]
    assert files.lent_to(A_VM) == {"go", "apt"}
    await files.reclaim([OTHER])  # the VM that had them is forgotten
    assert [cache.holder for cache in files.all()] == [0, 0]
    half = replace(A_VM, spec=replace(SPEC, caches={"/x": "half"}))
    await lend(files, half)
    assert files.lent_to(half) == {"half"}


async def test_a_uid_that_has_a_cache_is_not_leased(files: CacheFiles, tmp_path: Path) -> None:
    await lend(files)
    facts = HostFacts((tmp_path / "state/cache",))
    assert 71000 in facts.uids_in_use(71000, 10)
    await files.give_back(A_VM)
    assert 71000 not in facts.uids_in_use(71000, 10)


async def test_what_is_no_file_is_not_handed_over(files: CacheFiles, tmp_path: Path) -> None:
    (tmp_path / "outside").touch()
    await lend(files)
    await files.give_back(A_VM)
    path = files.path(1000, "go")
    path.unlink()
    path.symlink_to(tmp_path / "outside")
    with pytest.raises((StepFailed, OSError)):
        await lend(files)
    assert (tmp_path / "outside").stat().st_uid == 0


@pytest.mark.needs("setpriv")
def test_it_takes_no_more_than_the_service_may(tmp_path: Path) -> None:
    """CAP_CHOWN alone: a VM's file is neither opened nor is its mode changed while it is the VM's."""
    code = """
import asyncio, sys
from pathlib import Path
from bangerd.host.caches import CacheFiles
from bangerd.host.disk import DiskFiles
from bangerd.model.vm import VM, Desired, VMSpec
spec = VMSpec("i", "k", 1, 2**29, 2**33, caches={"/root/go": "go"})
vm = VM("0" * 32, "00000001", "web", 1000, "alice", spec, Desired.RUNNING, 71000)
async def main(top):
    files = CacheFiles(top, DiskFiles(top, top / "run"))
    for _ in range(2):
        await files.lend(vm, size=2**30, limit=1)
        files.path(1000, "go").exists()
        await files.give_back(vm)
    await files.lend(vm, size=2**30, limit=1)
    await files.reclaim([])
    await files.remove(1000, "go")
    assert files.all() == ()
asyncio.run(main(Path(sys.argv[1])))
"""
    capabilities = "-all,+chown"
    subprocess.run(
        ["setpriv", f"--bounding-set={capabilities}", f"--inh-caps={capabilities}",
         sys.executable, "-c", code, tmp_path / "state"],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"] + ":/usr/sbin"}, check=True,
    )  # fmt: skip
