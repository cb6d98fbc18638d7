"""What Firecracker is told of a VM: its configuration file, and what each of its versions knows. Pure.

Keys and shapes are those of Firecracker's src/firecracker/swagger/firecracker.yaml; a release refuses keys that only
later ones have.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bangerd.core.vmm import Disk, Launch, Rates
from bangerd.model.errors import HostNotReady
from bangerd.model.vm import MIB

OLDEST = (1, 12)
VSOCK, API, CONFIG, METRICS = "vsock.sock", "api.sock", "firecracker.json", "metrics.fifo"
GUEST_CID = 3  # the first that is free for guests; each VMM has its own socket, so all can have the same
# Of a keyboard controller there is what Ctrl-Alt-Del takes, and the reset line (reboot=k), which is how a guest's
# reboot ends the VMM; the rest is not looked for. Its interrupt, not a PC's, only ACPI tells: no i8042.nopnp.
CMDLINE = "reboot=k i8042.noaux i8042.nomux i8042.dumbkbd"


@dataclass(frozen=True, slots=True)
class Features:
    """What a release can do beyond the oldest that is driven."""

    pci: bool  # devices on a PCI bus (--enable-pci) instead of memory-mapped ones
    free_page_reporting: bool  # the balloon gives back what the guest has free, without being asked
    bzimage: bool  # boots what distributions package; the guest then unpacks it at each boot
    # A guest that was paused hears its host again: not in 1.16.0 and 1.16.1 (Firecracker's pull requests 6100, 6182).
    resumes: bool


def parse_version(said: str) -> tuple[int, int, int]:
    """Out of what `firecracker --version` prints. Raises HostNotReady."""
    found = re.match(r"Firecracker v(\d{1,4})\.(\d{1,4})\.(\d{1,4})", said)
    if not found:
        raise HostNotReady(
            f"{said[:60]!a} is not how Firecracker tells its version; check firecracker_bin in"
            " /etc/banger/banger.toml"
        )
    return int(found[1]), int(found[2]), int(found[3])


def features(version: tuple[int, int, int]) -> Features:
    """Raises HostNotReady for a release that is too old."""
    minor = version[:2]
    if minor < OLDEST:
        shown = ".".join(map(str, version))
        raise HostNotReady(
            f"Firecracker {shown} is too old: its kernels need tables that banger's guests do not have, and its"
            f" fixes have ended; install {OLDEST[0]}.{OLDEST[1]} or later"
        )
    return Features(
        pci=minor >= (1, 13),
        free_page_reporting=minor >= (1, 14),
        bzimage=minor >= (1, 17),
        resumes=minor != (1, 16) or version >= (1, 16, 2),
    )


def configuration(launch: Launch, kernel: Path, known: Features, rates: Rates) -> dict[str, Any]:
    """The file for --config-file. Paths are absolute, or names in the run folder."""
    vm = launch.vm
    # Without statistics: they wake an idle guest, whose agent tells of its memory anyway.
    balloon: dict[str, Any] = {"amount_mib": 0, "deflate_on_oom": True}
    if known.free_page_reporting:
        balloon["free_page_reporting"] = True
    interface: dict[str, Any] = {"iface_id": "eth0", "guest_mac": vm.mac, "host_dev_name": vm.tap}
    if rates.network:
        interface |= {f"{way}_rate_limiter": limiter(rates.network) for way in ("rx", "tx")}
    return {
        "boot-source": {
            "kernel_image_path": str(kernel),
            "initrd_path": str(launch.initrd),
            "boot_args": f"{launch.cmdline} {CMDLINE}",
        },
        "drives": [_drive(disk, rates.disk) for disk in launch.disks],
        "machine-config": {"vcpu_count": vm.spec.vcpu, "mem_size_mib": vm.spec.memory // MIB},
        "network-interfaces": [interface],
        "vsock": {"guest_cid": GUEST_CID, "uds_path": VSOCK},
        "entropy": {},
        "balloon": balloon,
        # A pipe: it writes 15 KB each minute, whether anybody reads or not, and a file would grow for ever.
        "metrics": {"metrics_path": METRICS},
        # Its standard output is the guest's console alone. That the pipe is full, it would tell each minute, from
        # outside this module; what it says of a start and of requests from there is on stderr and in answers, too.
        "logger": {"level": "Warning", "log_path": "/proc/self/fd/2", "show_level": True, "module": "vmm"},
    }


def limiter(rate: int) -> dict[str, Any]:
    """A token bucket of `rate` bytes per second that may be used up at once; 0: none, of a VM that had one, too."""
    return {"bandwidth": {"size": rate, "refill_time": 1000 if rate else 0}}


def drive_id(role: str) -> str:
    """What Firecracker calls the disk with this role."""
    return re.sub(r"\W", "_", role)


def _drive(disk: Disk, rate: int) -> dict[str, Any]:
    drive: dict[str, Any] = {
        "drive_id": drive_id(disk.role),
        "path_on_host": str(disk.path),
        "is_root_device": False,
        "is_read_only": disk.read_only,
        # A guest's flush reaches the host's disk, as on a real machine.
        "cache_type": "Unsafe" if disk.read_only else "Writeback",
    }
    if rate:
        drive["rate_limiter"] = limiter(rate)
    return drive
