"""The line on standard error that shows long work: stage, bar, elapsed time; and what each stage took."""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

from banger import units
from banger.render import DIM, GREEN, columns, fancy, paint, safe

_WIDTH = 24  # of the bar, at most
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_WORTH_A_LINE_S = 1.0  # shorter stages leave no trace


class Progress:
    """One job's progress. Redraws a line on a terminal; elsewhere only says what took a second or more."""

    def __init__(self, title: str, *, quiet: bool = False, err: TextIO | None = None) -> None:
        self._err = err or sys.stderr
        self.quiet = quiet
        self.live = not quiet and fancy(self._err)
        self._title = safe(title)
        self._began = self._stage_began = time.monotonic()
        self._stage = ""
        self._detail = ""
        self._fraction = -1.0
        self._drawn = False
        encoding = (self._err.encoding or "ascii").lower()
        self._unicode = encoding.startswith("utf")

    def update(self, job: Mapping[str, Any]) -> None:
        """Take in what the job's Describe said: stage, fraction (0 to 1, negative: unknown), done, total, unit."""
        stage = safe(job.get("stage", ""))
        if stage != self._stage:
            self._end_stage()
            self._stage = stage
        done, total = int(job.get("done", 0)), int(job.get("total", 0))
        self._fraction = min(1.0, float(job.get("fraction", -1.0)))
        self._detail = _amount(done, total, str(job.get("unit", "")))
        self.draw()

    def draw(self) -> None:
        """Redraw: called on a timer, so that the seconds pass."""
        if not self.live:
            return
        now = time.monotonic()
        took = units.duration(now - self._began)
        parts = [part for part in (self._bar(now), self._title, self._stage, self._detail) if part]
        # A line that wraps could not be wiped.
        room = max(0, columns(self._err) - len(took) - 3)
        self._err.write(f"\r\x1b[K{'  '.join(parts)[:room]}  {paint(took, DIM, self._err)}")
        self._err.flush()
        self._drawn = True

    def say(self, text: str) -> None:
        """A line for people in the midst of the work."""
        if not self.quiet:
            self._wipe()
            print(safe(text), file=self._err, flush=True)

    def close(self, *, done: bool) -> None:
        """End: wipe the line, and say what the last stage, or all of it, took when that was long."""
        self._end_stage(done=done)
        self._wipe()

    def _end_stage(self, *, done: bool = True) -> None:
        now = time.monotonic()
        took = now - self._stage_began
        if self._stage and done and took >= _WORTH_A_LINE_S and not self.quiet:
            self._wipe()
            mark = paint("✓" if self._unicode else "-", GREEN, self._err)
            time_taken = paint(units.duration(took), DIM, self._err)
            print(f"{mark} {self._title}: {self._stage}  {time_taken}", file=self._err, flush=True)
        self._stage_began = now

    def _wipe(self) -> None:
        if self._drawn:
            self._err.write("\r\x1b[K")
            self._err.flush()
            self._drawn = False

    def _bar(self, now: float) -> str:
        if self._fraction < 0:
            return _SPINNER[int(now * 10) % len(_SPINNER)] if self._unicode else "|/-\\"[int(now * 8) % 4]
        width = min(_WIDTH, columns(self._err) // 5)
        full = round(self._fraction * width)
        filled, empty = ("━", "╌") if self._unicode else ("#", ".")
        return f"{filled * full}{empty * (width - full)} {self._fraction:4.0%}"


def _amount(done: int, total: int, unit: str) -> str:
    if not done and not total:
        return ""
    if unit == "bytes":
        return f"{units.size(done)} of {units.size(total)}" if total else units.size(done)
    return f"{done}/{total}" if total else str(done)
