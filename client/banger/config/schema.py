"""The keys of the user's config: what is checked, the JSON Schema and the documentation are made from this."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType


def _text(pattern: str, must: str, description: str, *examples: str) -> Meta:
    return Meta(pattern=pattern, description=description, examples=list(examples), extra={"must": must})


def _number(most: int, must: str, description: str, *examples: int) -> Meta:
    return Meta(ge=1, le=most, description=description, examples=list(examples), extra={"must": must})


def _switch(description: str) -> Meta:
    return Meta(description=description, extra={"must": "true or false"})


_NAME = r"^[^\s\x00-\x1f\x7f]{1,255}$"
_HOST_PATH = r"^(/|~/)[^\x00]+$"
_HOST_PATH_MUST = (
    "an absolute path, or one that begins with ~/: a relative one would mean another file in each folder"
)
_GUEST_PATH = r"^(~|/root)(/+(?!\.{1,2}(/|$))[^/\x00-\x1f\x7f]{1,255})+/*$"


class Table(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A table whose keys are all known."""


class VMDefaults(Table):
    """Sizes of new VMs where no flag says them; what is left out, the service decides."""

    vcpu: (
        Annotated[int, _number(1024, "a whole number, 1 or more", "Virtual CPUs of a new VM.", 4)]
        | UnsetType
    ) = UNSET
    memory_mib: (
        Annotated[
            int, _number(2**40, "a whole number of MiB, such as 4096", "Memory of a new VM in MiB.", 4096)
        ]
        | UnsetType
    ) = UNSET
    disk_size: (
        Annotated[
            str,
            _text(
                r"^[0-9]{1,12}(\.[0-9]{1,6})? ?([KMGTkmgt]([Ii]?[Bb])?)$",
                'a size with a unit, as a string: "16G"',
                "Size of a new VM's disk. It takes room on the host only as it fills.",
                "16G",
            ),
        ]
        | UnsetType
    ) = UNSET


class Forward(Table):
    """What of your surroundings a command in a guest is given."""

    proxy: (
        Annotated[bool, _switch("The variables of your proxy: http_proxy, no_proxy and so on.")] | UnsetType
    ) = UNSET
    ca: Annotated[bool, _switch("The CA certificates of your own that programs here trust.")] | UnsetType = (
        UNSET
    )
    term: Annotated[bool, _switch("Your terminal's kind: TERM, COLORTERM.")] | UnsetType = UNSET
    timezone: Annotated[bool, _switch("Your time zone, as TZ.")] | UnsetType = UNSET
    git: Annotated[bool, _switch("Your name and address as git knows them.")] | UnsetType = UNSET


class FileSync(Table):
    """A file or folder of yours that new VMs get when they are first up."""

    host: Annotated[
        str,
        _text(
            _HOST_PATH,
            _HOST_PATH_MUST,
            "The file or folder here; a folder with all that is in it.",
            "~/.aws",
        ),
    ]
    guest: Annotated[
        str,
        _text(
            _GUEST_PATH,
            "a path below ~/ or /root/, without . and ..",
            "Where it goes in the guest, below ~/ (which is /root/ there).",
            "~/.aws",
        ),
    ]
    mode: (
        Annotated[
            str,
            _text(
                "^0?[0-7]{3}$",
                'three octal digits as a string: "0755"',
                "Mode of the file, or of each file in the folder; 0600 if it is left out.",
                "0755",
            ),
        ]
        | UnsetType
    ) = UNSET


class Config(Table):
    """The user's config. All keys are optional."""

    default_image_name: (
        Annotated[
            str,
            _text(
                _NAME,
                "the name of an image",
                "Image of a new VM where --image is left out.",
                "debian-bookworm",
            ),
        ]
        | UnsetType
    ) = UNSET
    default_kernel_name: (
        Annotated[
            str,
            _text(
                _NAME,
                "the name of a kernel",
                "Kernel of a new VM where --kernel is left out.",
                "debian-bookworm",
            ),
        ]
        | UnsetType
    ) = UNSET
    ssh_key_path: (
        Annotated[
            str,
            _text(
                _HOST_PATH,
                _HOST_PATH_MUST,
                "Your private ssh key for guests. Left out, banger makes ~/.local/state/banger/ssh/id_ed25519.",
                "~/.ssh/id_ed25519",
            ),
        ]
        | UnsetType
    ) = UNSET
    nat: (
        Annotated[bool, _switch("Whether a new VM reaches the network through this machine.")] | UnsetType
    ) = UNSET
    tooling: (
        Annotated[
            bool,
            _switch(
                "Whether tools that a repository names (mise.toml, .tool-versions) are installed in its VM."
            ),
        ]
        | UnsetType
    ) = UNSET
    vm_defaults: (
        Annotated[VMDefaults, Meta(description="Sizes of new VMs where no flag says them.")] | UnsetType
    ) = UNSET
    forward: (
        Annotated[Forward, Meta(description="What of your surroundings a command in a guest is given.")]
        | UnsetType
    ) = UNSET
    file_sync: (
        Annotated[
            tuple[FileSync, ...],
            Meta(description="Files and folders of yours that new VMs get when they are first up."),
        ]
        | UnsetType
    ) = UNSET


_ADMIN = "it is the machine's: its admin sets it in /etc/banger/banger.toml"
_NO_CHOICE = "a user does not choose what the root service runs; the admin does, in /etc/banger/banger.toml"
_BRIDGE = "it is the machine's: its admin sets `subnet` in /etc/banger/banger.toml"

# Keys of the admin's file, and of other versions of this one.
REFUSED = {
    "firecracker_bin": _NO_CHOICE,
    "firecracker_pci": _NO_CHOICE,
    "qemu_bin": _NO_CHOICE,
    "vmm": _NO_CHOICE,
    "mirror": _NO_CHOICE,
    "npm_mirror": _NO_CHOICE,
    "mise": "whether images get mise is the admin's to say; `tooling = false` here leaves it unused",
    "subnet": _ADMIN,
    "uid_first": _ADMIN,
    "uid_count": _ADMIN,
    "max_vms_per_user": _ADMIN,
    "max_caches_per_user": _ADMIN,
    "cache_size": _ADMIN,
    "max_images_per_user": _ADMIN,
    "image_room_per_user": _ADMIN,
    "insecure_registries": _ADMIN,
    "boot_timeout_s": _ADMIN,
    "stop_timeout_s": _ADMIN,
    "allow_shared_host": _ADMIN,
    "vm_limits": _ADMIN,
    "bridge_ip": _BRIDGE,
    "bridge_name": _BRIDGE,
    "cidr": _BRIDGE,
}


def json_schema() -> dict[str, Any]:
    """The JSON Schema of the file, for editors."""
    schema = msgspec.json.schema(Config)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "banger's config.toml of a user",
    } | schema
