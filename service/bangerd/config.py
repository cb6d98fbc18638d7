"""The admin's /etc/banger/banger.toml as a frozen Config. A key that is unknown or of the wrong type ends the start."""

import difflib
import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bangerd.model.errors import BangerError
from bangerd.model.sizing import Wish
from bangerd.model.vm import GIB, MIB

_UNITS = {"": 1, "K": 1024, "M": MIB, "G": GIB, "T": 1024 * GIB}


class ConfigError(BangerError):
    code = "InvalidConfig"


@dataclass(frozen=True, slots=True)
class Config:
    """Every key is optional. Times in seconds."""

    subnet: str = "172.16.0.0/24"
    default_image_name: str = "debian-bookworm"
    default_kernel_name: str = "debian-bookworm"
    vmm: str = "auto"  # "auto", "firecracker", "qemu"
    firecracker_bin: str = ""
    qemu_bin: str = ""
    mirror: str = ""  # "": that of the host's apt
    mise: bool = True  # in the default images
    npm_mirror: str = ""  # what mise comes from; "": registry.npmjs.org
    uid_first: int = 71000
    uid_count: int = 1000
    max_vms_per_user: int = 64
    boot_timeout_s: int = 120
    stop_timeout_s: int = 20
    allow_shared_host: bool = False  # VMs of several owners although the supervisor cannot isolate them
    vm_defaults: Wish = field(default_factory=Wish)


def load(path: Path, *, required: bool) -> Config:
    """Read the file. Raises ConfigError naming file, key and what is possible."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        if not required:
            return Config()
        raise ConfigError(f"{path}: no such file; leave --config away for the defaults") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: cannot be read: {exc}") from exc
    try:
        return parse(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, ConfigError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def parse(data: dict[str, Any]) -> Config:
    """Raises ConfigError for an unknown key, a wrong type or a value out of range."""
    data = dict(data)
    wish = _wish(data.pop("vm_defaults", {}))
    types = {f.name: type(f.default) for f in fields(Config) if f.name != "vm_defaults"}
    _known(data, [*types, "vm_defaults"], "")
    for key, value in data.items():
        if type(value) is not types[key]:
            raise ConfigError(f"{key} must be of type {types[key].__name__}, not {type(value).__name__}")
    config = Config(**data, vm_defaults=wish)
    _check(config)
    return config


def _check(config: Config) -> None:
    if config.vmm not in ("auto", "firecracker", "qemu"):
        raise ConfigError(f"vmm = {config.vmm!r} is not possible; use auto, firecracker or qemu")
    for key in ("uid_first", "uid_count", "max_vms_per_user", "boot_timeout_s", "stop_timeout_s"):
        if getattr(config, key) < 1:
            raise ConfigError(f"{key} must be 1 or more")
    if not 1000 <= config.uid_first <= 2**31 - config.uid_count:
        raise ConfigError(
            "uid_first must leave the system's uids (below 1000) alone and end below 2147483648"
        )
    for key in ("firecracker_bin", "qemu_bin"):
        value = getattr(config, key)
        if value and not value.startswith("/"):
            raise ConfigError(f"{key} must be an absolute path")


def _wish(table: object) -> Wish:
    if not isinstance(table, dict):
        raise ConfigError("vm_defaults must be a table")
    _known(table, ["vcpu", "memory_mib", "disk_size"], "vm_defaults.")
    for key in ("vcpu", "memory_mib"):
        if key in table and type(table[key]) is not int:
            raise ConfigError(f"vm_defaults.{key} must be an integer")
    memory = table.get("memory_mib")
    disk = table.get("disk_size")
    return Wish(
        vcpu=table.get("vcpu"),
        memory=None if memory is None else memory * MIB,
        disk=None if disk is None else _size(disk),
    )


def _size(text: object) -> int:
    if isinstance(text, str):
        number, unit = text.rstrip("KMGT"), text[len(text.rstrip("KMGT")) :]
        if number.isdecimal() and unit in _UNITS:
            return int(number) * _UNITS[unit]
    raise ConfigError(f'vm_defaults.disk_size = {text!r} is no size; write it like "16G"')


def _known(table: dict[str, Any], known: list[str], prefix: str) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {prefix}{near[0]}?" if near else f"known are {', '.join(sorted(known))}"
            raise ConfigError(f"unknown key {prefix}{key}; {hint}")
