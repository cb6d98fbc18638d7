"""Files of VMs: the own disk, a sparse copy of a template, and the run folder with the seed.

A VMM's uid owns what lies in there, so every name is looked up in a folder that is already open, no link is
followed, and owners and modes are set by descriptor.
"""

import asyncio
import fcntl
import itertools
import logging
import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path

from bangerd.host import process, tree
from bangerd.host.thread import in_thread
from bangerd.model.errors import HostNotReady, StepFailed
from bangerd.model.vm import GIB, MIB, VM

log = logging.getLogger(__name__)

DISK = "disk.ext4"
SEED = "seed.img"
VMM_FILES = frozenset({"firecracker.json", "metrics.fifo"})  # may lie beside the seed before a start
# A guest that writes finds the host full in the middle of it: no VM is created when there is less than this.
RESERVE = 256 * MIB
_SID = re.compile(r"(?:\.(?:new|old)-)?([0-9a-f]{8})")
# Named, not the distribution's defaults: a template is for any guest kernel, not for this host's. What a
# file system of this size needs when it grows later works without resize_inode (the kernel goes on in meta_bg).
_FEATURES = (
    "none,has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize,"
    "sparse_super,large_file,filetype,dir_index,ext_attr"
)
# A sparse file reads as zeros, so neither inode tables nor journal are written, now or later in the guest.
_EXTENDED = "assume_storage_prezeroed=1,lazy_journal_init=1,nodiscard,root_owner=0:0"
_VERSION = 1  # of the two above: part of a template's name
_FICLONE = 0x40049409
_TEMPLATES_KEPT = 8


