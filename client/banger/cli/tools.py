"""Tools that mise installs in a guest: whether they are wanted, and what `banger vm show` tells of them."""

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from banger import context, render, tooling, units
from banger.cli.options import Output
from banger.config import settings
from banger.service import Record, Service
from banger.tooling import Bootstrap

if TYPE_CHECKING:
    from banger.workspace.plan import Plan

_LONGEST = 40  # characters of a repository's name


def bootstrap(
    service: Service,
    vm: str,
    found: "Plan",
    *,
    wish: bool | None,
    output: Output,
    env: Sequence[str] | None = None,
) -> None:
    """Start it for the workspace `found`, which is in the guest of the VM at path `vm`, unless it is not wanted.

    `wish` is the flag's; `env` what of our surroundings reached the guest, NAME=value, None if nothing was brought.
    """
    asked = settings().tooling if wish is None else wish
    if not asked or not tooling.wanted(entry.path for entry in found.files):
        return
    if env is None:
        here = context.gather(settings().forward, tty=False, folder=str(found.top))
        env = context.bring(lambda: service.open_session(vm), here)
    said = tooling.start(service, vm, found.workdir, found.name, env)
    if said and not (output.quiet or output.json):
        render.note(said)


def status(service: Service, path: str, vm: Record) -> tuple[Bootstrap, ...]:
    """Of a VM of ours that runs; another's is not asked, which could ask for a password."""
    if vm.get("state") != "running" or vm.get("owner") != os.getuid():
        return ()
    return tooling.status(service, path)


def records(bootstraps: tuple[Bootstrap, ...]) -> list[Record]:
    """For `--json`: `status` is null while it runs, and of one that was ended; times that are not known are 0."""
    return [asdict(one) | {"log": one.log} for one in bootstraps]


def lines(bootstraps: tuple[Bootstrap, ...], vm: str) -> dict[str, str]:
    """One line for people each, by repository."""
    return {render.safe(one.repo)[:_LONGEST]: _line(one, vm) for one in bootstraps}


def _line(one: Bootstrap, vm: str) -> str:
    took = units.duration(max(0, one.ended - one.began))
    why = f"`banger vm exec {vm} -- cat {shlex.quote(one.log)}` shows why"
    if one.state == "running":
        return f"running since {time.strftime('%H:%M:%S', time.localtime(one.began))}, log {one.log}"
    if one.state == "done":
        return f"done in {took}, {units.age(time.time() - one.ended)} ago"
    if one.state == "skipped":
        return "not installed, the image has no mise"
    if one.status is None:
        return f"failed: something ended it, such as a reboot; log {one.log}"
    return f"failed with status {one.status} after {took}; {why}"
