"""When a VM is first up: its owner's files go there (file_sync of the config)."""

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from banger import render
from banger.cli.defaults import FILE_SYNC, pending
from banger.cli.options import Output
from banger.config import FileSync, settings
from banger.errors import Failure
from banger.progress import Progress
from banger.service import Service

if TYPE_CHECKING:
    from banger.transfer import Outcome

_DRAW_S = 0.1
_NO_ROOM = ("Wrote only", "No space left", "quota exceeded")  # the first is GNU tar's
_NOT_FOUND, _NOT_EXECUTABLE = 127, 126


def arrive(service: Service, vm: str, name: str, output: Output) -> bool:
    """Send the files of file_sync if the VM at path `vm`, which runs, still waits for them; whether it has them now.

    Raises nothing but what interrupts: a failure is told, the VM is of use without them, and the next start tries
    again.
    """
    again = ""
    try:
        facts = service.describe_vm(vm)
        name = name or str(facts.get("name", ""))
        again = "" if facts.get("ephemeral") else f"`banger vm restart {name}` tries again"
        if not pending(facts) or facts.get("owner") != os.getuid():
            return True
        _send(service, vm, settings().file_sync, output.progress(name))
        service.set_labels(vm, {FILE_SYNC: ""})
    except Failure as exc:
        failure = Failure(
            exc.code,
            f"the files of file_sync did not get into {name or 'the VM'}",
            why=str(exc),
            hint=exc.hint or again,
            details=exc.details,
        )
        render.failure(failure, json_wanted=output.json)
        return False
    return True


def _send(service: Service, vm: str, entries: tuple[FileSync, ...], progress: Progress) -> None:
    if not entries:
        return  # the config has none any more
    from banger import filesync, transfer
    from banger.messages import Command

    done = False
    try:
        source = _watched(filesync.archive(entries, progress.say), progress)
        outcome = transfer.run(service.open_session(vm), Command(filesync.UNPACK), source=source)
        if outcome.status:
            raise _failed(outcome)
        done = True
    finally:
        progress.close(done=done)


def _failed(outcome: "Outcome") -> Failure:
    if outcome.status in (_NOT_FOUND, _NOT_EXECUTABLE):
        return Failure(
            "GuestFailed", "the guest has no sh or tar to unpack them", hint="install tar in the image"
        )
    said = next(iter(outcome.stderr.splitlines()), f"status {outcome.status}")
    if any(words in said for words in _NO_ROOM):
        return Failure("GuestFailed", "there is no room for them in the guest", why=said)
    return Failure("GuestFailed", "tar failed in the guest", why=said)


def _watched(chunks: Iterator[bytes], progress: Progress) -> Iterator[bytes]:
    """The same chunks, with their number of bytes in the progress line."""
    sent, drawn = 0, 0.0
    for chunk in chunks:
        yield chunk
        sent += len(chunk)
        if (now := time.monotonic()) - drawn >= _DRAW_S:
            drawn = now
            progress.update({"stage": "copying your files", "done": sent, "unit": "bytes"})
