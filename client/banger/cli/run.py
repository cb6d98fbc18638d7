"""`banger vm run` and `banger vm exec`: a command or a shell in a guest, with our streams and its exit status."""

import os
from collections.abc import Sequence
from typing import Annotated

from cyclopts import Parameter

from banger import messages, render, session, terminal, units
from banger.cli.options import DEFAULTS, PEOPLE, Output, Spec, VMName
from banger.cli.prepare import prepare
from banger.errors import Failure, UsageError
from banger.messages import Command
from banger.service import Service, Wanted

# Filled with what stands after `--`, which is never parsed.
Tail = Annotated[tuple[str, ...], Parameter(parse=False)]
Env = Annotated[
    list[str] | None,
    Parameter(
        name=["--env", "-e"], negative=(), help="NAME=value for the command; NAME takes it from here."
    ),
]
TTY = Annotated[bool | None, Parameter(help="Give the command a terminal. By default if we have one.")]
User = Annotated[str, Parameter(help="The guest's user to run it as; root by default.")]
Workdir = Annotated[str, Parameter(help="The folder to run it in; the user's home by default.")]

_GONE = ("NoSuchVM", "NoSuchObject", "UnknownMethod")


def run(
    path: Annotated[str, Parameter(show=False)] = "",
    /,
    *,
    spec: Spec = DEFAULTS,
    rm: Annotated[
        bool, Parameter(negative=(), help="Delete the VM when the command or shell ends.")
    ] = False,
    tty: TTY = None,
    env: Env = None,
    user: User = "",
    workdir: Workdir = "",
    output: Output = PEOPLE,
    command: Tail,
) -> int:
    """Make a VM, start it, and be the command's or the shell's stand-in here; return its exit status."""
    if path:
        raise UsageError(
            f"a folder to work on ({path[:80]!a}) cannot be given yet",
            hint=f"to run a command put `--` before it: banger vm run -- {path[:80]}",
        )
    wanted = spec.wanted()
    what = _command(command, tty=tty, env=env, user=user, workdir=workdir)
    service = Service()
    prepare(service, wanted, output)
    if rm:
        return _run_once(service, wanted, what, output)
    vm = service.create_vm(wanted, output.progress(wanted.name or "VM"), start=True)
    try:
        return session.run(service.open_session(vm), what)
    finally:
        if not (output.quiet or output.json):
            _remark(service, vm)


def exec_(
    name: VMName,
    /,
    *,
    tty: TTY = None,
    env: Env = None,
    user: User = "",
    workdir: Workdir = "",
    output: Output = PEOPLE,
    command: Tail,
) -> int:
    """Be the stand-in here of a command or a shell in a VM that runs; return its exit status."""
    del output  # only how errors are told
    units.check_name(name)
    what = _command(command, tty=tty, env=env, user=user, workdir=workdir)
    service = Service()
    return session.run(service.open_session(service.find_vm(name)), what)


def _run_once(service: Service, wanted: Wanted, what: Command, output: Output) -> int:
    # The VM lives as long as our end of the pipe is open, so it ends with us however we end.
    theirs, ours = os.pipe()
    try:
        vm = service.create_vm(wanted, output.progress(wanted.name or "VM"), start=True, lifeline=theirs)
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    try:
        return session.run(service.open_session(vm), what)
    finally:
        _delete(service, vm, wanted.name or "VM", output)
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


def _command(
    argv: Sequence[str], *, tty: bool | None, env: Sequence[str] | None, user: str, workdir: str
) -> Command:
    if tty is None:
        tty = all(os.isatty(fd) for fd in range(3))
    variables: dict[str, str] = {}
    if tty:
        variables = {name: os.environ[name] for name in ("TERM", "COLORTERM") if os.environ.get(name)}
    for setting in env or ():
        name, given, value = setting.partition("=")
        if given:
            variables[name] = value
        elif name in os.environ:
            variables[name] = os.environ[name]
        else:
            raise UsageError(
                f"{name[:80]!a} is not in the environment", hint=f"write --env {name[:80]}=VALUE"
            )
    command = Command(
        tuple(argv),
        tuple(f"{name}={value}" for name, value in variables.items()),
        workdir,
        user,
        terminal.size() if tty else None,
    )
    messages.encode(command)  # what no guest could run is refused before anything is made
    return command
