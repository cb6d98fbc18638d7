"""What the user's config says, with the built-in values of what it does not."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class VMDefaults:
    """Sizes of new VMs; None leaves it to the service. `disk_size` in bytes."""

    vcpu: int | None = None
    memory_mib: int | None = None
    disk_size: int | None = None


@dataclass(frozen=True, slots=True)
class Forward:
    """What of the user's surroundings a command in a guest is given."""

    proxy: bool = True
    ca: bool = True
    term: bool = True
    timezone: bool = True
    git: bool = True


@dataclass(frozen=True, slots=True)
class FileSync:
    """A file or folder that new VMs get. `guest` is below /root; `mode` None: 0600 for each file."""

    host: Path
    guest: str
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """Every key of the file. None leaves it to the service, or for `ssh_key_path` to a key that banger makes."""

    default_image_name: str | None = None
    default_kernel_name: str | None = None
    ssh_key_path: Path | None = None
    nat: bool | None = None
    tooling: bool = True
    vm_defaults: VMDefaults = field(default_factory=VMDefaults)
    forward: Forward = field(default_factory=Forward)
    file_sync: tuple[FileSync, ...] = ()
