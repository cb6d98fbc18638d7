"""`banger vm run` and `banger vm exec`: a command or a shell in a guest, with our streams and its exit status."""

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from banger import render, units
from banger.cli.arrival import arrive
from banger.cli.command import How, Tail
from banger.cli.defaults import FILE_SYNC
from banger.cli.guest import Guest
from banger.cli.keys import with_keys
from banger.cli.options import AS_TRACKED, DEFAULTS, PEOPLE, Files, Folder, Output, Spec, VMName
from banger.cli.prepare import prepare
from banger.errors import OK, Failure, UsageError
from banger.service import Service, Wanted

if TYPE_CHECKING:  # git and all that goes with it: 10 ms that most commands have no need of
    from banger.workspace.plan import Plan

_GONE = ("NoSuchVM", "NoSuchObject", "UnknownMethod")
_AS_IS = How()


def run(
    path: Folder = "",
    /,
    *,
    spec: Spec = DEFAULTS,
    rm: Annotated[
        bool, Parameter(negative=(), help="Delete the VM when the command or shell ends.")
    ] = False,
    files: Files = AS_TRACKED,
    how: How = _AS_IS,
    output: Output = PEOPLE,
    command: Tail,
) -> int:
    """Make a VM, start it, and be the command's or the shell's stand-in here; return its exit status."""
    if rm and how.detach:
        raise UsageError(
            "--rm deletes the VM when we leave, and --detach leaves at once", hint="leave one of them away"
        )
    # Many images' command is a shell or an interpreter, whose end would be the machine's.
    planned, wanted = how.checked(command), replace(spec.wanted(), entrypoint=False)
    plan = _workspace(path, files, command, output)
    if files.dry_run:
        return OK
    service = Service()
    prepare(service, wanted, output)
    with _made(service, with_keys(wanted, output), output, rm=rm) as vm:
        guest = Guest(service, vm, output)
        if FILE_SYNC in wanted.labels:
            arrive(service, vm, wanted.name, output)
        if plan is not None:
            plan.send(guest.open_session, output.progress(plan.name))
        return guest.run(planned, how, plan, wish=files.tooling)


def exec_(name: VMName, /, *, how: How = _AS_IS, output: Output = PEOPLE, command: Tail) -> int:
    """Be the stand-in here of a command or a shell in a VM that runs; return its exit status."""
    units.check_name(name)
    planned = how.checked(command)
    service = Service()
    return Guest(service, service.find_vm(name), output).run(planned, how)


def _workspace(path: str, files: Files, command: Sequence[str], output: Output) -> "Plan | None":
    """What of `path` is taken along; says what is not, and with --dry-run what is."""
    if path and Path(path).is_dir():
        from banger.cli import workspace
        from banger.workspace.plan import plan

        found = plan(path, files.options())
        workspace.warn(found, output)
        if files.dry_run:
            workspace.show(found, output)
        return found
    if path:
        what = "is no folder" if os.path.lexists(path) else "does not exist"
        if command:
            raise UsageError(
                f"{path[:200]} {what}", hint="before `--` stands the folder to take along, or nothing"
            )
        raise UsageError(
            f"{path[:200]} {what}, and what stands before `--` is the folder to take along",
            hint=f"to run a command put `--` before it: banger vm run -- {shlex.quote(path[:200])}",
        )
    if given := files.given():
        raise UsageError(
            f"{given[0]} says which files of a folder are taken along, and no folder is given",
            hint="name it: banger vm run ./repo",
        )
    return None


@contextmanager
def _made(service: Service, wanted: Wanted, output: Output, *, rm: bool) -> Iterator[str]:
    """A VM that runs; with `rm` it is deleted after, else the user is told how to go on with it."""
    title = wanted.name or "VM"
    if not rm:
        vm = service.create_vm(wanted, output.progress(title), start=True)
        try:
            yield vm
        finally:
            if not (output.quiet or output.json):
                _remark(service, vm)
        return
    # The VM lives as long as our end of the pipe is open, so it ends with us however we end.
    theirs, ours = os.pipe()
    try:
        try:
            vm = service.create_vm(wanted, output.progress(title), start=True, lifeline=theirs)
        finally:
            os.close(theirs)
        try:
            yield vm
        finally:
            _delete(service, vm, title, output)
    finally:
        os.close(ours)


def _delete(service: Service, vm: str, name: str, output: Output) -> None:
    try:
        service.change_vm("delete", name, output.progress(name), path=vm)
    except Failure as exc:
        # It is gone already if its guest powered off; and how deleting went is not the command's status.
        if exc.code not in _GONE:
            render.failure(exc, json_wanted=output.json)


def _remark(service: Service, vm: str) -> None:
    try:
        name, state = service.vm_name(vm), service.vm_state(vm)
    except Failure:
        return  # deleted meanwhile
    if state == "running":
        render.note(
            f"{name} runs on: `banger vm exec {name}` goes back in, `banger vm delete {name}` removes it"
        )
    else:
        render.note(
            f"{name} is {state}: `banger vm start {name}` starts it, `banger vm delete {name}` removes it"
        )
