"""What a VM is: the spec that was asked for, the intent that is stored, the facts that are observed."""

import re
import signal
from dataclasses import dataclass, field
from enum import StrEnum

from bangerd.model.errors import InvalidSpec

MIB = 1024 * 1024
GIB = 1024 * MIB

# RFC 1123 section 2.1: letters, digits and hyphens, no hyphen at either end, at most 63 octets.
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


class Desired(StrEnum):
    """What the owner wants. The only run state that is stored."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    ABSENT = "absent"


class Unit(StrEnum):
    """What the supervisor says of the VM's unit."""

    ABSENT = "absent"
    ACTIVATING = "activating"
    ACTIVE = "active"
    DEACTIVATING = "deactivating"
    FAILED = "failed"


class VMState(StrEnum):
    """What people are shown; derived, never stored."""

    CREATED = "created"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"
    DELETING = "deleting"


class ExitReason(StrEnum):
    """Why a VMM ended, as the shim's exit record says."""

    POWEROFF = "poweroff"  # the guest powered itself off, or rebooted without the shim starting it again
    STOP = "stop"  # bangerd asked the guest to power off
    KILL = "kill"  # bangerd had it killed
    LIFELINE = "lifeline"  # the descriptor of `vm run --rm` was closed
    PANIC = "panic"  # the guest's kernel said that it panicked
    VMM_FAILED = "vmm-failed"  # the VMM exited by itself with an error, or could not be started
    LOST = "lost"  # no record: the unit was killed from outside


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """The last run's end. `status` is the VMM's exit status, or 128+n after signal n; `at` is unix time."""

    reason: ExitReason
    status: int = 0
    signal: int = 0  # what ended the VMM; 0: it exited by itself
    ready: bool = False  # the guest program had answered before
    memory_killed: bool = False  # the supervisor says that the kernel ended it for want of memory
    at: int = 0

    @property
    def killed(self) -> bool:
        """By SIGKILL, which is the kernel's way when there is no memory; or, who knows."""
        return self.reason is ExitReason.LOST or (
            self.reason is ExitReason.VMM_FAILED and self.signal == signal.SIGKILL
        )


@dataclass(frozen=True, slots=True)
class VMSpec:
    """What was asked for. Sizes in bytes."""

    image: str
    kernel: str
    vcpu: int
    memory: int
    disk: int
    nat: bool = True
    ssh_keys: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    entrypoint: bool = True  # whether the image's command is run when it boots
    caches: dict[str, str] = field(default_factory=dict)  # path in the guest -> name of the owner's cache


@dataclass(frozen=True, slots=True)
class VM:
    """A stored VM. Everything that exists on the host for it is named after `sid`."""

    id: str  # UUID
    sid: str  # first 8 hex digits of the id, unique in the database
    name: str
    owner_uid: int
    owner_name: str
    spec: VMSpec
    desired: Desired
    uid: int  # leased: the VMM's uid and gid
    address: str = ""  # leased IPv4 address without prefix, "" until the first start
    ephemeral: bool = False  # deleted when its run ends
    started_boot: str = ""  # host boot id of the last start, "" if never started
    last_error: str = ""
    created_at: int = 0  # unix time
    host_key: str = field(default="", repr=False)  # ssh's private key file: for the guest alone
    host_public: str = (
        ""  # its line "ssh-ed25519 AAAA…"; "" in a VM of banger 0.1 that was not started since
    )

    @property
    def unit(self) -> str:
        return f"banger-vm-{self.sid}.service"

    @property
    def tap(self) -> str:
        return f"bgr-{self.sid}"

    @property
    def wanted_up(self) -> bool:
        return self.desired in (Desired.RUNNING, Desired.PAUSED)

    @property
    def mac(self) -> str:
        """Locally administered unicast address, derived from the short id."""
        pairs = (self.sid[i : i + 2] for i in range(0, 8, 2))
        return "02:42:" + ":".join(pairs)


@dataclass(frozen=True, slots=True)
class Observed:
    """What the host shows of one VM, read fresh each time."""

    unit: Unit = Unit.ABSENT
    disk: bool = False  # the VM's own disk exists, whole
    tap: bool = False
    run_dir: bool = False  # the runtime folder exists
    fresh: bool = False  # ... and is ready for a start: seed written, nothing of an earlier run in it
    ready: bool = False  # the guest program answers
    paused: bool = False
    caches_lent: bool = False  # a cache disk is the VM's uid's
    caches_missing: bool = False  # one that it wants is not
    exit: ExitRecord | None = None  # of the last run, when the unit is gone


def check_name(name: str) -> str:
    """Return `name` if it is a lower-case DNS label; raise InvalidSpec that says what is wrong otherwise."""
    if _LABEL.fullmatch(name):
        return name
    shown = ascii(name[:80])
    raise InvalidSpec(
        f"{shown} is no valid VM name; use 1 to 63 of a-z, 0-9 and '-', with no '-' at the start or the end"
    )
