"""Device nodes that a VM's unit opens by itself."""

import stat
from collections.abc import Sequence
from pathlib import Path


def device_groups(devices: Sequence[str]) -> tuple[int, ...]:
    """The groups a process needs to open these nodes: /dev/kvm is root:kvm 0660 on most hosts.

    None for a node that everyone may open, that no group may, or that does not exist: the VMM then says so.
    """
    groups: set[int] = set()
    for device in devices:
        try:
            found = Path(device).stat()
        except OSError:
            continue
        mode = stat.S_IMODE(found.st_mode)
        if found.st_gid != 0 and mode & 0o060 == 0o060 and mode & 0o006 != 0o006:
            groups.add(found.st_gid)
    return tuple(sorted(groups))
