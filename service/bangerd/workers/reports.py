"""What a build worker tells the service: one JSON object a line on standard output.

    {"progress": {"stage": "download", "done": 1024, "total": 4096, "unit": "bytes"}}
    {"result": {…}}        the last line of a worker that succeeded
    {"error": {"kind": "network", "text": "…"}}    the last line of one that failed, with exit status 1

host/worker.py checks every line; it takes nothing here for granted.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

_INTERVAL_S = 0.2
_TEXT_MAX = 600


class WorkerError(Exception):
    """Ends the worker. `kind` is one of network, signature, space, tool, failed."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(slots=True)
class _Last:
    stage: str = ""
    at: float = 0.0


class Reports:
    """Writes reports to the descriptor that was standard output, and sends that to standard error instead:
    a tool that prints cannot end up between two reports."""

    def __init__(self) -> None:
        self._descriptor = os.dup(1)
        os.dup2(2, 1)
        self._last = _Last()

    def progress(self, stage: str, done: int = 0, total: int = 0, unit: str = "bytes") -> None:
        """At most five a second, except that a new stage and a finished one are always told."""
        now = time.monotonic()
        if stage == self._last.stage and now - self._last.at < _INTERVAL_S and not (total and done == total):
            return
        self._last = _Last(stage, now)
        self._write({"progress": {"stage": stage, "done": done, "total": total, "unit": unit}})

    def result(self, **facts: object) -> None:
        self._write({"result": facts})

    def error(self, kind: str, text: str) -> None:
        self._write({"error": {"kind": kind, "text": text[-_TEXT_MAX:]}})

    def _write(self, message: dict[str, object]) -> None:
        os.write(self._descriptor, json.dumps(message).encode() + b"\n")


def run(job: Callable[[Reports], dict[str, object]]) -> int:
    """Run a worker's job, report how it ended, and return the exit status."""
    reports = Reports()
    try:
        facts = job(reports)
    except WorkerError as exc:
        reports.error(exc.kind, str(exc))
    except OSError as exc:
        traceback.print_exc(file=sys.stderr)
        reports.error("space" if exc.errno in (28, 122) else "failed", str(exc))
    else:
        reports.result(**facts)
        return 0
    return 1
