"""Cache disks: who has them, which there are, away with one. One VM at a time can have one."""

from collections.abc import Callable, Sequence

from bangerd.config import Config
from bangerd.core.ports import CacheDisks
from bangerd.model.cache import Cache, too_many_caches, user_of
from bangerd.model.errors import CacheInUse, NoSuchCache
from bangerd.model.vm import VM


class Caches:
    """`vms` gives all stored VMs."""

    def __init__(self, disks: CacheDisks, config: Config, vms: Callable[[], Sequence[VM]]) -> None:
        self._disks = disks
        self._config = config
        self._vms = vms

    def all(self) -> tuple[Cache, ...]:
        """By owner and name."""
        return self._disks.all()

    def user(self, cache: Cache) -> str:
        """The name of the VM that has it, or is about to; "" when it is free."""
        vm = user_of(cache, self._vms())
        return vm.name if vm is not None else ""

    def check_free(self, owner_uid: int, names: Sequence[str], *, sid: str = "") -> None:
        """Raises CacheInUse when another VM than `sid` has one of the owner's caches, or is about to."""
        others = [vm for vm in self._vms() if vm.sid != sid]
        holders = {cache.name: cache.holder for cache in self.all() if cache.owner_uid == owner_uid}
        for name in names:
            # One that is not made yet may be wanted by a VM that is on its way up.
            user = user_of(Cache(name, owner_uid, 0, 0, 0, holders.get(name, 0)), others)
            if user is not None:
                raise CacheInUse(name, user.name)

    def check_count(self, owner_uid: int, names: Sequence[str]) -> None:
        """Raises LimitReached when the owner would have too many with these."""
        mine = {cache.name for cache in self.all() if cache.owner_uid == owner_uid}
        if not mine.issuperset(names) and len(mine.union(names)) > self._config.max_caches_per_user:
            raise too_many_caches(self._config.max_caches_per_user)

    async def lend(self, vm: VM) -> None:
        """Raises CacheInUse, LimitReached, HostNotReady, StepFailed."""
        self.check_free(vm.owner_uid, tuple(vm.spec.caches.values()), sid=vm.sid)
        config = self._config
        await self._disks.lend(vm, size=config.cache_bytes, limit=config.max_caches_per_user)

    async def delete(self, owner_uid: int, name: str) -> None:
        """Raises NoSuchCache, CacheInUse, StepFailed."""
        if not any((cache.owner_uid, cache.name) == (owner_uid, name) for cache in self.all()):
            raise NoSuchCache(name)
        self.check_free(owner_uid, (name,))
        await self._disks.remove(owner_uid, name)
