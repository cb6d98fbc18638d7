"""The admin's /etc/banger/banger.toml as a frozen Config. Whatever is not right in it ends the start."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from bangerd import tomlfile
from bangerd.model.errors import BangerError, InvalidSpec
from bangerd.model.network import parse_subnet
from bangerd.model.sizing import DISK_CEILING, DISK_FLOOR, Wish
from bangerd.model.vm import MIB

_UNITS = {"K": 1024, "M": MIB, "G": 1024 * MIB, "T": 1024 * 1024 * MIB}


class ConfigError(BangerError):
    code = "InvalidConfig"


def _text(must: str, description: str, pattern: str = r"^\S{1,255}$") -> Meta:
    # "$" alone also matches before a line's end, which TOML's strings can have.
    return Meta(pattern=rf"{pattern}(?!\n)", description=description, extra={"must": must})


def _count(must: str, description: str, most: int = 2**31 - 1, least: int = 1) -> Meta:
    return Meta(ge=least, le=most, description=description, extra={"must": must})


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table whose keys are all known."""


class VMDefaults(Table, frozen=True):
    """Sizes of new VMs where neither flag nor user's config says them; what is left out follows from the host."""

    vcpu: Annotated[int, _count("a whole number, 1 or more", "Virtual CPUs of a new VM.", 1024)] | None = (
        None
    )
    memory_mib: (
        Annotated[int, _count("a whole number of MiB, such as 4096", "Memory of a new VM in MiB.", 2**40)]
        | None
    ) = None
    disk_size: (
        Annotated[
            str,
            _text(
                'a size with a unit, as a string: "16G"',
                "Size of a new VM's disk.",
                r"^[1-9][0-9]{0,8}[MGT]$",
            ),
        ]
        | None
    ) = None

    def wish(self) -> Wish:
        """The same in bytes."""
        memory = None if self.memory_mib is None else self.memory_mib * MIB
        disk = None if self.disk_size is None else _bytes(self.disk_size)
        return Wish(self.vcpu, memory, disk)


# QEMU takes 10^15 bytes per second at most.
_RATE = r"^(0|[1-9][0-9]{0,5}[KM]|[1-9][0-9]{0,4}G)$"


class VMLimits(Table, frozen=True):
    """What each VM may use of what all share; "0": as much as there is."""

    disk_rate: Annotated[
        str,
        _text(
            'bytes per second with a unit, as a string: "200M", or "0" for no limit',
            "How much each disk of a VM may read and write in a second.",
            _RATE,
        ),
    ] = "0"
    network_rate: Annotated[
        str,
        _text(
            'bytes per second with a unit, as a string: "20M", or "0" for no limit',
            "How much a VM may send in a second, and how much it may receive.",
            _RATE,
        ),
    ] = "0"

    @property
    def disk_bytes_per_s(self) -> int:
        return _bytes(self.disk_rate)

    @property
    def network_bytes_per_s(self) -> int:
        return _bytes(self.network_rate)


def _bytes(size: str) -> int:
    return 0 if size == "0" else int(size[:-1]) * _UNITS[size[-1]]


_PROGRAM = r"^(/.*)?$"
_PROGRAM_MUST = 'an absolute path, or "" for the one in PATH'


