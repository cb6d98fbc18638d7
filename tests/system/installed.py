"""A machine on which root typed `make install`, and the people who use it."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.guest.machine import build_library
from tests.system.debian_root import CACHE, wheelhouse
from tests.system.machine import Machine

SOURCE = "/usr/src/banger"
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/wheels"}


@contextmanager
def installed_machine(suite: str) -> Iterator[Machine]:
    """A booted machine with banger, the default image and the default kernel."""
    library = build_library(CACHE.parent)
    overlays = {library / kind: f"/var/lib/banger/{kind}" for kind in ("images", "kernels")}
    with Machine.boot(suite, binds={wheelhouse(suite): "/wheels"}, overlays=overlays) as booted:
        booted.copy_repo(SOURCE)
        make(booted, "install")
        yield booted


def make(machine: Machine, target: str) -> str:
    """What `make TARGET`, typed by root in the checkout, says."""
    done = machine.run("make", target, cwd=SOURCE, env=OFFLINE, timeout=300)
    return done.stdout + done.stderr


def vms_of(machine: Machine, user: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        machine.run("banger", "vm", "list", "--json", user=user, session="active").stdout
    )
    return found


def unit_of(machine: Machine, name: str) -> str:
    """The unit of the VM with this name, while it runs."""
    lines = machine.run(
        "systemctl", "list-units", "--plain", "--no-legend", "banger-vm-*"
    ).stdout.splitlines()
    (unit,) = [line.split()[0] for line in lines if f" VM {name} of " in line]
    return unit


def traces(machine: Machine) -> list[str]:
    """What is there of VMs: units, processes, interfaces, rules, files."""
    said = machine.sh(
        "systemctl list-units --all --plain --no-legend 'banger-vm-*' | cut -d' ' -f1;"
        "ps -eo comm= | grep -E 'banger-shim|qemu-system' || true;"
        "ip -o link show | grep -oE ' (bgr-[0-9a-f]+|bgr_[0-9a-f]+|banger0)[:@]' || true;"
        "nft list tables | grep banger || true;"
        "ls -A /run/banger/vm /var/lib/banger/vm 2>/dev/null | grep -v : || true"
    )
    return re.findall(r"\S.*", said)
