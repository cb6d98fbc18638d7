"""What a new VM is where no flag says it: first by the user's config; the rest the service decides."""

from dataclasses import replace

from banger.config import settings
from banger.service import Record, Wanted

FILE_SYNC = "banger.file-sync"  # the label of a VM that has not got its owner's files yet
PENDING = "pending"

_MIB = 1024**2
_FILLED = ("image", "kernel", "vcpu", "memory", "disk", "nat")


def fill(wanted: Wanted) -> Wanted:
    """`wanted`, and what the user's config says of what it leaves open. Raises Failure for a config that is wrong."""
    config = settings()
    sizes = config.vm_defaults
    memory = None if sizes.memory_mib is None else sizes.memory_mib * _MIB
    filled = replace(
        wanted,
        image=wanted.image or config.default_image_name or "",
        kernel=wanted.kernel or config.default_kernel_name or "",
        vcpu=sizes.vcpu if wanted.vcpu is None else wanted.vcpu,
        memory=memory if wanted.memory is None else wanted.memory,
        disk=sizes.disk_size if wanted.disk is None else wanted.disk,
        nat=config.nat if wanted.nat is None else wanted.nat,
        labels={**wanted.labels, FILE_SYNC: PENDING} if config.file_sync else wanted.labels,
    )
    by_config = frozenset(key for key in _FILLED if getattr(filled, key) != getattr(wanted, key))
    return replace(filled, by_config=by_config)


def origin(key: str, resolved: Record, wanted: Wanted) -> str:
    """Who decided `key` of a spec: "flag", "your config", "admin", "host" or "built-in"."""
    if key in wanted.by_config:
        return "your config"
    if getattr(wanted, key) not in (None, ""):
        return "flag"
    said = str(resolved.get(f"{key}_origin", "unknown"))
    return "admin" if said == "config" else said


def pending(vm: Record) -> bool:
    """Whether the VM that Describe told of still waits for its owner's files."""
    return dict(vm.get("labels") or {}).get(FILE_SYNC) == PENDING
