"""Crash tests: end the process at a named point, as kill -9 would.

`BANGER_CRASH_AT` names points, divided by commas: `start_unit` before the step, `start_unit_done` after it.
`stop:<point>` stops the process there (SIGSTOP) instead, until somebody continues it.
"""

import os
import signal
from collections.abc import Mapping

from bangerd.core.ports import Hook


def hook_from(environment: Mapping[str, str]) -> Hook:
    """Does nothing without BANGER_CRASH_AT."""
    points = frozenset(filter(None, environment.get("BANGER_CRASH_AT", "").split(",")))

    async def hook(point: str) -> None:
        if point in points:
            os.kill(os.getpid(), signal.SIGKILL)
        if f"stop:{point}" in points:
            os.kill(os.getpid(), signal.SIGSTOP)

    return hook
