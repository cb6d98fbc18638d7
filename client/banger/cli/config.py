"""`banger config …`: the user's config, as it is, as it could be, and changing it."""

from pathlib import Path
from typing import Any

from banger import render, units
from banger.cli.defaults import origin
from banger.cli.options import PEOPLE, Output
from banger.config import place
from banger.config.keys import Setting, listed
from banger.errors import Failure
from banger.service import Record, Service, Wanted
from banger.ssh import place as ssh

# Keys whose values, when the config leaves them open, are the service's to say: its names for them.
_OF_SERVICE = {
    "default_image_name": "image",
    "default_kernel_name": "kernel",
    "nat": "nat",
    "vm_defaults.vcpu": "vcpu",
    "vm_defaults.memory_mib": "memory",
    "vm_defaults.disk_size": "disk",
}
_MIB = 1024**2


def show(*, output: Output = PEOPLE) -> None:
    """Show every key with its value and where that comes from."""
    settings = listed(place.read())
    resolved = _resolved()
    records = [_record(setting, resolved) for setting in settings]
    if output.json:
        render.as_json(records)
        return
    rows = [(record["key"], _shown(record), _origin(record)) for record in records]
    render.table(("KEY", "VALUE", "FROM"), rows)
    if not output.quiet and place.read() is None:
        render.note(f"{place.shown(place.path())} is not there; `banger config edit` makes it")


def path() -> None:
    """Print where your config is, or would be."""
    print(render.safe(place.path()))


def schema() -> None:
    """Print the JSON Schema of your config, which editors check and complete by."""
    from banger.config.schema import json_schema

    render.as_json(json_schema())


def edit(*, output: Output = PEOPLE) -> None:
    """Open your config in your editor, and take what you save if it is right."""
    from banger.config.editing import edit as edited

    changed = edited()
    if output.json:
        render.as_json({"file": str(place.path()), "changed": changed})
    elif not output.quiet:
        render.note(f"{place.shown(place.path())} is {'saved' if changed else 'as it was'}")


def _resolved() -> Record:
    """What the service would give a VM of which nothing is said; empty when it does not answer."""
    try:
        return Service().resolve_spec(Wanted())
    except Failure:
        return {}


def _record(setting: Setting, resolved: Record) -> dict[str, Any]:
    name = _OF_SERVICE.get(setting.key)
    by = "service" if name else "built-in"
    record: dict[str, Any] = {"key": setting.key, "value": setting.value, "origin": by}
    if setting.line:
        return record | {"origin": "config", "file": str(place.path()), "line": setting.line}
    if setting.key == "ssh_key_path":
        return record | {"value": str(ssh.state_folder() / "id_ed25519")}
    if name and name in resolved:
        value = resolved[name]
        by = "built-in" if name == "nat" else origin(name, resolved, Wanted())
        return record | {"value": value // _MIB if name == "memory" else value, "origin": by}
    return record


def _origin(record: dict[str, Any]) -> str:
    return f"{place.shown(place.path())}:{record['line']}" if "line" in record else str(record["origin"])


def _shown(record: dict[str, Any]) -> str:
    value = record["value"]
    if value is None:
        return "-"
    if record["key"] == "vm_defaults.disk_size":
        return units.size(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if record["key"] == "ssh_key_path":
        return place.shown(Path(value))
    return str(value)
