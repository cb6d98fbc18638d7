"""Folders of ours for what is made on the way."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from banger.errors import Failure

_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def scratch(prefix: str) -> Iterator[Path]:
    """A folder that nobody else can look into, gone after the block. Raises Failure when there is no room for it."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=prefix))
    except OSError as exc:
        raise host_failed(exc) from None
    try:
        yield folder
    finally:
        # A second Ctrl-C, of somebody who is impatient, waits until it is gone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)
        try:
            shutil.rmtree(folder)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def host_failed(exc: OSError) -> Failure:
    """What is told when `exc` ended our own work on files."""
    return Failure(
        "HostFailed",
        "cannot make what is needed on the way",
        why=str(exc),
        hint=f"is there room in {tempfile.gettempdir()}? TMPDIR says another place",
    )
