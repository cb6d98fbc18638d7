"""`banger vm …`: make, change, list and show VMs."""

import time
from collections.abc import Mapping
from typing import Annotated, Any

from cyclopts import Parameter

from banger import render, units
from banger.cli.defaults import FILE_SYNC, pending
from banger.cli.each import each
from banger.cli.keys import with_keys
from banger.cli.options import DEFAULTS, PEOPLE, MoreVMs, Output, Spec, VMName
from banger.cli.prepare import prepare
from banger.service import Record, Service

_DONE = {
    "start": "runs",
    "stop": "is stopped",
    "restart": "runs again",
    "kill": "is ended",
    "pause": "is paused",
    "resume": "goes on",
    "delete": "is deleted",
}

# How `show` groups what Describe tells. What a newer service tells beyond goes under "more".
_GROUPS = {
    "VM": (
        "name",
        "state",
        "desired",
        "error",
        "end_reason",
        "id",
        "owner_name",
        "ephemeral",
        "created_at",
        "labels",
    ),
    "spec": ("image", "kernel", "vcpu", "memory", "disk", "caches", "nat"),
    "guest": ("file_sync", "address", "sessions", "memory_total", "memory_available", "listening"),
    "ssh": ("host_keys", "ssh_keys"),
    "runs on": ("vmm", "accelerator", "vmm_reason", "timings_ms"),
}
_BYTES = {"memory", "disk", "memory_total", "memory_available"}
_UNSHOWN = {"path", "short_id", "owner", "capabilities"}


def create(*, spec: Spec = DEFAULTS, output: Output = PEOPLE) -> None:
    """Make a VM without starting it, and print its name. Gets the image first if it is not here."""
    wanted = spec.wanted()
    service = Service()
    prepare(service, wanted, output)
    wanted = with_keys(wanted, output)
    vm = service.create_vm(wanted, output.progress(wanted.name or "VM"), start=False)
    if output.json:
        render.as_json(service.describe_vm(vm))
    else:
        print(render.safe(service.vm_name(vm)))


def start(name: VMName, /, *more: MoreVMs, output: Output = PEOPLE) -> int:
    """Start VMs, and wait until their guests answer."""
    return _each("start", (name, *more), output)


def stop(name: VMName, /, *more: MoreVMs, output: Output = PEOPLE) -> int:
    """Have VMs power off. A guest that does not do so in time is ended."""
    return _each("stop", (name, *more), output)


def restart(name: VMName, /, *more: MoreVMs, output: Output = PEOPLE) -> int:
    """Stop VMs and start them again."""
    return _each("restart", (name, *more), output)


def kill(name: VMName, /, *more: MoreVMs, output: Output = PEOPLE) -> int:
    """End VMs at once, as by pulling the plug: what the guest has not written to its disk is lost."""
    return _each("kill", (name, *more), output)


def pause(name: VMName, /, *more: MoreVMs, output: Output = PEOPLE) -> int:
    """Freeze VMs where they are; `resume` lets them go on."""
    return _each("pause", (name, *more), output)


def resume(name: VMName, /, *more: MoreVMs, output: Output = PEOPLE) -> int:
    """Let paused VMs go on."""
    return _each("resume", (name, *more), output)


def delete(name: VMName, /, *more: MoreVMs, output: Output = PEOPLE) -> int:
    """Remove VMs with their disks, also those that run. There is no way back."""
    return _each("delete", (name, *more), output)


def list_(
    *,
    everyone: Annotated[
        bool, Parameter(name=["--all", "-a"], negative=(), help="Other users' too.")
    ] = False,
    output: Output = PEOPLE,
) -> None:
    """List your VMs; of other users' what everybody may see."""
    vms = Service().list_vms(everyone=everyone)
    if output.json:
        render.as_json(vms)
        return
    if not vms:
        if not output.quiet:
            render.note("no VMs; `banger vm run` makes one")
        return
    now = time.time()
    render.table(
        ("NAME", "STATE", "OWNER", "IMAGE", "VCPU", "MEMORY", "ADDRESS", "AGE"),
        [_row(vm, now) for vm in vms],
    )


def show(name: VMName, /, *, output: Output = PEOPLE) -> None:
    """Show all about one VM."""
    from banger.cli import tools  # no other command here needs it

    units.check_name(name)
    service = Service()
    path = service.find_vm(name)
    vm = service.describe_vm(path)
    bootstraps = tools.status(service, path, vm)
    if output.json:
        render.as_json(vm | ({"tooling": tools.records(bootstraps)} if bootstraps else {}))
        return
    if pending(vm):
        vm["file_sync"] = "pending"
        vm["labels"] = {key: value for key, value in vm["labels"].items() if key != FILE_SYNC}
    placed = {key for keys in _GROUPS.values() for key in keys} | _UNSHOWN
    placed |= {f"{key}_name" for key in placed}  # shown with the key
    groups = {**_GROUPS, "more": tuple(sorted(key for key in vm if key not in placed))}
    render.sections(
        {
            title: {_label(key): _value(key, vm) for key in keys if _told(vm, key)}
            for title, keys in groups.items()
        }
        | {"tooling": tools.lines(bootstraps, name)}
    )


def _each(verb: str, names: tuple[str, ...], output: Output) -> int:
    for name in names:
        units.check_name(name)
    service = Service()

    def act(name: str) -> None:
        path = service.find_vm(name)
        service.change_vm(verb, name, output.progress(name), path=path)
        if verb in ("start", "restart"):
            from banger.cli.arrival import arrive

            arrive(service, path, name, output)

    return each(names, verb, act, lambda name: f"{name} {_DONE[verb]}", output)


def _row(vm: Record, now: float) -> tuple[str, ...]:
    return (
        str(vm["name"]),
        str(vm["state"]),
        str(vm.get("owner_name") or vm.get("owner", "-")),
        str(vm.get("image_name") or vm.get("image", "-")),
        str(vm.get("vcpu", "-")),
        units.size(vm["memory"]) if "memory" in vm else "-",
        str(vm.get("address") or "-"),
        units.age(now - vm["created_at"]) if "created_at" in vm else "-",
    )


def _told(vm: Record, key: str) -> bool:
    return vm.get(key) not in (None, "", [], {})


def _label(key: str) -> str:
    return key.removesuffix("_ms").replace("_name", "").replace("_", " ")


def _value(key: str, vm: Record) -> str:
    value: Any = vm[key]
    if key in _BYTES:
        return units.size(value)
    if key in ("image", "kernel") and vm.get(f"{key}_name"):
        return f"{vm[f'{key}_name']} ({value})"
    if key == "owner_name":
        return f"{value} (uid {vm['owner']})" if "owner" in vm else str(value)
    if key == "created_at":
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
        return f"{when}, {units.age(time.time() - value)} ago"
    if key == "timings_ms":
        return ", ".join(f"{name} {units.duration(ms / 1000)}" for name, ms in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={text}" for name, text in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
