"""Cache disks: named disks of a user that outlive the VMs which mount them."""

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

from bangerd.model.errors import InvalidSpec, LimitReached
from bangerd.model.vm import VM

PER_VM = 8
PATH_LIMIT = 255
# What the guest's kernel and the guest program fill themselves.
_NOT_UNDER = ("/proc", "/sys", "/dev", "/run")
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Cache:
    """A disk that exists. Sizes in bytes; `holder` is the uid of the VM that has it, 0 when it rests."""

    name: str
    owner_uid: int
    size: int
    used: int
    created_at: int  # unix time
    holder: int


def user_of(cache: Cache, vms: Iterable[VM]) -> VM | None:
    """The VM that has the cache, or is about to; None when it is free."""
    return next(
        (
            vm
            for vm in vms
            if vm.owner_uid == cache.owner_uid
            and cache.name in vm.spec.caches.values()
            and (vm.wanted_up or vm.uid == cache.holder)
        ),
        None,
    )


def too_many_caches(limit: int) -> LimitReached:
    return LimitReached(
        f"{limit} caches are as many as this machine allows each user; `banger cache delete` removes one"
    )


def check_caches(caches: dict[str, str]) -> None:
    """Path in the guest -> name. Raises InvalidSpec."""
    if len(caches) > PER_VM:
        raise InvalidSpec(f"{len(caches)} caches; {PER_VM} are possible in a VM")
    for path, name in caches.items():
        check_cache_name(name)
        _check_path(path)
    twice = next((name for name in caches.values() if list(caches.values()).count(name) > 1), None)
    if twice is not None:
        raise InvalidSpec(f"cache '{twice}' is wanted at two paths; a disk can be mounted at one")


def check_cache_name(name: str) -> str:
    """Raises InvalidSpec."""
    if _NAME.fullmatch(name):
        return name
    raise InvalidSpec(
        f"{name[:80]!a} is no valid name of a cache; use 1 to 63 of a-z, 0-9 and '-', with no '-' at the start"
        " or the end"
    )


def _check_path(path: str) -> None:
    shown = ascii(path[:80])
    if not path.startswith("/") or path.startswith("//") or posixpath.normpath(path) != path:
        raise InvalidSpec(
            f"a cache cannot be mounted at {shown}; give an absolute path without '.', '..' or doubled '/'"
        )
    if path == "/" or any(path == top or path.startswith(f"{top}/") for top in _NOT_UNDER):
        raise InvalidSpec(
            f"a cache cannot be mounted at {shown}; / and what is under {', '.join(_NOT_UNDER)} belong to the system"
        )
    if not path.isprintable() or len(path.encode()) > PATH_LIMIT:
        raise InvalidSpec(
            f"a cache cannot be mounted at {shown}; use printable characters, {PATH_LIMIT} bytes at most"
        )
