"""Signals that ask us to end become a Failure where Python code runs, so that what was made is taken away again."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from banger.errors import Failure

_ASKING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def told(doing: str) -> Iterator[None]:
    """In the block the first of SIGINT, SIGTERM and SIGHUP raises Failure (status 128+n), later ones do nothing.

    `doing`: "the workspace was not sent". Signals that are ignored stay so.
    """
    raised = False

    def asked(signum: int, _frame: FrameType | None) -> None:
        nonlocal raised
        if not raised:
            raised = True
            raise Failure(
                "Interrupted", doing, why="interrupted; nothing is left of it", status=128 + signum
            )

    before = {signum: signal.getsignal(signum) for signum in _ASKING}
    taken = {signum: handler for signum, handler in before.items() if handler is not signal.SIG_IGN}
    for signum in taken:
        signal.signal(signum, asked)
    try:
        yield
    finally:
        for signum, handler in taken.items():
            signal.signal(signum, handler)
