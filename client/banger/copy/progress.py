"""Bytes of a copy in the progress line, redrawn no more often than eyes see."""

import time

from banger.progress import Progress

_DRAW_S = 0.1


class Meter:
    """Counts bytes of `total` (0: unknown) and tells the progress line."""

    def __init__(self, progress: Progress, stage: str, total: int) -> None:
        self._progress, self._stage, self._total = progress, stage, total
        self.done = 0
        self._drawn = 0.0
        self._draw()

    def add(self, count: int) -> None:
        self.done += count
        if time.monotonic() - self._drawn >= _DRAW_S:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        fraction = self.done / self._total if self._total else -1.0
        self._progress.update(
            {
                "stage": self._stage,
                "done": self.done,
                "total": self._total,
                "unit": "bytes",
                "fraction": fraction,
            }
        )
