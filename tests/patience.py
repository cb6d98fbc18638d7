"""How long tests wait. What stands in them is for a quick machine; BANGER_TEST_PATIENCE=10 makes it ten times that."""

import os
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

FACTOR = float(os.environ.get("BANGER_TEST_PATIENCE") or 1)
_PACE_S = 0.1

Found = TypeVar("Found")


def patience(seconds: float) -> float:
    """How long to wait on this machine for what takes at most `seconds` on a quick one."""
    return seconds * FACTOR


def until(look: Callable[[], Found | None], what: str | Callable[[], object], seconds: float = 60) -> Found:
    """The first answer of `look` that is true. AssertionError with `what` was waited for if none is in this time."""
    deadline = time.monotonic() + patience(seconds)
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience(seconds):.0f} s: {what() if callable(what) else what}")
        time.sleep(patience(_PACE_S))
    return found


class Popen(subprocess.Popen[bytes]):
    """A process whose end is waited for with patience."""

    def wait(self, timeout: float | None = None) -> int:
        return super().wait(None if timeout is None else patience(timeout))

    def communicate(self, input: Any = None, timeout: float | None = None) -> tuple[Any, Any]:  # noqa: A002
        return super().communicate(input, None if timeout is None else patience(timeout))
