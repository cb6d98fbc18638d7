"""Ctrl-C and its like during work that has something to tidy up: an exception at once, or when it is safe."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import ClassVar, Self

from banger.errors import Failure

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal ends us. No Failure, so that whoever carries on after one does not carry on after this."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


class Interrupts:
    """While entered, SIGINT, SIGTERM and SIGHUP raise Interrupted (status 128+n), so that `finally` tidies up.

    A signal that is ignored stays so: a background job of a script. Outside of the main thread, which is the one that
    signals interrupt, this does nothing; within another one neither: the outer one knows what all of it is about.
    """

    _outer: ClassVar["Interrupts | None"] = None

    def __init__(self, doing: str = "") -> None:
        """`doing`: what ends then ("cannot copy …"), for the message."""
        self._doing = doing
        self._before: list[tuple[int, signal.Handlers]] = []
        self._held = False
        self._noticed = 0

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread() or Interrupts._outer is not None:
            return self
        Interrupts._outer = self
        for signum in _SIGNALS:
            handler = signal.getsignal(signum)
            if handler is not signal.SIG_IGN:
                signal.signal(signum, self._arrived)
                self._before.append((signum, handler))  # type: ignore[arg-type]  # a handler of Python's, or its mark
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        for signum, handler in self._before:
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
        self._before.clear()
        if Interrupts._outer is self:
            Interrupts._outer = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """What must not be cut in two: a signal that comes within takes effect after."""
        outer = Interrupts._outer
        if outer is not None and outer is not self:
            with outer.held():
                yield
            return
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._noticed:
            raise Interrupted(self._failure(self._noticed))

    def _arrived(self, signum: int, _frame: FrameType | None) -> None:
        self._noticed = signum
        if not self._held:
            raise Interrupted(self._failure(signum))

    def _failure(self, signum: int) -> Failure:
        name = signal.Signals(signum).name
        if not self._doing:
            return Failure("Interrupted", f"ended by {name}", status=128 + signum)
        return Failure("Interrupted", self._doing, why=f"ended by {name}", status=128 + signum)
