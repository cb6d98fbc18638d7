"""The client's side of a session with a guest: docs/guest-protocol.md, "Session messages".

One thread, one poll loop. The descriptor from VM.Exec is the only link; what comes over it was written by the guest
and is checked for shape and size.
"""

import math
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field

from banger import messages, terminal, units
from banger.errors import RUN_FAILED, TIMED_OUT, Failure
from banger.messages import Command, encode
from banger.sink import Sink

_QUEUE_LIMIT = 256 * 1024  # unsent bytes at which stdin is left unread

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
_INSIST = 3  # so many SIGINT within a second leave a command that takes no notice
_ESCAPE = b"\x1d"  # so many Ctrl-] within a second leave a terminal session
_GRACE_AFTER_PIPE_S = 1.0
# What is done about a command that outlasts its time, and how long it gets to end then. A last one: we leave.
_TIMEOUT_STEPS = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 2.0))


@dataclass(slots=True)
class _State:
    """What the loop knows between two rounds."""

    credit: int = 0
    stdin_open: bool = True
    left: Failure | None = None  # we leave at once
    interrupts: list[float] = field(default_factory=list)
    escapes: int = 0
    escape_began: float = 0.0
    pipe_broke_at: float = 0.0
    hung_up: bool = False
    deadline: float = math.inf
    timeout_steps: int = 0  # of _TIMEOUT_STEPS, taken already


def run(fd: int, command: Command, *, timeout_s: float | None = None) -> int:
    """Run `command` over the session descriptor `fd` (taken over) with our standard streams; return its exit status.

    128+n when signal n ended it. A command that runs longer than `timeout_s` gets SIGTERM, and SIGKILL 10 s later.
    Raises Failure (status 124 to 127) when it was ended so, could not be run, or the guest went away.
    """
    message = encode(command)
    with socket.socket(fileno=fd) as link, ExitStack() as stack:
        link.settimeout(0)
        return _Session(link, message, stack, command.tty, timeout_s).run()


