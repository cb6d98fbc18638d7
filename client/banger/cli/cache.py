"""`banger cache …`: disks that outlive VMs."""

import pwd
import time
from typing import Annotated

from cyclopts import Parameter

from banger import render, units
from banger.cli.each import each
from banger.cli.options import PEOPLE, CacheName, MoreCaches, Output
from banger.errors import UsageError
from banger.service import Record, Service


def list_(
    *,
    everyone: Annotated[
        bool,
        Parameter(name=["--all", "-a"], negative=(), help="Other users' too, if you may look at them."),
    ] = False,
    output: Output = PEOPLE,
) -> None:
    """List your caches. SIZE is what fits in, USED what it takes of this machine's disk."""
    caches = Service().list_caches(everyone=everyone)
    if output.json:
        render.as_json(caches)
        return
    if not caches:
        if not output.quiet:
            render.note("no caches; `banger vm run --cache NAME:/PATH` makes one")
        return
    now = time.time()
    render.table(("NAME", "OWNER", "SIZE", "USED", "VM", "AGE"), [_row(cache, now) for cache in caches])


def delete(
    name: CacheName,
    /,
    *more: MoreCaches,
    owner: Annotated[str, Parameter(help="The user whose they are, if not you.")] = "",
    output: Output = PEOPLE,
) -> int:
    """Remove caches that no VM has, with all that is in them. There is no way back."""
    owner_uid = _uid(owner) if owner else None
    service = Service()
    return each(
        (name, *more),
        "delete",
        lambda one: service.delete_cache(one, owner_uid),
        lambda one: f"cache {one} is deleted",
        output,
    )


def _uid(user: str) -> int:
    if user.isascii() and user.isdecimal() and int(user) < 2**32 - 1:
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except (KeyError, ValueError):
        raise UsageError(
            f"no user named {user[:80]!a} here", hint="`banger cache list --all` shows owners"
        ) from None


def _row(cache: Record, now: float) -> tuple[str, ...]:
    return (
        str(cache["name"]),
        str(cache.get("owner_name") or cache["owner"]),
        units.size(cache["size"]),
        units.size(cache["used"]),
        str(cache["vm"] or "-"),
        units.age(now - cache["created_at"]),
    )
