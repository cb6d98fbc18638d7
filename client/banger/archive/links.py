"""Where a link leads, worked out on names alone: nothing is looked up through it."""

from collections.abc import Callable

from banger.archive.member import Path

_MOST_HOPS = 40  # as the kernel has it
_MOST_NAMES = 1000  # on the way; who needs more wants to keep us busy


def leads_out(path: Path, target: bytes, link_at: Callable[[Path], bytes | None]) -> bool:
    """Whether the link at `path` leads out of the tree, also by way of other links there.

    `link_at` gives the target of what is a link in the tree, else None.
    """
    if target.startswith(b"/"):
        return True
    here = list(path[:-1])
    todo = target.split(b"/")[::-1]
    hops = names = 0
    while todo:
        name = todo.pop()
        names += 1
        if names > _MOST_NAMES:
            return True
        if name in (b"", b"."):
            continue
        if name == b"..":
            if not here:
                return True
            here.pop()
            continue
        here.append(name)
        onward = link_at(tuple(here))
        if onward is None:
            continue
        hops += 1
        if hops > _MOST_HOPS or onward.startswith(b"/"):
            return True
        here.pop()
        todo += onward.split(b"/")[::-1]
    return False