class DiskFiles:
    """ports.Disks, below `state_dir`/vm, `state_dir`/templates and `runtime_dir`/vm."""

    def __init__(self, state_dir: Path, runtime_dir: Path) -> None:
        self._state = state_dir / "vm"
        self._runtime = runtime_dir / "vm"
        self._templates = state_dir / "templates"
        for folder, mode in ((self._state, 0o711), (self._runtime, 0o711), (self._templates, 0o700)):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(mode)
        self._making = asyncio.Lock()

    def disk_path(self, vm: VM) -> Path:
        return self._state / vm.sid / DISK

    def run_dir(self, vm: VM) -> Path:
        return self._runtime / vm.sid

    def free_bytes(self) -> int:
        """What may still be written to the file system of the disks."""
        seen = os.statvfs(self._state)
        return seen.f_bavail * seen.f_frsize

    def total_bytes(self) -> int:
        seen = os.statvfs(self._state)
        return seen.f_blocks * seen.f_frsize

    def has_disk(self, vm: VM) -> bool:
        return tree.is_regular(self.disk_path(vm))

    async def ensure_disk(self, vm: VM) -> None:
        """Raises HostNotReady when there is no room, StepFailed when mke2fs fails."""
        if self.has_disk(vm):
            return
        self.check_room(vm.spec.disk, "VM")
        with await self.template(vm.spec.disk) as template:
            try:
                await in_thread(self._make_disk, vm, template.fileno())
            except OSError as exc:
                raise StepFailed(f"the disk of '{vm.name}' could not be made: {exc}") from exc

    async def remove_disk(self, vm: VM) -> None:
        await self._remove(self._state, vm.sid)

    def has_run_dir(self, vm: VM) -> bool:
        try:
            return stat.S_ISDIR(os.lstat(self.run_dir(vm)).st_mode)
        except FileNotFoundError:
            return False

    def is_fresh(self, vm: VM) -> bool:
        """The run folder is as ensure_run_dir left it."""
        try:
            with os.scandir(self.run_dir(vm)) as entries:
                # A few are enough to know: the VM's uid may have filled the folder.
                found = {entry.name for entry in itertools.islice(entries, len(VMM_FILES) + 2)}
                return SEED in found and found <= {SEED, *VMM_FILES}
        except FileNotFoundError:
            return False

    async def ensure_run_dir(self, vm: VM, seed: bytes) -> None:
        """A fresh one: what an earlier run left is removed, the seed is written anew. Raises StepFailed."""
        await self.remove_run_dir(vm)
        try:
            self._make_run_dir(vm, seed)
        except OSError as exc:
            raise StepFailed(f"the run folder of '{vm.name}' could not be made: {exc}") from exc

    async def write_files(self, vm: VM, files: Sequence[tuple[str, bytes | None]]) -> None:
        """Files that the VM's uid owns, in its run folder; None for the content: a named pipe. Raises StepFailed."""
        if not files:
            return
        try:
            folder = tree.open_folder(self.run_dir(vm))
            try:
                for name, content in files:
                    tree.remove(folder, name)
                    if content is None:
                        _make_pipe(folder, name, vm.uid)
                    else:
                        _write_file(folder, name, content, vm.uid, 0o600)
            finally:
                os.close(folder)
        except OSError as exc:
            raise StepFailed(f"the VMM's files of '{vm.name}' could not be written: {exc}") from exc

    async def remove_run_dir(self, vm: VM) -> None:
        await self._remove(self._runtime, vm.sid)

    def list_sids(self) -> frozenset[str]:
        """All VMs of which any file is left, those of interrupted steps included."""
        names = (path.name for folder in (self._state, self._runtime) for path in folder.iterdir())
        return frozenset(found[1] for name in names if (found := _SID.fullmatch(name)))

    async def remove_stray(self, sid: str) -> None:
        for folder in (self._state, self._runtime):
            await self._remove(folder, sid)

    def check_room(self, size: int, what: str) -> None:
        """Raises HostNotReady when there is no room for another VM, or whatever it is, with a disk of `size` bytes."""
        free, total = self.free_bytes(), self.total_bytes()
        where = self._state.parent
        if size > total:
            raise HostNotReady(
                f"a disk of {size / GIB:.1f} GiB does not fit: the file system of {where} has "
                f"{total / GIB:.1f} GiB; choose a smaller disk"
            )
        if free < RESERVE:
            raise HostNotReady(
                f"no room for another {what}: {free // MIB} MiB are free in {where}, {RESERVE // MIB} MiB are "
                "needed; delete VMs or images that are not used, or free some room"
            )

    async def template(self, size: int) -> FileIO:
        """An empty file system of exactly `size` bytes, made once: in the guest nothing has to grow."""
        path = self._templates / f"v{_VERSION}-{size}.ext4"
        async with self._making:
            with suppress(FileNotFoundError):
                return FileIO(path)
            for old in sorted(self._templates.iterdir(), key=lambda p: p.stat().st_mtime)[:-_TEMPLATES_KEPT]:
                old.unlink()
            new = path.with_suffix(".new")
            with new.open("wb") as file:
                file.truncate(size)
            await process.run(
                [
                    "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0",
                    "-O", _FEATURES, "-E", _EXTENDED, "-J", "size=32", "-L", "banger", str(new),
                ],
                timeout_s=60,
            )  # fmt: skip
            await in_thread(_sync, new)
            new.rename(path)
            return FileIO(path)

    def _make_disk(self, vm: VM, template: int) -> None:
        parent = tree.open_folder(self._state)
        try:
            tree.remove(parent, f".new-{vm.sid}")
            folder = new_folder(parent, f".new-{vm.sid}", vm.uid, 0o750)
            try:
                disk = os.open(DISK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
                try:
                    copy_sparse(template, disk)
                    os.fchown(disk, vm.uid, vm.uid)
                    # Without it, a power cut could leave the name and not the content.
                    os.fdatasync(disk)
                finally:
                    os.close(disk)
            finally:
                os.close(folder)
            tree.remove(parent, vm.sid)  # a folder without a disk
            os.rename(f".new-{vm.sid}", vm.sid, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            os.close(parent)

    def _make_run_dir(self, vm: VM, seed: bytes) -> None:
        parent = tree.open_folder(self._runtime)
        try:
            folder = new_folder(parent, f".new-{vm.sid}", vm.uid, 0o770)
            try:
                _write_file(folder, SEED, seed, vm.uid, 0o400)
            finally:
                os.close(folder)
            os.rename(f".new-{vm.sid}", vm.sid, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            os.close(parent)

    async def _remove(self, parent: Path, sid: str) -> None:
        """By rename first, so that a half removed folder is never taken for a whole one."""
        try:
            await in_thread(_remove, parent, sid)
        except OSError as exc:
            raise StepFailed(f"{parent / sid} could not be removed: {exc}") from exc


def _remove(parent: Path, sid: str) -> None:
    folder = tree.open_folder(parent)
    try:
        for leftover in (f".old-{sid}", f".new-{sid}"):
            tree.remove(folder, leftover)
        try:
            os.rename(sid, f".old-{sid}", src_dir_fd=folder, dst_dir_fd=folder)
        except FileNotFoundError:
            return
        tree.remove(folder, f".old-{sid}")
    finally:
        os.close(folder)


def _write_file(folder: int, name: str, content: bytes, owner: int, mode: int) -> None:
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
    with os.fdopen(file, "wb") as output:
        output.write(content)
        output.flush()
        os.fchown(file, owner, owner)


def _make_pipe(folder: int, name: str, owner: int) -> None:
    os.mkfifo(name, 0o644, dir_fd=folder)  # the service reads it, and has no CAP_DAC_OVERRIDE
    pipe = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        os.fchown(pipe, owner, owner)
    finally:
        os.close(pipe)


def new_folder(parent: int, name: str, group: int, mode: int) -> int:
    """A folder of root's that a VM's group may use, open."""
    os.mkdir(name, 0o700, dir_fd=parent)
    folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        os.fchown(folder, -1, group)
        os.fchmod(folder, mode)
    except OSError:
        os.close(folder)
        raise
    return folder


def copy_sparse(source: int, target: int) -> None:
    """Copy into an empty file: shared extents where the file system can, else only what is no hole."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        size = os.fstat(source).st_size
        os.ftruncate(target, size)
        for start, end in _extents(source, size):
            at = start
            while at < end:
                at += os.copy_file_range(source, target, end - at, at, at)


def _extents(descriptor: int, size: int) -> list[tuple[int, int]]:
    extents = []
    at = 0
    while at < size:
        try:
            start = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:  # ENXIO: nothing but a hole up to the end
            break
        at = os.lseek(descriptor, start, os.SEEK_HOLE)
        extents.append((start, at))
    return extents


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
