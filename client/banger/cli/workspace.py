"""`banger vm workspace …`: a folder of ours into a VM that runs, and what changed there back."""

import json
from typing import Annotated

from cyclopts import Parameter

from banger import render, units
from banger.cli.options import AS_TRACKED, PEOPLE, Files, Folder, Output, VMName
from banger.service import Service
from banger.workspace.plan import Plan, plan


def prepare(
    name: VMName,
    path: Folder = ".",
    /,
    *,
    files: Files = AS_TRACKED,
    replace: Annotated[
        bool, Parameter(negative=(), help="Remove what is at its place in the guest already.")
    ] = False,
    output: Output = PEOPLE,
) -> None:
    """Take the repository that the folder `path` is in into a VM that runs, to /root/<its name>."""
    units.check_name(name)
    wanted = plan(path, files.options())
    warn(wanted, output)
    if files.dry_run:
        show(wanted, output)
        return
    service = Service()
    vm = service.find_vm(name)
    changed = wanted.send(lambda: service.open_session(vm), output.progress(name), replace=replace)
    if output.json:
        record = wanted.record()
        del record["files"]
        render.as_json({"vm": name, **record, "changed": list(changed)})
        return
    for text in changed:
        render.note(text)
    if not output.quiet:
        render.note(f"{wanted.top} is in {name} now: `banger vm exec {name} --workdir {wanted.workdir}`")


def warn(found: Plan, output: Output) -> None:
    """Tell what the plan leaves out."""
    if not (output.quiet or output.json):
        for text in found.warnings:
            render.note(text)


def show(found: Plan, output: Output) -> None:
    """What `--dry-run` prints: the files, one a line, and on standard error how much it is; or one JSON object."""
    if output.json:
        render.as_json(found.record())
        return
    for entry in found.files:
        print(_line(entry.name) + ("/" if entry.kind == b"5" else ""))
    if not output.quiet:
        files = "1 file" if found.count == 1 else f"{found.count:,} files"
        render.note(f"{files}, {units.size(found.total_bytes)}, to {found.guest_path}")


def _line(name: str) -> str:
    """The name as it is if it fits on a line and prints, else as a JSON string, which quotes the same everywhere."""
    return name if name.isprintable() and not name.startswith('"') else json.dumps(name)
