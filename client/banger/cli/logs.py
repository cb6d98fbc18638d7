"""`banger vm logs`: a VM's console."""

import os
import sys
import time
from collections.abc import Iterator
from typing import Annotated

from cyclopts import Parameter

from banger import render, units
from banger.cli.options import PEOPLE, Output, VMName
from banger.errors import Failure
from banger.logfilter import LogFilter
from banger.service import Service

_CHUNK = 64 * 1024
_LOOK_S = 0.2  # a regular file cannot be waited for
_REOPEN_S = 1.0  # the console's file is replaced when it is full
_ENDED = ("stopped", "failed", "created")


def logs(
    name: VMName,
    /,
    *,
    follow: Annotated[
        bool, Parameter(name=["--follow", "-f"], negative=(), help="Go on as it grows.")
    ] = False,
    raw: Annotated[
        bool, Parameter(negative=(), help="The bytes as the guest wrote them, escapes too.")
    ] = False,
    output: Output = PEOPLE,
) -> None:
    """Write a VM's console to standard output."""
    units.check_name(name)
    service = Service()
    chunks = _following(service, service.find_vm(name)) if follow else _whole(service, service.find_vm(name))
    if raw and not output.json:
        sys.stdout.flush()
        for chunk in chunks:
            _write(chunk)
        return
    shown = LogFilter(colours=render.fancy(sys.stdout) and not output.json)
    for chunk in chunks:
        _print(shown.feed(chunk), output)
    _print(shown.end(), output)


def _whole(service: Service, vm: str) -> Iterator[bytes]:
    fd = service.open_log(vm)
    try:
        while chunk := os.read(fd, _CHUNK):
            yield chunk
    finally:
        os.close(fd)


def _following(service: Service, vm: str) -> Iterator[bytes]:
    """Chunks of the log as it grows, until the VM has ended; an empty one now and then lets output be flushed."""
    fd = service.open_log(vm)
    looked = time.monotonic()
    ended = False
    try:
        while True:
            while chunk := os.read(fd, _CHUNK):
                yield chunk
            if ended:
                return
            time.sleep(_LOOK_S)
            if time.monotonic() - looked >= _REOPEN_S:
                looked = time.monotonic()
                ended, newer = _look_again(service, vm, fd)
                if newer >= 0:
                    yield from _rest(fd)
                    fd = newer
    finally:
        os.close(fd)


def _rest(fd: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(fd, _CHUNK):
            yield chunk
    finally:
        os.close(fd)


def _look_again(service: Service, vm: str, fd: int) -> tuple[bool, int]:
    """Whether the VM has ended, and the log's new file, or -1."""
    try:
        ended = service.vm_state(vm) in _ENDED
        newer = service.open_log(vm)
    except Failure:
        return True, -1
    if os.path.sameopenfile(fd, newer):
        os.close(newer)
        newer = -1
    return ended, newer


def _print(text: str, output: Output) -> None:
    if output.json:
        for line in text.splitlines():
            render.as_json({"line": line}, pretty=False)
    else:
        sys.stdout.write(text)
    sys.stdout.flush()


def _write(chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(1, view) :]
