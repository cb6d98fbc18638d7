"""What --verbose shows: what is done, and each call of the service with its time, on standard error."""

import sys
import time
from collections.abc import Callable


class _Trace:
    """Silent until `start`; one a process, as standard error is."""

    def __init__(self) -> None:
        self.on = False
        self._began = time.monotonic()

    def start(self) -> None:
        self.on = True

    def say(self, text: str) -> None:
        """One line, with the time since the start in front. Give it no secrets."""
        if self.on:
            passed = time.monotonic() - self._began
            print(f"{passed:8.3f}  {text}", file=sys.stderr, flush=True)

    def begin(self, what: str) -> Callable[[str], None]:
        """For what takes a while: call the result with how it ended."""
        start = time.monotonic()

        def ended(how: str) -> None:
            self.say(f"{what}: {how}, {(time.monotonic() - start) * 1000:.1f} ms")

        return ended


TRACE = _Trace()
