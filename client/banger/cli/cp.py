"""`banger vm cp`: files and folders between this machine and a guest."""

import os
from typing import Annotated

from cyclopts import Parameter

from banger import render, units
from banger.cli import complete
from banger.cli.options import PEOPLE, Output
from banger.copy import ends, get, put
from banger.copy.ends import Here, There
from banger.copy.get import Copied
from banger.copy.guest import OpenSession
from banger.errors import UsageError
from banger.progress import Progress
from banger.service import Service

_PLACE = "NAME:/path in a VM, a path here, or - for a tar stream."
_TOLD = 10  # names of what was left out


def cp(
    source: Annotated[
        str, Parameter(name="SRC", allow_leading_hyphen=True, completer=complete.place, help=_PLACE)
    ],
    target: Annotated[
        str, Parameter(name="DST", allow_leading_hyphen=True, completer=complete.place, help="The same.")
    ],
    /,
    *,
    skip_unsafe: Annotated[
        bool,
        Parameter(negative=(), help="Leave out links that lead out of what is copied, and devices."),
    ] = False,
    output: Output = PEOPLE,
) -> None:
    """Copy a file or a folder to or from a VM that runs."""
    one, other = ends.parse(source), ends.parse(target)
    if isinstance(one, There) and isinstance(other, Here):
        _out(one, other, output, skip=skip_unsafe)
    elif isinstance(one, Here) and isinstance(other, There):
        if skip_unsafe:
            raise UsageError("--skip-unsafe is about what comes out of a guest")
        _in(one, other, output)
    else:
        raise UsageError(
            "one of the two must be in a VM, and the other here",
            hint="write the VM's as NAME:/path, as in `banger vm cp notes.txt web:/root/`; ./a:b is a file here",
        )


def _out(source: There, target: Here, output: Output, *, skip: bool) -> None:
    if target.is_stream and os.isatty(1):
        raise UsageError(
            "a tar stream is not for a terminal", hint="write it to a file or a pipe: `… - | tar -t`"
        )
    if target.is_stream and output.json:
        raise UsageError("standard output cannot be both the tar stream and JSON", hint="leave --json away")
    open_session, progress = _guest(source, output)
    if target.is_stream:
        put.get_stream(open_session, source, progress)
    else:
        _tell(get.get(open_session, source, target.path, progress, skip=skip), source.shown, output)


def _in(source: Here, target: There, output: Output) -> None:
    if source.is_stream and os.isatty(0):
        raise UsageError("a tar stream does not come from a terminal", hint="pipe one in: `tar -c . | … -`")
    open_session, progress = _guest(target, output)
    if source.is_stream:
        size = put.put_stream(open_session, target, progress)
        if output.json:
            render.as_json({"from": "-", "to": target.shown, "bytes": size})
    else:
        _tell(put.put(open_session, source.path, target, progress), source.path, output)


def _guest(end: There, output: Output) -> tuple[OpenSession, Progress]:
    service = Service()
    vm = service.find_vm(end.vm)
    return lambda: service.open_session(vm), output.progress(end.vm)


def _tell(copied: Copied, source: str, output: Output) -> None:
    if output.json:
        render.as_json(
            {
                "from": source,
                "to": copied.target,
                "files": copied.files,
                "bytes": copied.size,
                "skipped": list(copied.skipped),
            }
        )
        return
    for line in copied.skipped[:_TOLD]:
        render.note(f"left out: {line}")
    if len(copied.skipped) > _TOLD:
        render.note(f"left out: {len(copied.skipped) - _TOLD} more")
    if not output.quiet:
        files = "1 file" if copied.files == 1 else f"{copied.files:,} files"
        render.note(f"{files}, {units.size(copied.size)}, to {copied.target}")
