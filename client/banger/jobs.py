"""Following a job: subscribe, call, wait in the main loop; Ctrl-C cancels it, and the service's death is noticed."""

import signal
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from banger import bus as dbus
from banger.bus import Bus, Call, Reply
from banger.errors import BusError, Failure, describe
from banger.progress import Progress

_JOB = f"{dbus.NAME}.Job"
# For what is shown, as each poll is a polkit check: a job's end comes as a signal. Where nothing is shown, as a net.
_POLL_MS, _POLL_UNSEEN_MS, _POLL_QUIET_MS = 250, 1000, 10_000
_LOOK_MS = 1000
_DRAW_MS = 100


def follow(bus: Bus, call: Call, progress: Progress, doing: str) -> Reply:
    """Make `call`, whose last result is a job's path, and return its reply when the job is done.

    Raises Failure when it fails (`doing` says what: "cannot start 'web'"), is cancelled, or the service dies.
    """
    return _Follower(bus, call, progress, doing).run()


class _Follower:
    def __init__(self, bus: Bus, call: Call, progress: Progress, doing: str) -> None:
        self._bus = bus
        self._call = call
        self._progress = progress
        self._doing = doing
        self._owner: str | None = None  # the service's unique name; '' means gone
        self._early: dict[str, str] = {}  # ends of jobs seen before the reply that names ours
        self._reply: Reply | None = None
        self._job = ""
        self._failure: Failure | None = None
        self._signum = 0  # the Unix signal that asked us to cancel
        self._polling = False
        self._ending = False

    def run(self) -> Reply:
        # Subscribing comes first: a short job ends before its path reaches us.
        with ExitStack() as stack:
            stack.callback(self._bus.watch_owner(self._owner_changed))
            stack.callback(self._bus.subscribe("JobRemoved", self._removed))
            for signum in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(signum) is signal.SIG_IGN:
                    continue  # a job in the background of a script
                stack.callback(self._bus.on_signal(signum, self._interrupter(signum)))
            unseen_ms = _POLL_QUIET_MS if self._progress.quiet else _POLL_UNSEEN_MS
            stack.callback(self._bus.every(_POLL_MS if self._progress.live else unseen_ms, self._poll))
            stack.callback(self._bus.every(_LOOK_MS, self._look))
            if self._progress.live:
                stack.callback(self._bus.every(_DRAW_MS, self._progress.draw))
            self._bus.start(self._call, self._replied)
            try:
                self._bus.run_loop()
            finally:
                self._progress.close(done=self._failure is None)
        if self._failure is not None:
            raise self._failure
        if self._reply is None:
            raise Failure("Failed", self._doing, why="the main loop ended early; this is a bug of banger")
        return self._reply

    def _replied(self, outcome: Reply | BusError) -> None:
        if isinstance(outcome, BusError):
            self._end(describe(outcome, self._doing))
            return
        self._reply = outcome
        self._job = str(outcome.values[-1])
        if self._job in self._early:
            self._finished(self._early[self._job])
        elif self._signum:
            self._cancel()

    def _removed(self, sender: str, body: tuple[Any, ...]) -> None:
        if sender != self._owner:  # not the service: anyone on the bus can send us a signal
            return
        path, result = body
        if not self._job:
            self._early[path] = result
        elif path == self._job:
            self._finished(result)

    def _finished(self, result: str) -> None:
        if self._ending:
            return
        self._ending = True
        if result == "done":
            late = Failure("Interrupted", self._doing, why="it was done before it could be cancelled")
            late.status = 128 + self._signum
            self._end(late if self._signum else None)
        else:
            # Why it ended stands in the job, kept for a minute.
            self._describe(lambda outcome: self._end(self._explain(result, outcome)))

    def _explain(self, result: str, outcome: Reply | BusError) -> Failure:
        if result == "canceled":
            status = 128 + self._signum if self._signum else 1
            return Failure("Canceled", self._doing, why="cancelled", status=status)
        if isinstance(outcome, BusError):
            return Failure(
                "Failed", self._doing, why="the job failed", hint="look at `journalctl -u banger`"
            )
        job = outcome.values[0]
        return describe(
            BusError(str(job.get("error_name", "Failed")), str(job.get("error", ""))), self._doing
        )

    def _look(self) -> None:
        if self._bus.closed:
            self._end(describe(BusError("org.freedesktop.DBus.Error.Disconnected", ""), self._doing))

    def _poll(self) -> None:
        if self._job and not self._polling and not self._ending:
            self._polling = True
            self._describe(self._polled)

    def _polled(self, outcome: Reply | BusError) -> None:
        self._polling = False
        if isinstance(outcome, Reply) and not self._ending:
            job: Mapping[str, Any] = outcome.values[0]
            self._progress.update(job)
            if job["state"] != "running":
                self._finished(str(job["state"]))

    def _describe(self, done: Callable[[Reply | BusError], None]) -> None:
        self._bus.start(Call(self._job, _JOB, "Describe", "a{sv}", ({},), start_service=False), done)

    def _owner_changed(self, owner: str) -> None:
        lost = bool(self._owner) and owner != self._owner
        self._owner = owner
        if lost:
            self._end(
                Failure(
                    "ServiceGone",
                    self._doing,
                    why="the banger service ended in the midst of it",
                    hint="what you asked for may be carried out when it is back: look at `systemctl status banger`, "
                    "then `banger vm list`",
                )
            )

    def _interrupter(self, signum: int) -> Callable[[], None]:
        def interrupted() -> None:
            if self._signum:
                self._end(
                    Failure(
                        "Interrupted",
                        self._doing,
                        why="left while the service is still cancelling it",
                        hint="`banger job list` shows what is under way",
                        status=128 + signum,
                    )
                )
                return
            self._signum = signum
            self._progress.say("cancelling… (once more to leave at once)")
            if self._job:
                self._cancel()

        return interrupted

    def _cancel(self) -> None:
        def answered(outcome: Reply | BusError) -> None:
            # A job that cannot be cancelled any more ends by itself.
            if isinstance(outcome, BusError) and not self._ending:
                self._progress.say(f"cannot cancel: {outcome.text}; waiting for its end")

        self._bus.start(Call(self._job, _JOB, "Cancel", "a{sv}", ({},), start_service=False), answered)

    def _end(self, failure: Failure | None) -> None:
        if self._failure is None:
            self._failure = failure
        self._bus.quit_loop()
