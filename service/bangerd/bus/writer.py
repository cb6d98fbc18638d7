"""Sends messages in order, waits when the socket is full, and bounds what waits.

Takes the place of dbus-next 0.2.3's writer, which ends the connection on EAGAIN, queues without end and never
closes a descriptor that it has sent.
"""

import array
import asyncio
import logging
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from dbus_next.message import Message

log = logging.getLogger(__name__)

HIGH_WATER = 4 * 1024 * 1024  # bytes; beyond it no further call is read from the bus
LIMIT = 32 * 1024 * 1024  # bytes; beyond it messages are dropped
# dbus-daemon stops reading from a connection of which too much waits elsewhere, such as with a client that reads
# nothing. Nothing but a new connection helps then.
STALL_S = 60.0

Sent = asyncio.Future[None]


@dataclass(slots=True)
class _Item:
    data: memoryview
    fds: list[int]
    sent: Sent | None


class Writer:
    """One connection's outgoing queue.

    `full` is called when more than HIGH_WATER waits, `free` when all of it is sent, `failed` when the socket broke.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        full: Callable[[], None],
        free: Callable[[], None],
        failed: Callable[[OSError], None],
    ) -> None:
        self._sock = sock
        self._full = full
        self._free = free
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Item] = deque()
        self._waiting = 0  # bytes
        self._high = False
        self._open = False  # nothing is sent before the bus has answered Hello
        self._closed = False
        self._dropped = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._drained: list[Sent] = []

    def put(self, msg: Message, sent: Sent | None = None) -> None:
        """Queue a message and send what can be sent now. Its descriptors are handed over: they get closed.

        Raises what dbus-next raises for a body that does not fit its signature, and then takes nothing.
        """
        data = memoryview(bytes(msg._marshall(negotiate_unix_fd=True)))  # noqa: SLF001
        item = _Item(data, list(msg.unix_fds or ()), sent)
        if self._closed or self._waiting + len(item.data) > LIMIT:
            self._drop(item)
            return
        self._queue.append(item)
        self._waiting += len(item.data)
        if self._waiting > HIGH_WATER and not self._high:
            self._high = True
            self._full()
        if self._open and len(self._queue) == 1:
            self._flush()

    def schedule_write(self) -> None:
        """Begin to send. Called by dbus-next once the bus has answered Hello."""
        self._open = True
        self._flush()

    async def drained(self) -> None:
        """Return when all that was queued has been handed to the kernel, or the connection is gone."""
        if self._queue and not self._closed:
            self._drained.append(self._loop.create_future())
            await self._drained[-1]

    def close(self) -> None:
        """Drop what waits and close its descriptors."""
        self._closed = True
        self._loop.remove_writer(self._sock)
        self._disarm()
        while self._queue:
            self._drop(self._queue.popleft())
        self._waiting = 0
        self._wake_drained()

    def _flush(self) -> None:
        try:
            while self._queue:
                self._send(self._queue[0])
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._flush)
            self._disarm()
            self._alarm = self._loop.call_later(STALL_S, self._stalled)
            return
        except OSError as exc:
            self._failed(exc)
            return
        self._loop.remove_writer(self._sock)
        self._disarm()
        if self._high:
            self._high = False
            self._free()
        self._wake_drained()

    def _send(self, item: _Item) -> None:
        """Send all of it, or raise BlockingIOError having remembered how much has gone."""
        while item.data:
            if item.fds:
                control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", item.fds))]
                count = self._sock.sendmsg([item.data], control)
                _close_all(item.fds)
            else:
                count = self._sock.send(item.data)
            item.data = item.data[count:]
            self._waiting -= count
        self._queue.popleft()
        if item.sent is not None and not item.sent.done():
            item.sent.set_result(None)

    def _stalled(self) -> None:
        self._failed(TimeoutError(f"the bus has taken no message for {STALL_S:.0f} s"))

    def _disarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _drop(self, item: _Item) -> None:
        _close_all(item.fds)
        if item.sent is not None and not item.sent.done():
            item.sent.cancel()
        self._dropped += 1
        if not self._closed and self._dropped & (self._dropped - 1) == 0:
            log.error("the bus takes no more messages; %d dropped so far", self._dropped)

    def _wake_drained(self) -> None:
        for future in self._drained:
            if not future.done():
                future.set_result(None)
        self._drained.clear()


def _close_all(fds: list[int]) -> None:
    while fds:
        os.close(fds.pop())
