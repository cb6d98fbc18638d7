"""The config key by key: what is set and where."""

import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from banger.config import Settings, parse
from banger.config.tomlfile import Path as KeyPath
from banger.config.tomlfile import has, locate


@dataclass(frozen=True, slots=True)
class Setting:
    """A key ("vm_defaults.vcpu", "file_sync[0].host"), its value, and its line in the file; 0: it is not there."""

    key: str
    value: str | int | bool | None
    line: int = 0


def listed(text: str | None) -> list[Setting]:
    """Every key in the schema's order, and each entry of file_sync. Raises Failure for a config that is wrong."""
    text = text or ""
    data = tomllib.loads(text)
    values = asdict(parse(text) if text else Settings())
    syncs = values.pop("file_sync")
    found: list[Setting] = []

    def add(path: KeyPath, value: Any) -> None:
        line = locate(text, path)[0] if has(data, path) else 0
        found.append(Setting(_name(path), str(value) if isinstance(value, Path) else value, line))

    for key, value in values.items():
        if isinstance(value, dict):
            for inner, inner_value in value.items():
                add((key, inner), inner_value)
        else:
            add((key,), value)
    if not syncs:
        add(("file_sync",), None)
    for index, entry in enumerate(syncs):
        entry["mode"] = "0600" if entry["mode"] is None else f"{entry['mode']:04o}"
        for key, value in entry.items():
            add(("file_sync", index, key), value)
    return found


def _name(path: KeyPath) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
