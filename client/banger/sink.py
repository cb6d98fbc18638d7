"""One of our own output streams, written to without ever blocking the loop that also serves the other streams."""

import errno
import os
import select
import stat
from types import TracebackType
from typing import Self

_SURE = 4096  # PIPE_BUF: a pipe that polls writable takes so much without blocking


class Sink:
    """Takes bytes for descriptor `fd`; what does not fit stays `pending` until `flush`.

    O_NONBLOCK belongs to the open file, which others share (a shell, a terminal): setting it breaks them. So a pipe
    is opened anew through /proc, and what cannot be opened so is written to in pieces that fit for sure.
    """

    def __init__(self, fd: int) -> None:
        self.open = True
        self.problem = ""  # why writing failed, if it was not just that nobody reads any more
        self.fd = fd
        self._pending = bytearray()
        self._own = -1
        self._piece = _SURE
        try:
            mode = os.fstat(fd).st_mode
        except OSError:
            self.open = False
            return
        if stat.S_ISREG(mode):
            self._piece = 1 << 30
        elif stat.S_ISFIFO(mode):
            try:
                self._own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return  # another user's pipe, or no /proc
            self.fd = self._own
            self._piece = 1 << 30

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self._own >= 0:
            os.close(self._own)

    @property
    def pending(self) -> bool:
        return self.open and bool(self._pending)

    def write(self, data: memoryview) -> bool:
        """Write now what fits, keep the rest; False when nobody reads (any more)."""
        done = 0 if self._pending else self._write(data)
        if self.open:
            self._pending += data[done:]
        return self.open

    def flush(self) -> bool:
        """Write what is pending, as far as it fits; False when nobody reads (any more)."""
        with memoryview(self._pending) as view:
            done = self._write(view)
        del self._pending[:done]
        return self.open

    def drop(self) -> None:
        """Nobody reads: forget what is pending, take no more."""
        self.open = False
        self._pending.clear()

    def _write(self, data: memoryview) -> int:
        done = 0
        try:
            while done < len(data) and self._writable():
                done += os.write(self.fd, data[done : done + self._piece])
        except BlockingIOError:
            pass
        except OSError as exc:
            self.open = False
            if exc.errno not in (errno.EPIPE, errno.ECONNRESET, errno.EIO):  # EIO: a terminal hung up
                self.problem = os.strerror(exc.errno or 0)
        return done

    def _writable(self) -> bool:
        if self._piece > _SURE:
            return True
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        return bool(poll.poll(0))
