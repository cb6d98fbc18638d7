"""How large a VM becomes: flags, the admin's config, the host, constants, in this order."""

from dataclasses import dataclass
from typing import Literal

from bangerd.model.errors import InvalidSpec
from bangerd.model.vm import GIB, MIB

Origin = Literal["request", "config", "host", "built-in"]


@dataclass(frozen=True, slots=True)
class Sized:
    """A value and where it came from."""

    value: int
    origin: Origin


@dataclass(frozen=True, slots=True)
class Sizes:
    """vCPUs; memory and disk in bytes."""

    vcpu: Sized
    memory: Sized
    disk: Sized


@dataclass(frozen=True, slots=True)
class HostSize:
    """cpus; memory and the state folder's file system in bytes."""

    cpus: int
    memory: int
    disk: int


@dataclass(frozen=True, slots=True)
class Wish:
    """What one layer says; None: nothing. Memory and disk in bytes."""

    vcpu: int | None = None
    memory: int | None = None
    disk: int | None = None


MEMORY_FLOOR = 128 * MIB
DISK_FLOOR = 256 * MIB
DISK_DEFAULT = 8 * GIB
DISK_CEILING = 16 * 1024 * GIB
BLOCK = 4096
# Linux begins a mapping of whole huge pages at the bound of one, and only then KVM can map a guest's memory by them.
# Else each page of 4 KiB that a guest touches is a fault: twenty thousand in a boot (docs/benchmarks.md).
HUGE_PAGE = 2 * MIB
VCPU_CEILING = 32  # Firecracker's MAX_SUPPORTED_VCPUS


def resolve(asked: Wish, config: Wish, host: HostSize) -> Sizes:
    """The effective sizes. Raises InvalidSpec for what no VM on this host can have."""
    memory = min(8 * GIB, host.memory // 8) // HUGE_PAGE * HUGE_PAGE
    by_host = Wish(vcpu=min(4, host.cpus // 4), memory=memory)
    sizes = Sizes(
        vcpu=_pick(asked.vcpu, config.vcpu, by_host.vcpu, 1, 1),
        memory=_pick(asked.memory, config.memory, by_host.memory, 512 * MIB, 512 * MIB),
        disk=_pick(asked.disk, config.disk, None, DISK_DEFAULT, DISK_FLOOR),
    )
    _check(sizes, host)
    return sizes


def _whole_mib(count: int) -> int:
    return count // MIB * MIB


def _pick(asked: int | None, config: int | None, host: int | None, constant: int, floor: int) -> Sized:
    if asked is not None:
        return Sized(asked, "request")
    if config is not None:
        return Sized(config, "config")
    if host is not None and host >= floor:
        return Sized(host, "host")
    return Sized(constant, "built-in")


def _check(sizes: Sizes, host: HostSize) -> None:
    vcpu, memory, disk = sizes.vcpu.value, sizes.memory.value, sizes.disk.value
    most = min(VCPU_CEILING, host.cpus)
    if not 1 <= vcpu <= most:
        raise InvalidSpec(
            f"{vcpu} vCPUs{_by_admin(sizes.vcpu)} are not possible here; ask for 1 to {most},"
            f" this host has {host.cpus} CPUs"
        )
    if not MEMORY_FLOOR <= memory <= host.memory:
        raise InvalidSpec(
            f"{shown(memory)} of memory{_by_admin(sizes.memory)} are not possible here; ask for {shown(MEMORY_FLOOR)}"
            f" to {shown(_whole_mib(host.memory))}, all that this host has"
        )
    if memory % MIB:
        raise InvalidSpec(
            f"{memory} bytes of memory are no whole number of MiB; ask for {-(-memory // MIB)} MiB"
        )
    ceiling = min(DISK_CEILING, host.disk)
    if ceiling < DISK_FLOOR:
        raise InvalidSpec(
            f"no disk is possible here: the smallest has {shown(DISK_FLOOR)}, and the file system that would hold it"
            f" {shown(ceiling)}; give the service's state folder a larger one"
        )
    if not DISK_FLOOR <= disk <= ceiling:
        raise InvalidSpec(
            f"a disk of {shown(disk)}{_by_admin(sizes.disk)} is not possible here; ask for {shown(DISK_FLOOR)} to"
            f" {shown(_whole_mib(ceiling))}, the size of the file system that holds it"
        )
    if disk % BLOCK:
        raise InvalidSpec(
            f"a disk of {disk} bytes is no whole number of {BLOCK}-byte blocks; ask for {shown(-(-disk // MIB) * MIB)}"
        )


def _by_admin(sized: Sized) -> str:
    return " (vm_defaults of /etc/banger/banger.toml)" if sized.origin == "config" else ""


def shown(count: int) -> str:
    """A size for people, exact in the unit it is shown in: "512 MiB", "1536 MiB", "8 GiB"; else to a tenth."""
    for unit, name in ((1024 * GIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if count >= unit and count % unit == 0:
            return f"{count // unit} {name}"
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (1024, "KiB")):
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"
