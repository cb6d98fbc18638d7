"""A machine on which root typed `make install`, and the people who use it."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.guest.machine import build_library
from tests.system.built import LATER, MAKE_LATER, OFFLINE, SOURCE
from tests.system.debian_root import CACHE, SUITES, wheelhouse
from tests.system.here import LAB, Here
from tests.system.machine import Machine

CONFIG = "/etc/banger/banger.toml"
# BANGER_SUITES="bookworm trixie" runs every test of this folder on both.
CHOSEN = os.environ.get("BANGER_SUITES", SUITES[0]).split()
VMMS = ("firecracker", "qemu") if os.environ.get("FIRECRACKER_BIN") else ("qemu", "firecracker")
# What `installed` is made with: in the lab the VMM that banger itself would choose.
ONCE = [VMMS[0]] if LAB else CHOSEN
# For tests in which the VMM is what matters: in the lab once with each.
with_each_vmm = pytest.mark.parametrize("installed", VMMS if LAB else CHOSEN, indirect=True, scope="session")
SMALL = ("--vcpu", "1", "--memory", "384M")


@contextmanager
def installed_machine(suite: str) -> Iterator[Machine]:
    """A booted machine with banger, the default image and the default kernel."""
    library = build_library(CACHE.parent)
    overlays = {library / kind: f"/var/lib/banger/{kind}" for kind in ("images", "kernels")}
    with Machine.boot(suite, binds={wheelhouse(suite): "/wheels"}, overlays=overlays) as booted:
        booted.copy_repo(SOURCE)
        make(booted, "install")
        yield booted


@contextmanager
def installed_here() -> Iterator[Machine]:
    """The same with the machine that the tests run on; it stays installed."""
    with Here.take() as here:
        here.furnish()
        make(here, "install")
        yield here


def drive(machine: Machine, vmm: str) -> None:
    """Have new VMs be driven by this VMM. Skips where it is Firecracker, and FIRECRACKER_BIN names none."""
    lines = [f'vmm = "{vmm}"']
    if vmm == "firecracker":
        binary = os.environ.get("FIRECRACKER_BIN", "")
        if not binary:
            pytest.skip("needs Firecracker: FIRECRACKER_BIN names no binary")
        lines.append(f'firecracker_bin = "{binary}"')
    configure(machine, *lines)


def configure(machine: Machine, *lines: str) -> None:
    """The admin writes these lines to the config, and restarts the service."""
    machine.run("mkdir", "-p", CONFIG.rpartition("/")[0])
    (machine.root / CONFIG.lstrip("/")).write_text("".join(f"{line}\n" for line in lines))
    machine.run("systemctl", "restart", "banger.service")


def banger(machine: Machine, *words: str, user: str = "alice", check: bool = True) -> tuple[int, str, str]:
    """Status, output and errors of a banger command that a user types at the machine."""
    done = machine.run("banger", *words, user=user, session="active", check=check, timeout=240)
    return done.returncode, done.stdout, done.stderr


def running(machine: Machine, name: str, *words: str, user: str = "alice") -> None:
    """The user has a VM of this name, of a small size unless `words` say another."""
    banger(machine, "vm", "create", "--name", name, *(words or SMALL), user=user)
    banger(machine, "vm", "start", name, user=user)


def show(machine: Machine, unit: str, *names: str) -> dict[str, str]:
    """Properties of a unit, as systemctl says them."""
    said = machine.run("systemctl", "show", unit, "-p", ",".join(names)).stdout
    return dict(line.split("=", 1) for line in said.splitlines())


def make(machine: Machine, target: str, checkout: str = SOURCE) -> str:
    """What `make TARGET`, typed by root in the checkout, says."""
    done = machine.run("make", target, cwd=checkout, env=OFFLINE, timeout=300)
    return done.stdout + done.stderr


def make_later(machine: Machine) -> str:
    """What `make install` says in a checkout of a later version."""
    machine.sh(f"test -d {LATER} || {{ {MAKE_LATER} }}")
    return make(machine, "install", LATER)


def vms_of(machine: Machine, user: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(
        machine.run("banger", "vm", "list", "--json", user=user, session="active").stdout
    )
    return found


def delete_all(machine: Machine) -> None:
    """People delete their VMs. AssertionError if there is a trace of any then."""
    for user in ("alice", "bob"):
        names = [vm["name"] for vm in vms_of(machine, user)]
        if names:
            banger(machine, "vm", "delete", *names, user=user)
    assert traces(machine) == []


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
        "ps -eo comm= | grep -E 'banger-shim|qemu-system|firecracker' || true;"
        "ip -o link show | grep -oE ' (bgr-[0-9a-f]+|bgr_[0-9a-f]+|banger0)[:@]' || true;"
        "nft list tables | grep banger || true;"
        "ls -A /run/banger/vm /var/lib/banger/vm 2>/dev/null | grep -v : || true"
    )
    return re.findall(r"\S.*", said)
