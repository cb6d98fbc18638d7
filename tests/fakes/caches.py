"""Cache disks in memory."""

from collections.abc import Sequence
from pathlib import Path

from bangerd.model.cache import Cache, too_many_caches
from bangerd.model.errors import CacheInUse
from bangerd.model.vm import GIB, VM
from tests.fakes.world import World


class FakeCaches:
    """Which there are, and the uid that each is: 0 when it rests."""

    def __init__(self, world: World) -> None:
        self._world = world

    def path(self, owner_uid: int, name: str) -> Path:
        return Path("/fake/cache") / f"{owner_uid}-{name}"

    def all(self) -> tuple[Cache, ...]:
        found = sorted(self._world.caches.items())
        return tuple(Cache(name, owner, 16 * GIB, 4096, 1, holder) for (owner, name), holder in found)

    def lent_to(self, vm: VM) -> frozenset[str]:
        caches = self._world.caches
        return frozenset(n for n in vm.spec.caches.values() if caches.get((vm.owner_uid, n)) == vm.uid)

    async def lend(self, vm: VM, *, size: int, limit: int) -> None:
        for name in sorted(vm.spec.caches.values()):
            self._world.effect("lend", vm.sid)
            key = (vm.owner_uid, name)
            if key not in self._world.caches and sum(o == key[0] for o, _ in self._world.caches) >= limit:
                raise too_many_caches(limit)
            if self._world.caches.get(key, 0) not in (0, vm.uid):
                raise CacheInUse(name)
            self._world.caches[key] = vm.uid

    async def give_back(self, vm: VM) -> None:
        self._world.effect("give_back", vm.sid)
        assert vm.sid not in self._world.guests, "its processes still run"
        for name in self.lent_to(vm):
            self._world.caches[vm.owner_uid, name] = 0

    async def remove(self, owner_uid: int, name: str) -> None:
        if self._world.caches.get((owner_uid, name), 0):
            raise CacheInUse(name)
        self._world.caches.pop((owner_uid, name), None)

    async def reclaim(self, vms: Sequence[VM]) -> None:
        uids = {vm.uid for vm in vms}
        for key, holder in self._world.caches.items():
            self._world.caches[key] = holder if holder in uids else 0
