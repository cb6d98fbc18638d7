"""Splits the bus's byte stream into messages, each with the descriptors that came with it.

Reads exactly one message at a time, so that a descriptor always belongs to the message whose bytes it came with.
"""

import array
import os
import socket
from collections.abc import Callable, Generator

from bangerd.bus.wire import FIXED, MAX_MESSAGE, Header, parse_header, sizes

ROUND = 64  # messages per wake-up: then others have their turn
SMALL = 4096  # a message up to this size is read in one piece, before its header is judged
PIECE = 64 * 1024
MAX_FDS = 253  # SCM_MAX_FD: what the kernel passes at most in one message

_Take = Generator[int, bytes, bytes]


class Reader:
    """`refuse(header, size)` says from the header alone whether the body is to be passed over.

    `deliver(header, data, fds)` gets every other message, and takes its descriptors over. `data` is None where there
    is nothing to unmarshal: longer than MAX_MESSAGE, or some of its descriptors did not fit into this process.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        refuse: Callable[[Header, int], bool],
        deliver: Callable[[Header, bytes | None, list[int]], None],
    ) -> None:
        self._sock = sock
        self._refuse = refuse
        self._deliver = deliver
        self._fds: list[int] = []  # of the current message
        self._closed = False
        self._current = self._one()
        self._need = next(self._current)

    def read(self) -> None:
        """Read up to ROUND messages. Raises OSError, EOFError, Malformed: the stream is then of no further use."""
        messages = 0
        while messages < ROUND and not self._closed:
            try:
                data = self._receive(self._need)
            except BlockingIOError:
                return
            try:
                self._need = self._current.send(data)
            except StopIteration:
                messages += 1
                self._current = self._one()
                self._need = next(self._current)

    def close(self) -> None:
        self._closed = True
        self._close_fds()

    def _one(self) -> Generator[int, bytes, None]:
        """One message. Yields how many bytes it wants, at most; is sent what there was, at least one."""
        data = yield from self._take(FIXED)
        size = sizes(data)
        total = size.header + size.body
        if size.header > MAX_MESSAGE:
            # Nobody can be told: who sent it stands in a header that is not worth reading.
            yield from self._pass_over(total - FIXED)
            self._close_fds()
            return
        data += yield from self._take((total if total <= SMALL else size.header) - FIXED)
        header = parse_header(data[: size.header])
        refused = self._refuse(header, total)
        if refused or total > MAX_MESSAGE:
            yield from self._pass_over(total - len(data))
            self._close_fds()
            if not refused:
                self._deliver(header, None, [])
            return
        data += yield from self._take(total - len(data))
        if len(self._fds) != header.unix_fds:
            self._close_fds()
            self._deliver(header, None, [])
            return
        fds, self._fds = self._fds, []
        self._deliver(header, data, fds)

    def _take(self, count: int) -> _Take:
        pieces = []
        while count:
            piece = yield min(count, PIECE)
            pieces.append(piece)
            count -= len(piece)
        return b"".join(pieces)

    def _pass_over(self, count: int) -> Generator[int, bytes, None]:
        while count:
            count -= len((yield min(count, PIECE)))

    def _receive(self, count: int) -> bytes:
        data, control, flags, _ = self._sock.recvmsg(
            count, socket.CMSG_SPACE(MAX_FDS * 4), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, value in control:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(value[: len(value) - len(value) % fds.itemsize])
                self._fds.extend(fds)
        if flags & socket.MSG_CTRUNC:  # this process may open no more
            self._close_fds()
        if not data:
            raise EOFError("the bus closed the connection")
        return data

    def _close_fds(self) -> None:
        while self._fds:
            os.close(self._fds.pop())
