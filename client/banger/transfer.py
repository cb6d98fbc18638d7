"""A command in a guest as a part of our own work: bytes go in from an iterator, and come out to a function.

The other side of what session.py does for a person; the protocol is the same (docs/guest-protocol.md, "Session
messages"), and what comes from the guest is checked for shape and size.
"""

import select
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from banger import messages
from banger.errors import Failure
from banger.interrupt import Interrupts
from banger.messages import Command, encode

Chunk = bytes | bytearray | memoryview
_QUEUE_LIMIT = 256 * 1024
_STDERR_KEPT = 16 * 1024


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the command ended: its status (128+n after signal n), and the last 16 KiB of what it said on stderr."""

    status: int
    stderr: str


def run(
    fd: int,
    command: Command,
    *,
    source: Iterable[Chunk] = (),
    sink: Callable[[memoryview], object] = lambda _data: None,
) -> Outcome:
    """Run `command` over the session descriptor `fd` (taken over): `source` is its input, `sink` gets its output.

    What `source` or `sink` raise ends the session, and the guest hangs the command up. A command that ends before it
    has read everything is no error here: its status tells. A sink that blocks holds the guest back: no more than some
    600 KiB are on the way at a time. Raises Failure when it could not be run or the guest went; a signal meanwhile
    raises Interrupted.
    """
    with socket.socket(fileno=fd) as link, Interrupts():
        link.settimeout(0)
        return _Transfer(link, encode(command), iter(source), sink).run()


class _Transfer:
    def __init__(
        self,
        link: socket.socket,
        first: bytes,
        source: Iterator[Chunk],
        sink: Callable[[memoryview], object],
    ) -> None:
        self._link = link
        self._out = bytearray(first)
        self._in = messages.Incoming(self._message)
        self._source: Iterator[Chunk] | None = source
        self._rest = memoryview(b"")  # of the source's last chunk
        self._credit = 0
        self._sink = sink
        self._stderr = bytearray()

    def run(self) -> Outcome:
        poll = select.poll()
        while self._in.ended is None:
            self._fill()
            poll.register(self._link, select.POLLIN | (select.POLLOUT if self._out else 0))
            for _fd, events in poll.poll():
                if events & select.POLLOUT:
                    self._flush()
                if events & ~select.POLLOUT:
                    self._in.receive(self._link, "the guest went away in the midst of it")
        if isinstance(self._in.ended, Failure):
            raise self._in.ended
        return Outcome(self._in.ended, self._stderr.decode("utf-8", "replace"))

    def _fill(self) -> None:
        """Take from the source as much as the guest will have and the queue holds."""
        while self._source is not None and self._credit > 0 and len(self._out) < _QUEUE_LIMIT:
            if not self._rest:
                try:
                    self._rest = memoryview(next(self._source)).cast("B")
                except StopIteration:
                    self._source = None
                    self._out += messages.HEADER.pack(messages.STDIN, 0)
                    return
            part = self._rest[: min(self._credit, messages.MAX_PAYLOAD)]
            self._rest = self._rest[len(part) :]
            if part:
                self._credit -= len(part)
                self._out += messages.HEADER.pack(messages.STDIN, len(part))
                self._out += part

    def _flush(self) -> None:
        try:
            sent = self._link.send(self._out)
            del self._out[:sent]
        except BlockingIOError:
            pass
        except (BrokenPipeError, ConnectionResetError):
            self._out.clear()  # what is read next tells why
            self._source = None

    def _message(self, kind: int, payload: memoryview) -> None:
        if kind == messages.STDOUT:
            self._sink(payload)
        elif kind == messages.STDERR:
            self._stderr += payload
            del self._stderr[:-_STDERR_KEPT]
        elif kind == messages.STDIN_CREDIT:
            self._credit += messages.U32.unpack(payload)[0]
