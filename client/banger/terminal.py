"""The user's terminal: raw mode that is undone on every path, its size, and an agent that asks for passwords there."""

import atexit
import contextlib
import fcntl
import os
import select
import shutil
import signal
import struct
import sys
import termios
import tty
from types import TracebackType
from typing import Any, Self

_AGENT = "pkttyagent"
_AGENT_START_S = 10.0


def size() -> tuple[int, int]:
    """Rows and columns of the terminal that one of our standard streams is; 24 and 80 when none knows."""
    for fd in range(3):
        try:
            rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(8)))
        except OSError:
            continue
        if rows and columns:
            return rows, columns
    return 24, 80


class Raw:
    """Raw mode of a terminal, for as long as the `with` block lasts."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved: list[Any] = termios.tcgetattr(fd)

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.leave()

    def enter(self) -> None:
        # TCSADRAIN keeps what was typed ahead.
        tty.setraw(self._fd, termios.TCSADRAIN)

    def leave(self) -> None:
        with contextlib.suppress(termios.error):  # the terminal is gone: nothing to restore
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)


def start_agent() -> bool:
    """Start polkit's terminal agent for this process, if there is a terminal; return whether a prompt can appear.

    Where a desktop's agent can be registered for our session, that one is asked first. Ours ends with this process,
    however that ends.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    if shutil.which(_AGENT) is None:
        return True  # a desktop session may have one of its own
    ready, notify = os.pipe()
    os.set_inheritable(notify, True)  # noqa: FBT003 - it takes no keyword
    argv = [
        "setpriv",
        "--pdeathsig",
        "TERM",
        _AGENT,
        "--process",
        str(os.getpid()),
        "--notify-fd",
        str(notify),
    ]
    if "XDG_SESSION_ID" in os.environ:
        argv.append("--fallback")  # outside of a session polkit 122 never asks such an agent
    try:
        atexit.register(_end, os.posix_spawnp(argv[0], argv, os.environ))
        os.close(notify)
        select.select([ready], [], [], _AGENT_START_S)  # closed once it is registered, or has ended
    finally:
        os.close(ready)
    return True


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)
