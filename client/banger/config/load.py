"""From the config's text to Settings. Imported only where there is a config."""

import posixpath
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from banger import units
from banger.config import schema
from banger.config.place import home
from banger.config.tomlfile import Faults, at, check
from banger.config.values import FileSync, Forward, Settings, VMDefaults
from banger.errors import UsageError


def load(text: str) -> Settings:
    """The settings that `text` says. Raises Faults."""
    config = check(text, schema.Config, schema.REFUSED)
    syncs = () if config.file_sync is UNSET else config.file_sync
    return Settings(
        **_given(config, "default_image_name", "default_kernel_name", "nat", "tooling"),
        ssh_key_path=None if config.ssh_key_path is UNSET else _here(config.ssh_key_path),
        vm_defaults=_vm_defaults(text, config.vm_defaults),
        forward=Forward() if config.forward is UNSET else Forward(**_given(config.forward)),
        file_sync=_file_syncs(text, syncs),
    )


def _given(table: msgspec.Struct, *names: str) -> dict[str, Any]:
    """What is set in `table`: of `names`, or of all its keys."""
    values = {name: getattr(table, name) for name in names or table.__struct_fields__}
    return {name: value for name, value in values.items() if value is not UNSET}


def _vm_defaults(text: str, table: schema.VMDefaults | msgspec.UnsetType) -> VMDefaults:
    if table is UNSET:
        return VMDefaults()
    given = _given(table)
    if table.disk_size is not UNSET:
        try:
            given["disk_size"] = units.parse_size(table.disk_size, "disk size")
        except UsageError as exc:
            raise Faults([at(text, ("vm_defaults", "disk_size"), str(exc), exc.hint)]) from None
    return VMDefaults(**given)


def _file_syncs(text: str, tables: tuple[schema.FileSync, ...]) -> tuple[FileSync, ...]:
    syncs: list[FileSync] = []
    for index, table in enumerate(tables):
        guest = posixpath.normpath("/root" + table.guest.removeprefix("~").removeprefix("/root"))
        if guest in [sync.guest for sync in syncs]:
            what = f"{table.guest} in the guest is written by an earlier entry already"
            raise Faults(
                [at(text, ("file_sync", index, "guest"), what, "name another path, or drop one of the two")]
            )
        mode = None if table.mode is UNSET else int(table.mode, 8)
        syncs.append(FileSync(_here(table.host), guest, mode))
    return tuple(syncs)


def _here(path: str) -> Path:
    return home() / path.removeprefix("~/") if path.startswith("~/") else Path(path)
