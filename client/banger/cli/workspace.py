"""`banger vm workspace …`: a folder of ours into a VM that runs, and what changed there back."""

import json
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from banger import render, units
from banger.cli import tools
from banger.cli.guest import Guest
from banger.cli.options import AS_TRACKED, PEOPLE, Files, Folder, Output, VMName
from banger.errors import Failure, UsageError
from banger.logfilter import LogFilter
from banger.service import Service
from banger.workspace import export as exports
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
    guest = Guest(service, service.find_vm(name), output)
    changed = wanted.send(guest.open_session, output.progress(name), replace=replace)
    tools.bootstrap(service, guest.vm, wanted, wish=files.tooling, output=output)
    if output.json:
        record = wanted.record()
        del record["files"]
        render.as_json({"vm": name, **record, "changed": list(changed)})
        return
    if not output.quiet:
        render.note(f"{wanted.top} is in {name} now: `banger vm exec {name} --workdir {wanted.workdir}`")


def export(
    name: VMName,
    path: Folder = ".",
    /,
    *,
    patch: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="Write a patch to this file, - for standard output.")
    ] = "",
    branch: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="The branch to make here; banger/NAME by default.")
    ] = "",
    guest_path: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="Where it is there; /root/<the repository's name>.")
    ] = "",
    max_size: Annotated[
        str, Parameter(allow_leading_hyphen=True, help="Take no more than this: 4G.")
    ] = "1G",
    output: Output = PEOPLE,
) -> None:
    """Bring back what changed in a workspace, as a branch of the repository that the folder `path` is in."""
    units.check_name(name)
    if output.json and patch == "-":
        raise UsageError("--json and a patch cannot both be on standard output", hint="--patch FILE")
    size = units.parse_size(max_size, "size")
    wanted = exports.export(path, name, exports.Wanted(patch, branch, guest_path, size))
    service = Service()
    vm = service.find_vm(name)
    brought = wanted.run(lambda: service.open_session(vm), output.progress(name))
    if brought.patch and patch == "-":
        _print(brought.patch)
        return
    if brought.patch:
        _write(Path(patch), brought.patch)
    if output.json:
        render.as_json({"vm": name, **brought.record()})
    elif not output.quiet:
        render.note(_told(name, patch, brought))


def _print(patch: bytes) -> None:
    """As it is; but to a terminal only what it shows, as a guest wrote it."""
    if sys.stdout.isatty():
        shown = LogFilter(colours=False)
        sys.stdout.write(shown.feed(patch) + shown.end())
    else:
        sys.stdout.buffer.write(patch)


def _write(place: Path, patch: bytes) -> None:
    try:
        with place.open("xb") as file:
            try:
                file.write(patch)
            except OSError:
                place.unlink()
                raise
    except OSError as exc:
        raise Failure(
            "HostFailed", "cannot write the patch", why=str(exc), hint="--patch names the file"
        ) from None


def _told(name: str, patch: str, brought: exports.Brought) -> str:
    if brought.patch:
        return f"{patch}: {units.size(len(brought.patch))}; `git apply {patch}` applies it"
    if not brought.branch:
        return f"nothing changed in {name}"
    branch = brought.branch
    if not brought.commits:
        return f"{branch} has it all already"
    commits = "1 commit" if brought.commits == 1 else f"{brought.commits} commits"
    return (
        f"{branch}: {commits}; `git diff HEAD...{branch}` shows what changed, `git merge {branch}` takes it"
    )


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
        sys.stdout.flush()  # the list first, also where both go into one pipe
        files = "1 file" if found.count == 1 else f"{found.count:,} files"
        render.note(f"{files}, {units.size(found.total_bytes)}, to {found.guest_path}")


def _line(name: str) -> str:
    """The name as it is if it fits on a line and prints, else as a JSON string, which quotes the same everywhere."""
    return name if name.isprintable() and not name.startswith('"') else json.dumps(name)
