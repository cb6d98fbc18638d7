"""The one door out: every child process of the service starts here.

No shell, no preexec_fn, a minimal environment, a deadline, capped output, and no child left behind.
"""

import asyncio
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bangerd.model.errors import StepFailed

log = logging.getLogger(__name__)

PIPE = subprocess.PIPE
DEVNULL = subprocess.DEVNULL

_ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
_STDERR_KEPT = 64 * 1024


@dataclass(frozen=True, slots=True)
class Completed:
    """How a command ended: `returncode` is negative after a signal; `stderr` is its last 64 KiB."""

    returncode: int
    stdout: bytes
    stderr: bytes


async def run(
    argv: Sequence[str],
    *,
    input: bytes | None = None,  # noqa: A002, as in subprocess.run
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    max_output: int = 1024 * 1024,
    check: bool = True,
    cwd: Path | None = None,
) -> Completed:
    """Run a command to its end and return its output.

    `env` is added to a minimal environment. Raises StepFailed, with the command and the last lines that
    it wrote to stderr, when it cannot be started, takes longer than `timeout_s` seconds, writes more than
    `max_output` bytes, or (unless `check` is false) ends with another status than 0. Whatever the way out,
    cancellation included, the command and what it started in its session are dead and reaped.
    """
    loop = asyncio.get_running_loop()
    collector = _Collector(loop, max_output)
    _announce(argv)
    try:
        transport, _ = await loop.subprocess_exec(
            lambda: collector,
            *argv,
            stdin=DEVNULL if input is None else PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**_ENV, **(env or {})},
            pass_fds=tuple(pass_fds),
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as exc:
        raise _not_started(argv, exc) from exc
    try:
        if input is not None:
            stdin = transport.get_pipe_transport(0)
            assert isinstance(stdin, asyncio.WriteTransport)  # noqa: S101, asked for above
            stdin.write(input)
            stdin.close()  # after what is buffered has been written
        async with asyncio.timeout(timeout_s):
            await asyncio.shield(collector.ended)
    except TimeoutError:
        collector.kill()
        raise StepFailed(f"`{_shown(argv)}` took longer than {timeout_s:g} s and was killed") from None
    finally:
        collector.kill()
        # Not transport.close() first: its poll() would take the status away from the child watcher.
        for fd in (0, 1, 2):
            pipe = transport.get_pipe_transport(fd)
            if pipe is not None:
                pipe.close()
        await collector.ended
        transport.close()
    returncode = transport.get_returncode()
    assert returncode is not None  # noqa: S101, connection_lost comes after the exit
    if collector.overflow:
        raise StepFailed(f"`{_shown(argv)}` wrote more than {max_output} bytes and was killed")
    done = Completed(returncode, bytes(collector.stdout), bytes(collector.stderr))
    if check and returncode != 0:
        raise _failed(argv, done)
    return done


async def spawn(
    argv: Sequence[str],
    *,
    stdin: int | IO[bytes] = DEVNULL,
    stdout: int | IO[bytes] = DEVNULL,
    stderr: int | IO[bytes] = DEVNULL,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    cwd: Path | None = None,
) -> asyncio.subprocess.Process:
    """Start a child in a session of its own; the caller ends and reaps it. Raises StepFailed."""
    _announce(argv)
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={**_ENV, **(env or {})},
            pass_fds=tuple(pass_fds),
            cwd=cwd,
            start_new_session=True,
        )
    except OSError as exc:
        raise _not_started(argv, exc) from exc


def detach(
    argv: Sequence[str],
    *,
    uid: int,
    groups: Sequence[int],
    stdin: int | None,
    stderr: int,
    pass_fds: Sequence[int],
    cwd: Path,
) -> int:
    """Start a command that outlives the service, and return its pidfd; the caller closes it and reaps by it.

    It runs at `uid` as its uid and gid, with umask 0, in a session of its own. asyncio's processes will not
    do: their transports kill the child when the loop ends. Raises StepFailed.
    """
    _announce(argv)
    try:
        child = subprocess.Popen(
            argv,
            stdin=DEVNULL if stdin is None else stdin,
            stdout=DEVNULL,
            stderr=stderr,
            env=_ENV,
            pass_fds=tuple(pass_fds),
            cwd=cwd,
            start_new_session=True,
            umask=0,
            user=uid,
            group=uid,
            extra_groups=tuple(groups),
        )
    except OSError as exc:
        raise _not_started(argv, exc) from exc
    pidfd = os.pidfd_open(child.pid)  # nobody but us can have reaped it yet
    child.returncode = 0  # it is no longer Popen's to wait for, nor to complain about when it is collected
    return pidfd


class _Collector(asyncio.SubprocessProtocol):
    """Keeps a command's output within bounds. `ended` is done when it is reaped and its pipes are closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, max_output: int) -> None:
        self.ended: asyncio.Future[None] = loop.create_future()
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.overflow = False
        self._max_output = max_output
        self._transport: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)  # noqa: S101, the loop's contract
        self._transport = transport

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        if fd == 2:
            self.stderr += data
            del self.stderr[:-_STDERR_KEPT]
            return
        self.stdout += data
        if len(self.stdout) > self._max_output:
            self.overflow = True
            del self.stdout[self._max_output :]
            self.kill()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def kill(self) -> None:
        """Kill the command and its children; nothing once it is reaped: its number may be another's."""
        if self._transport is not None and self._transport.get_returncode() is None:
            try:
                os.killpg(self._transport.get_pid(), signal.SIGKILL)
            except ProcessLookupError:
                log.debug("process group %d ended by itself", self._transport.get_pid())


def _announce(argv: Sequence[str]) -> None:
    log.debug("+ %s", shlex.join(argv))
    if sys.version_info < (3, 12):
        # Python 3.11 waits for each child in a thread of its own; 3.12 uses pidfds by itself.
        policy = asyncio.get_event_loop_policy()
        watcher = policy.get_child_watcher()
        if not isinstance(watcher, asyncio.PidfdChildWatcher):
            watcher = asyncio.PidfdChildWatcher()
            policy.set_child_watcher(watcher)
        if not watcher.is_active():
            watcher.attach_loop(asyncio.get_running_loop())


def _shown(argv: Sequence[str]) -> str:
    text = shlex.join(argv)
    return text if len(text) <= 200 else text[:199] + "…"


def _not_started(argv: Sequence[str], exc: OSError) -> StepFailed:
    if isinstance(exc, FileNotFoundError):
        return StepFailed(f"cannot run {argv[0]}: not found; `banger doctor` says which package brings it")
    return StepFailed(f"cannot run {argv[0]}: {exc.strerror or exc}")


def _failed(argv: Sequence[str], done: Completed) -> StepFailed:
    if done.returncode < 0:
        how = f"was ended by {signal.Signals(-done.returncode).name}"
    else:
        how = f"failed with status {done.returncode}"
    # Tools repeat what they were fed: control characters stay out of messages, journals and terminals.
    text = done.stderr.decode(errors="replace")
    lines = [
        "".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines() if line.strip()
    ]
    said = "; ".join(lines[-3:])[-500:]
    return StepFailed(f"`{_shown(argv)}` {how}" + (f": {said}" if said else ""))