class _Session:
    def __init__(
        self,
        link: socket.socket,
        first: bytes,
        stack: ExitStack,
        tty: tuple[int, int] | None,
        timeout_s: float | None,
    ) -> None:
        self._timeout_s = timeout_s
        self._link = link
        self._out = bytearray(first)
        self._in = messages.Incoming(self._message)
        self._tty = tty
        self._state = _State()
        self._sinks = {
            messages.STDOUT: stack.enter_context(Sink(1)),
            messages.STDERR: stack.enter_context(Sink(2)),
        }
        raw = tty is not None and os.isatty(0)
        # Before the terminal is made raw, so that no signal can leave it so.
        self._wakeup = _catch_signals(stack, tty=raw)
        self._raw = stack.enter_context(terminal.Raw(0)) if raw else None
        if tty is not None and terminal.size() != tty:  # it was resized while the VM booted
            self._send_size()

    def run(self) -> int:
        state = self._state
        while True:
            if state.left is not None:
                raise state.left
            if self._in.ended is not None and not self._pending():
                return self._result(self._in.ended)
            for fd, events in self._poll():
                self._handle(fd, events)
            if time.monotonic() >= state.deadline:
                self._timed_out()

    def _pending(self) -> bool:
        return any(sink.pending for sink in self._sinks.values())

    def _result(self, end: int | Failure) -> int:
        if self._state.timeout_steps:
            raise self._overdue("was ended")
        if isinstance(end, Failure):
            raise end
        for sink in self._sinks.values():
            if sink.problem:
                raise Failure(
                    "OutputLost", "cannot write the command's output", why=sink.problem, status=RUN_FAILED
                )
        return end

    def _poll(self) -> Iterable[tuple[int, int]]:
        state, poll = self._state, select.poll()
        poll.register(self._wakeup, select.POLLIN)
        # A stream of ours that is full holds the guest back: we read no more until it drains.
        link_events = (0 if self._pending() else select.POLLIN) | (select.POLLOUT if self._out else 0)
        if self._in.ended is None and link_events:
            poll.register(self._link, link_events)
        for sink in self._sinks.values():
            if sink.open:
                poll.register(sink.fd, select.POLLOUT if sink.pending else 0)
        if state.stdin_open and state.credit > 0 and len(self._out) < _QUEUE_LIMIT:
            poll.register(0, select.POLLIN)
        if math.isinf(state.deadline):
            return poll.poll()
        return poll.poll(max(0.0, state.deadline - time.monotonic()) * 1000)

    def _handle(self, fd: int, events: int) -> None:
        if fd == self._link.fileno():
            if events & select.POLLOUT:
                self._flush()
            if events & ~select.POLLOUT:
                self._in.receive(self._link, "the guest went away before the command ended")
        elif fd == self._wakeup.fileno():
            self._take_signals()
        elif fd == 0:
            # A signal may have come just after poll had looked, and before what was typed next: a new size.
            self._take_signals()
            self._read_stdin()
        else:
            self._feed_sink(fd, events)

    # To the guest

    def _send(self, kind: int, payload: bytes) -> None:
        self._out += messages.HEADER.pack(kind, len(payload))
        self._out += payload
        self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                sent = self._link.send(self._out)
                del self._out[:sent]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._out.clear()  # the reading side tells what became of the guest, after its last words

    def _read_stdin(self) -> None:
        state = self._state
        try:
            data = os.read(0, min(state.credit, messages.MAX_PAYLOAD))
        except BlockingIOError:
            return
        except OSError:
            data = b""  # the terminal hung up
        if self._raw is not None and self._escaped(data):
            state.left = Failure("Left", "left the session; the guest hangs it up", status=RUN_FAILED)
            return
        state.credit -= len(data)
        state.stdin_open = bool(data)
        self._send(messages.STDIN, data)

    def _escaped(self, data: bytes) -> bool:
        state, now = self._state, time.monotonic()
        if not data or data.strip(_ESCAPE) or now - state.escape_began > 1:
            state.escapes, state.escape_began = 0, now
        if not data.strip(_ESCAPE):
            state.escapes += len(data)
        return state.escapes >= _INSIST

    def _take_signals(self) -> None:
        try:
            signums = self._wakeup.recv(256)
        except BlockingIOError:
            return
        for signum in signums:
            self._signalled(signal.Signals(signum))

    def _signalled(self, signum: signal.Signals) -> None:
        state, now = self._state, time.monotonic()
        if signum == signal.SIGWINCH:
            self._send_size()
        elif self._raw is not None and signum == signal.SIGTSTP:
            self._stop()
        elif self._raw is not None and signum == signal.SIGCONT:
            self._raw.enter()
            self._send_size()
        elif self._raw is not None:
            # Keys reach the guest as bytes: this came from outside and means us.
            state.left = _ended_by(signum)
        else:
            self._send(messages.SIGNAL, messages.U32.pack(signum))
            if signum == signal.SIGINT:
                state.interrupts = [at for at in state.interrupts if now - at < 1] + [now]
                if len(state.interrupts) >= _INSIST:
                    state.left = _ended_by(signum)
            elif signum == signal.SIGHUP and os.isatty(0):
                state.left = _ended_by(signum)

    def _stop(self) -> None:
        if self._raw is not None:
            self._raw.leave()
            os.kill(os.getpid(), signal.SIGSTOP)
            self._raw.enter()

    def _timed_out(self) -> None:
        state = self._state
        if state.timeout_steps == len(_TIMEOUT_STEPS):
            state.left = self._overdue("does not end")
            return
        signum, patience_s = _TIMEOUT_STEPS[state.timeout_steps]
        state.timeout_steps += 1
        state.deadline = time.monotonic() + patience_s
        self._send(messages.SIGNAL, messages.U32.pack(signum))
        self._send(
            messages.SIGNAL, messages.U32.pack(signal.SIGCONT)
        )  # one that is stopped would not notice

    def _overdue(self, what: str) -> Failure:
        limit = units.duration(self._timeout_s or 0)
        return Failure("TimedOut", f"the command ran longer than {limit} and {what}", status=TIMED_OUT)

    def _send_size(self) -> None:
        if self._tty is not None:
            self._send(messages.WINSIZE, struct.pack("<HH", *terminal.size()))

    # From the guest

    def _message(self, kind: int, payload: memoryview) -> None:
        state = self._state
        if kind in self._sinks:
            self._output(kind, payload)
        elif kind == messages.STDIN_CREDIT:
            state.credit += messages.U32.unpack(payload)[0]
        elif self._timeout_s is not None and math.isinf(state.deadline):  # it has started
            state.deadline = time.monotonic() + self._timeout_s

    def _output(self, kind: int, payload: memoryview) -> None:
        sink, state = self._sinks[kind], self._state
        if sink.open:
            if not sink.write(payload):
                self._closed(kind)
        elif (
            kind == messages.STDOUT
            and not state.hung_up
            and time.monotonic() - state.pipe_broke_at > _GRACE_AFTER_PIPE_S
        ):
            # It ignores SIGPIPE and writes on.
            state.hung_up = True
            self._send(messages.SIGNAL, messages.U32.pack(signal.SIGHUP))

    def _feed_sink(self, fd: int, events: int) -> None:
        for kind, sink in self._sinks.items():
            if not sink.open or sink.fd != fd:
                continue
            if events & select.POLLOUT and sink.pending:
                if not sink.flush():
                    self._closed(kind)
            elif events & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                sink.drop()
                self._closed(kind)

    def _closed(self, kind: int) -> None:
        """Nobody reads our output any more: let the command learn it as it would here."""
        if kind == messages.STDOUT:
            self._state.pipe_broke_at = time.monotonic()
            self._send(messages.SIGNAL, messages.U32.pack(signal.SIGPIPE))


def _catch_signals(stack: ExitStack, *, tty: bool) -> socket.socket:
    """Turn the signals we handle into bytes on the returned socket until `stack` unwinds."""
    wakeup, writer = socket.socketpair()
    for end in (wakeup, writer):
        end.settimeout(0)
        stack.enter_context(end)

    def restore(signum: int, handler: Callable[..., object] | int | None) -> Callable[[], object]:
        return lambda: signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    extra = (signal.SIGTSTP, signal.SIGCONT) if tty else ()
    stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False))
    for signum in (*_FORWARDED, signal.SIGWINCH, *extra):
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup stays nohup
            stack.callback(restore(signum, signal.signal(signum, lambda *_: None)))
    return wakeup


def _ended_by(signum: signal.Signals) -> Failure:
    return Failure(
        "Interrupted", f"ended by {signum.name}; the guest hangs the session up", status=128 + signum
    )
