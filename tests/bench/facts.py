"""What machine the figures are of."""

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

TOP = Path(__file__).parents[2]


def facts(accelerator: str) -> list[tuple[str, str]]:
    """Name and value of everything that a figure depends on."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return [
        ("CPU", f"{len(os.sched_getaffinity(0))} x {models[0] if models else platform.machine()}"),
        ("memory", f"{memory:.1f} GiB"),
        ("kernel", platform.release()),
        ("system", _first(["sh", "-c", '. /etc/os-release; echo "$PRETTY_NAME"'])),
        ("accelerator", accelerator),
        ("QEMU", _first(["qemu-system-x86_64", "--version"])),
        ("Python", platform.python_version()),
        ("dbus-daemon", _first(["dbus-daemon", "--version"])),
        ("polkit", _first(["pkaction", "--version"])),
        ("commit", _first(["git", "-c", f"safe.directory={TOP}", "-C", str(TOP), "describe", "--always", "--dirty"])),
        ("load", load()),
    ]  # fmt: skip


def load() -> str:
    """Over the last minute: figures of a busy machine are good for ratios only."""
    return f"{os.getloadavg()[0]:.2f}"


def _first(argv: Sequence[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "not installed"
    return (done.stdout.splitlines() or ["unknown"])[0]
