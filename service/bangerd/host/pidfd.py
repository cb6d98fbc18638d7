"""Processes by descriptor: a number may be another process's by the time it is used, a pidfd is not."""

import asyncio
import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self


class Process:
    """A living or ended process. The owner closes it."""

    def __init__(self, pidfd: int, uid: int) -> None:
        self.uid = uid
        self._pidfd = pidfd
        self._end = asyncio.Event()
        self._reading = False

    @classmethod
    def open(cls, pid: int, start_time: int, uid: int) -> Self | None:
        """The process of this number, start time (clock ticks since boot) and uid, if there is one."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        if _start_time(pid) == start_time and _uids(pid) == frozenset({uid}):
            return cls(pidfd, uid)
        os.close(pidfd)
        return None

    def ended(self) -> bool:
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def when_ended(self, call: Callable[[], None]) -> None:
        """Call once, from the loop, when the process has ended and until `close`."""
        self._reading = True
        asyncio.get_running_loop().add_reader(self._pidfd, self._on_end, call)

    def _on_end(self, call: Callable[[], None]) -> None:
        self._stop_reading()
        self._end.set()
        call()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait_end(self, timeout_s: float) -> bool:
        """Whether it ended in time. Needs `when_ended` before."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._end.wait()
        return self._end.is_set()

    def be_nice(self, value: int) -> None:
        """Lower the priority of the process and all of its process group."""
        pid = _pid_of(self._pidfd)
        if pid > 0:
            with suppress(ProcessLookupError):
                os.setpriority(os.PRIO_PGRP, pid, value)

    def reap(self) -> int | None:
        """The exit status of an own child that has ended (128+n after signal n); None of anybody else's."""
        try:
            found = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        except ChildProcessError:
            return None
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else 128 + found.si_status

    def close(self) -> None:
        self._stop_reading()
        self._end.set()
        os.close(self._pidfd)

    def _stop_reading(self) -> None:
        if self._reading:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._pidfd)


async def end_all_of(uid: int, timeout_s: float) -> bool:
    """SIGKILL everything that carries this uid until nothing is left. False if some of it stays.

    Raises ValueError for root's: nobody asks for that.
    """
    if uid == 0:
        raise ValueError("refusing to end root's processes")
    deadline = asyncio.get_running_loop().time() + timeout_s
    while pids := await asyncio.to_thread(_pids_of, uid):
        if asyncio.get_running_loop().time() > deadline:
            return False
        for pid in pids:
            await _end(pid, uid, deadline)
    return True


async def _end(pid: int, uid: int, deadline: float) -> None:
    try:
        process = Process(os.pidfd_open(pid), uid)
    except OSError:
        return
    try:
        if uid in _uids(pid):  # still the same: asked after the descriptor was opened
            process.when_ended(lambda: None)
            process.kill()
            await process.wait_end(deadline - asyncio.get_running_loop().time())
    finally:
        process.close()


def _pids_of(uid: int) -> list[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if uid in _uids(int(entry.name))]


def _uids(pid: int) -> frozenset[int]:
    """Real, effective, saved and file-system uid; none for a zombie, which does nothing any more.

    Not the owner of /proc/<pid>: that is root for a process that may not be traced, as the shim is.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    if fields.get("State", "Z")[0] in "ZX":
        return frozenset()
    return frozenset(int(uid) for uid in fields["Uid"].split())


def _start_time(pid: int) -> int:
    """Clock ticks since boot, field 22 of /proc/<pid>/stat; -1 if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return -1
    return int(text.rpartition(")")[2].split()[19])


def _pid_of(pidfd: int) -> int:
    """-1 once the process has been reaped."""
    text = Path(f"/proc/self/fdinfo/{pidfd}").read_text(encoding="utf-8")
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return int(fields["Pid"])