class Config(Table, frozen=True):
    """Every key is optional."""

    subnet: Annotated[
        str,
        _text(
            'a network, such as "172.16.0.0/24"', "IPv4 network of the VMs; the first address is the host's."
        ),
    ] = "172.16.0.0/24"
    default_image_name: Annotated[
        str,
        _text("the name of an image", "Image of a new VM where neither flag nor user's config says one."),
    ] = "debian-bookworm"
    default_kernel_name: Annotated[
        str,
        _text("the name of a kernel", "Kernel of a new VM where neither flag nor user's config says one."),
    ] = "debian-bookworm"
    vmm: Annotated[
        str,
        _text(
            '"auto", "firecracker" or "qemu"',
            "What runs VMs; auto takes what works.",
            "^(auto|firecracker|qemu)$",
        ),
    ] = "auto"
    firecracker_bin: Annotated[
        str,
        _text(
            _PROGRAM_MUST,
            "Firecracker's program; empty means the one in /usr/local/bin, /usr/bin or their sbin.",
            _PROGRAM,
        ),
    ] = ""
    firecracker_pci: Annotated[
        bool,
        Meta(
            description="Whether Firecracker has its devices on a PCI bus, from 1.13 on, instead of memory-mapped."
        ),
    ] = False
    qemu_bin: Annotated[
        str, _text(_PROGRAM_MUST, "QEMU's program; empty means the one in PATH.", _PROGRAM)
    ] = ""
    mirror: Annotated[
        str,
        _text(
            "the URL of a Debian archive",
            "Debian archive that images are made from; empty means that of the host's apt.",
            r"^((https?|file|copy)://\S+)?$",
        ),
    ] = ""
    mise: Annotated[
        bool,
        Meta(description="Whether default images get mise, which installs tools that repositories name."),
    ] = True
    npm_mirror: Annotated[
        str,
        _text(
            "the URL of a package registry",
            "Where mise comes from; empty means registry.npmjs.org.",
            r"^(https?://\S+)?$",
        ),
    ] = ""
    uid_first: Annotated[
        int,
        _count(
            "1000 or more: those below are the system's",
            "First of the user ids that VMs run under.",
            least=1000,
        ),
    ] = 71000
    uid_count: Annotated[
        int, _count("a whole number, 1 or more", "How many user ids there are; as many VMs can exist.")
    ] = 1000
    max_vms_per_user: Annotated[
        int, _count("a whole number, 1 or more", "How many VMs each user may have.")
    ] = 64
    max_caches_per_user: Annotated[
        int, _count("a whole number, 1 or more", "How many cache disks each user may have.")
    ] = 32
    cache_size: Annotated[
        str,
        _text(
            'a size with a unit, as a string: "16G"',
            "Size of a new cache disk; it takes only as much as is in it.",
            r"^[1-9][0-9]{0,8}[MGT]$",
        ),
    ] = "16G"
    insecure_registries: Annotated[
        tuple[
            Annotated[str, _text('a host with its port, such as "localhost:5000"', "", r"^[^\s/]{1,255}$")],
            ...,
        ],
        Meta(description="Registries that images are pulled from without encryption: host:port each."),
    ] = ()
    max_images_per_user: Annotated[
        int, _count("a whole number, 1 or more", "How many images of their own each user may have.")
    ] = 64
    image_room_per_user: Annotated[
        str,
        _text(
            'a size with a unit, as a string: "40G"',
            "What the images of each user's own may come to.",
            r"^[1-9][0-9]{0,8}[MGT]$",
        ),
    ] = "40G"
    boot_timeout_s: Annotated[
        int, _count("a whole number of seconds", "How long a guest may take until it answers.")
    ] = 120
    stop_timeout_s: Annotated[
        int,
        _count("a whole number of seconds", "How long a guest may take to power off, before it is ended."),
    ] = 20
    allow_shared_host: Annotated[
        bool,
        Meta(
            description="Whether VMs of several owners may run where systemd does not, and nothing isolates them."
        ),
    ] = False
    vm_defaults: Annotated[VMDefaults, Meta(description="Sizes of new VMs.")] = VMDefaults()
    vm_limits: Annotated[VMLimits, Meta(description="What each VM may use of what all share.")] = VMLimits()

    @property
    def cache_bytes(self) -> int:
        return _bytes(self.cache_size)

    @property
    def image_bytes_per_user(self) -> int:
        return _bytes(self.image_room_per_user)


_USERS = "it is a user's, in ~/.config/banger/config.toml: the service opens no file of a user"
# Keys of the users' file.
REFUSED = dict.fromkeys(("ssh_key_path", "file_sync", "forward", "tooling"), _USERS) | {
    "nat": "each user decides it: in ~/.config/banger/config.toml, or with --no-nat",
}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    draft = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "banger.toml of an admin"}
    return draft | msgspec.json.schema(Config)


def load(path: Path, *, required: bool) -> Config:
    """Read the file. Raises ConfigError with each fault's line, column and a suggestion."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        if not required:
            return Config()
        raise ConfigError(f"{path}: no such file; leave --config away for the defaults") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    try:
        return parse(text)
    except tomlfile.Faults as exc:
        lines = [line for fault in exc.faults for line in fault.lines(str(path))]
        raise ConfigError("\n".join(lines)) from None


def parse(text: str) -> Config:
    """Raises Faults."""
    config = tomlfile.check(text, Config, REFUSED)
    faults = [
        tomlfile.at(text, (key,), problem) for key, check in _CHECKS.items() if (problem := check(config))
    ]
    if faults:
        raise tomlfile.Faults(faults)
    return config


def _subnet(config: Config) -> str:
    try:
        parse_subnet(config.subnet)
    except InvalidSpec as exc:
        return str(exc)
    return ""


def _uids(config: Config) -> str:
    return (
        "uid_first and uid_count must end below 2147483648"
        if config.uid_first + config.uid_count > 2**31
        else ""
    )


def _cache(config: Config) -> str:
    possible = DISK_FLOOR <= config.cache_bytes <= DISK_CEILING
    return "" if possible else f"cache_size must be {DISK_FLOOR // MIB}M to {DISK_CEILING // 2**40}T"


_CHECKS: dict[str, Callable[[Config], str]] = {
    "subnet": _subnet,
    "uid_first": _uids,
    "cache_size": _cache,
}
