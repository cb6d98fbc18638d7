"""Cache disks: root's while they rest, a VM's uid's while it runs. Whose a disk is, its file's owner says.

So nothing has to be remembered: after a crash the owners still say which VM has what. A disk lies in a folder of its
own, whose name says whose it is and whose time of change is when it was made; only root writes there.
"""

import asyncio
import logging
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from bangerd.host import tree
from bangerd.host.disk import DISK, DiskFiles, copy_sparse, new_folder
from bangerd.host.thread import in_thread
from bangerd.model.cache import Cache, too_many_caches
from bangerd.model.errors import CacheInUse, StepFailed
from bangerd.model.vm import MIB, VM

log = logging.getLogger(__name__)

_FOLDER = re.compile(r"([0-9]+)-([a-z0-9-]+)")


class CacheFiles:
    """ports.CacheDisks, below `state_dir`/cache."""

    def __init__(self, state_dir: Path, disks: DiskFiles) -> None:
        self._parent = state_dir / "cache"
        self._parent.mkdir(parents=True, exist_ok=True)
        self._parent.chmod(0o711)
        self._disks = disks
        self._rests = os.geteuid()  # root
        self._acting = asyncio.Lock()

    def path(self, owner_uid: int, name: str) -> Path:
        return self._parent / f"{owner_uid}-{name}" / DISK

    def all(self) -> tuple[Cache, ...]:
        """By owner and name."""
        return tuple(sorted(self._found(), key=lambda cache: (cache.owner_uid, cache.name)))

    def _found(self) -> Iterator[Cache]:
        with os.scandir(self._parent) as entries:
            folders = list(entries)
        for folder in folders:
            named = _FOLDER.fullmatch(folder.name)
            if named is None:
                continue
            try:
                made = folder.stat(follow_symlinks=False).st_mtime
                seen = os.lstat(Path(folder.path, DISK))
            except FileNotFoundError:
                continue  # being removed
            holder = 0 if seen.st_uid == self._rests else seen.st_uid
            yield Cache(named[2], int(named[1]), seen.st_size, seen.st_blocks * 512, int(made), holder)

    def lent_to(self, vm: VM) -> frozenset[str]:
        """The names of the VM's caches that are its uid's now."""
        return frozenset(name for name in vm.spec.caches.values() if self._owner_of(vm, name) == vm.uid)

    def _owner_of(self, vm: VM, name: str) -> int | None:
        try:
            return os.lstat(self.path(vm.owner_uid, name)).st_uid
        except FileNotFoundError:
            return None

    async def lend(self, vm: VM, *, size: int, limit: int) -> None:
        """Make all its caches the VM's uid's; those that are missing are made first.

        New ones have `size` bytes, or as many as there can be. What was lent stays so when a further one cannot be.
        Raises CacheInUse, LimitReached, HostNotReady, StepFailed.
        """
        async with self._acting:
            for name in sorted(vm.spec.caches.values()):
                if self._owner_of(vm, name) is None:
                    if self._count(vm.owner_uid) >= limit:
                        raise too_many_caches(limit)
                    await self._make(vm.owner_uid, name, size)
                holder = self._owner_of(vm, name)
                if holder not in (self._rests, vm.uid):
                    raise CacheInUse(name)
                self._hand_over(self.path(vm.owner_uid, name), vm.uid)

    async def give_back(self, vm: VM) -> None:
        """What the VM has becomes root's. None of its processes may be left."""
        async with self._acting:
            for name in self.lent_to(vm):
                self._hand_over(self.path(vm.owner_uid, name), self._rests)

    async def remove(self, owner_uid: int, name: str) -> None:
        """No such cache is no error. Raises CacheInUse, StepFailed."""
        async with self._acting:
            folder = self.path(owner_uid, name).parent
            try:
                if os.lstat(folder / DISK).st_uid != self._rests:
                    raise CacheInUse(name)
                folder.rename(folder.with_name(f".old-{folder.name}"))
            except FileNotFoundError:
                return
            await self._clear(f".old-{folder.name}")

    async def reclaim(self, vms: Sequence[VM]) -> None:
        """At the service's start: take back what no VM of these has, remove what interrupted steps left."""
        rightful = {(vm.uid, vm.owner_uid, name) for vm in vms for name in vm.spec.caches.values()}
        async with self._acting:
            for cache in self._found():
                if cache.holder and (cache.holder, cache.owner_uid, cache.name) not in rightful:
                    log.warning("taking back cache %s of uid %d", cache.name, cache.owner_uid)
                    self._hand_over(self.path(cache.owner_uid, cache.name), self._rests)
            for entry in list(self._parent.iterdir()):
                if entry.name.startswith((".new-", ".old-")):
                    await self._clear(entry.name)

    def _count(self, owner_uid: int) -> int:
        return sum(cache.owner_uid == owner_uid for cache in self._found())

    async def _make(self, owner_uid: int, name: str, size: int) -> None:
        # Nobody asked for this size: where it cannot fit, what can is made.
        size = min(size, self._disks.total_bytes() // MIB * MIB)
        self._disks.check_room(size, "cache")
        with await self._disks.template(size) as template:
            try:
                await in_thread(self._make_disk, f"{owner_uid}-{name}", template.fileno())
            except OSError as exc:
                raise StepFailed(f"the disk of cache '{name}' could not be made: {exc}") from exc

    def _make_disk(self, name: str, template: int) -> None:
        parent = tree.open_folder(self._parent)
        try:
            new = f".new-{name}"
            tree.remove(parent, new)
            tree.remove(parent, name)  # a folder without a disk
            folder = new_folder(parent, new, os.getegid(), 0o711)
            try:
                disk = os.open(DISK, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
                try:
                    copy_sparse(template, disk)
                    os.fdatasync(disk)
                finally:
                    os.close(disk)
            finally:
                os.close(folder)
            os.rename(new, name, src_dir_fd=parent, dst_dir_fd=parent)
        finally:
            os.close(parent)

    def _hand_over(self, path: Path, uid: int) -> None:
        """By descriptor. Raises StepFailed for what is no file."""
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StepFailed(f"{path} is no file; move it away")
            by_descriptor = f"/proc/self/fd/{descriptor}"
            # Ours first: to change the mode of another's file takes a capability that the service has not.
            os.chown(by_descriptor, self._rests, self._rests)
            os.chmod(by_descriptor, 0o600)  # noqa: PTH101, the path is a descriptor
            os.chown(by_descriptor, uid, uid)
        finally:
            os.close(descriptor)

    async def _clear(self, name: str) -> None:
        try:
            await in_thread(_remove, self._parent, name)
        except OSError as exc:
            raise StepFailed(f"{self._parent / name} could not be removed: {exc}") from exc


def _remove(parent: Path, name: str) -> None:
    folder = tree.open_folder(parent)
    try:
        tree.remove(folder, name)
    finally:
        os.close(folder)
