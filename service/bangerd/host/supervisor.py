"""Supervises shims where systemd is not PID 1.

A VM's record is the file `<runtime>/proc/<sid>` in a folder that only root sees. The shim inherits it open
and locked, so the lock says whether the shim lives, whoever asks and whatever became of the bangerd that
started it; and it writes its number and start time there. What a shim wrote is believed only about a process
of the VM's own uid, and that uid is the file's group, which a shim cannot change.
"""

import asyncio
import fcntl
import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bangerd.core.ports import UnitSpec
from bangerd.host.devices import device_groups
from bangerd.host.pidfd import Process, end_all_of
from bangerd.host.process import detach
from bangerd.model.errors import StepFailed
from bangerd.model.vm import Unit

log = logging.getLogger(__name__)

_SID = re.compile(r"[0-9a-f]{8}")
_GONE_S = 10.0  # from SIGKILL to the end: longer only for a process stuck in the kernel
_LISTENS_S = 10.0  # from exec to listening sockets
_SAID_S = 5.0  # from exec to the shim's first line
_NICE = 5  # below bangerd's, as CPUWeight= is under systemd


class ProcessSupervisor:
    """ports.Supervisor with pidfds. VMs of two owners share one view of the host: nothing isolates them."""

    isolates_owners = False

    def __init__(self, runtime_dir: Path) -> None:
        self._folder = runtime_dir / "proc"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._alive: dict[str, Process] = {}
        self._failed: set[str] = set()
        self._asking: dict[str, asyncio.Task[None]] = {}  # living shims that have not said their number
        self._ending: dict[str, asyncio.Task[None]] = {}  # ended shims, until nothing is left at their uid
        self._changed: Callable[[str], None] = _ignore

    async def start(self, spec: UnitSpec) -> None:
        """Start the shim at the VM's uid, and return when its sockets listen. Raises StepFailed."""
        sid, uid = spec.vm.sid, spec.vm.uid
        if uid == 0:
            raise StepFailed(f"VM '{spec.vm.name}' has no uid of its own; nothing was started")
        if await self.observe(sid) is not Unit.ABSENT:
            raise StepFailed(f"VM '{spec.vm.name}' is running, or its last failure was not cleared")
        record = self._lock(sid, uid)
        listens, says_so = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            errors = os.open(
                self._folder / f"{sid}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600
            )
            try:
                pidfd = detach(
                    _command(spec, record, says_so),
                    uid=uid,
                    groups=device_groups(spec.devices),
                    stdin=spec.lifeline,
                    stderr=errors,
                    pass_fds=(record, says_so),
                    cwd=spec.run_dir,
                )
            finally:
                os.close(errors)
        except BaseException:
            os.close(listens)
            self._unlink(sid)
            raise
        finally:
            # The shim has its own: from here on the lock is the shim's alone.
            os.close(record)
            os.close(says_so)
        process = Process(pidfd, uid)
        process.be_nice(_NICE)
        self._follow(sid, process)
        if not await _heard(listens, _LISTENS_S):
            await self.stop(sid)
            raise StepFailed(
                f"the shim of VM '{spec.vm.name}' did not start; {self._folder}/{sid}.log may say why"
            )

    async def stop(self, sid: str) -> None:
        """Kill the shim and whatever else runs at the VM's uid. Raises StepFailed if something stays."""
        process = self._find(sid) or await self._wait_said(sid)
        if process is not None:
            process.kill()
            if not await process.wait_end(_GONE_S):
                raise StepFailed(f"the shim of VM {sid} did not end within {_GONE_S:g} s of SIGKILL")
        if await self.observe(sid) is Unit.DEACTIVATING:
            await asyncio.shield(self._ending[sid])
        await self.forget(sid)

    async def forget(self, sid: str) -> None:
        """Remove the record of a shim that failed."""
        if sid in self._failed:
            self._failed.discard(sid)
            self._unlink(sid)

    async def observe(self, sid: str) -> Unit:
        """ACTIVATING: a shim that a bangerd which has died since started has not said its number yet."""
        if self._find(sid) is not None:
            return Unit.ACTIVE
        if sid in self._ending:
            return Unit.DEACTIVATING
        if sid in self._failed:
            return Unit.FAILED
        if self._locked(sid):
            self._ask(sid)
            return Unit.ACTIVATING
        return Unit.DEACTIVATING if self._clear_record(sid) else Unit.ABSENT

    async def lacked_memory(self, sid: str) -> bool:
        return False

    async def list_sids(self) -> frozenset[str]:
        """VMs whose shim lives or is ending, or failed and was not forgotten."""
        return frozenset(
            [sid for sid in self._recorded() if await self.observe(sid) is not Unit.ABSENT],
        )

    def watch(self, changed: Callable[[str], None]) -> None:
        """Also finds the shims that an earlier bangerd started."""
        self._changed = changed
        for sid in self._recorded():
            if self._find(sid) is None and self._locked(sid):
                self._ask(sid)

    async def close(self) -> None:
        """Let go of the shims; they go on."""
        self._changed = _ignore
        tasks = [*self._asking.values(), *self._ending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for process in self._alive.values():
            process.close()
        self._alive.clear()

    def _recorded(self) -> list[str]:
        return [entry.name for entry in self._folder.iterdir() if _SID.fullmatch(entry.name)]

    def _lock(self, sid: str, gid: int) -> int:
        """The record, empty and locked by this descriptor. The caller closes it."""
        fd = os.open(self._folder / sid, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.fchown(fd, 0, gid)
        except OSError as exc:
            os.close(fd)
            raise StepFailed(f"the record of VM {sid} cannot be locked: {exc.strerror}") from exc
        return fd

    def _locked(self, sid: str) -> bool:
        """Whether the shim lives."""
        try:
            fd = os.open(self._folder / sid, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def _find(self, sid: str) -> Process | None:
        """The living shim, one of an earlier bangerd included."""
        process = self._alive.get(sid)
        if process is not None:
            if not process.ended():
                return process
            self._on_end(sid)
            return None
        if not self._locked(sid):
            return None
        process = self._adopt(sid)
        if process is not None:
            self._follow(sid, process)
        return process

    def _adopt(self, sid: str) -> Process | None:
        """The process that the record names, if it is beyond doubt the shim."""
        try:
            fd = os.open(self._folder / sid, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            uid = os.fstat(fd).st_gid
            said = re.fullmatch(rb"([1-9][0-9]{0,9}) ([0-9]{1,20})\n", os.read(fd, 64))
        finally:
            os.close(fd)
        if said is None or uid == 0:
            return None
        process = Process.open(int(said[1]), int(said[2]), uid)
        # Asked last: locked now means that the shim lived all the while, so its number was nobody else's.
        if process is not None and not self._locked(sid):
            process.close()
            return None
        return process

    def _ask(self, sid: str) -> None:
        """Tell of a change once a living shim has said its number."""
        if sid not in self._asking:
            self._asking[sid] = asyncio.create_task(self._tell_when_said(sid))
            self._asking[sid].add_done_callback(lambda _: self._asking.pop(sid))

    async def _tell_when_said(self, sid: str) -> None:
        try:
            await self._wait_said(sid)
        except StepFailed as exc:
            log.warning("%s", exc)
        else:
            self._changed(sid)

    async def _wait_said(self, sid: str) -> Process | None:
        """For the moment between a shim's exec and its first line, when the bangerd that waited has died."""
        deadline = asyncio.get_running_loop().time() + _SAID_S
        while self._locked(sid):
            process = self._find(sid)
            if process is not None:
                return process
            if asyncio.get_running_loop().time() > deadline:
                raise StepFailed(
                    f"the shim of VM {sid} runs, but {self._folder / sid} does not say which process it is"
                )
            await asyncio.sleep(0.01)
        return None

    def _follow(self, sid: str, process: Process) -> None:
        self._alive[sid] = process
        process.when_ended(lambda: self._on_end(sid))

    def _on_end(self, sid: str) -> None:
        process = self._alive.pop(sid, None)
        if process is not None:
            status = (
                process.reap()
            )  # None when an earlier bangerd was its parent: the exit record alone knows
            process.close()
            self._clear(sid, process.uid, status or 0)

    def _clear_record(self, sid: str) -> bool:
        """Clear away after a shim that ended while no bangerd ran. Whether there is such a record."""
        try:
            uid = (self._folder / sid).stat().st_gid
        except FileNotFoundError:
            return False
        self._clear(sid, uid, 0)
        return True

    def _clear(self, sid: str, uid: int, status: int) -> None:
        self._ending[sid] = asyncio.create_task(self._end_rest(sid, uid, status))
        self._ending[sid].add_done_callback(lambda _: self._ending.pop(sid))
        self._ending[sid].add_done_callback(lambda _: self._changed(sid))

    async def _end_rest(self, sid: str, uid: int, status: int) -> None:
        """A shim's end is the end of everything at its uid, as the end of a unit is that of its cgroup."""
        gone = uid == 0 or await end_all_of(uid, _GONE_S)
        if status == 0 and gone:
            self._unlink(sid)
            return
        self._failed.add(sid)
        log.warning("the shim of VM %s ended with status %d; see %s/%s.log", sid, status, self._folder, sid)
        if not gone:
            raise StepFailed(f"processes of uid {uid} did not end within {_GONE_S:g} s of SIGKILL")

    def _unlink(self, sid: str) -> None:
        for name in (sid, f"{sid}.log"):
            with suppress(FileNotFoundError):
                (self._folder / name).unlink()


def _ignore(_sid: str) -> None:
    """Nobody watches yet."""


async def _heard(pipe: int, patience_s: float) -> bool:
    """Whether anything was written to the pipe before its other end was closed. Closes it."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(pipe, readable.set)
    try:
        async with asyncio.timeout(patience_s):
            await readable.wait()
        return bool(os.read(pipe, 64))
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pipe)
        os.close(pipe)


def _command(spec: UnitSpec, record: int, ready: int) -> list[str]:
    """The shim's command line behind prlimit, which sets limits before the shim can fork."""
    shim, *rest = spec.argv
    if not os.access(shim, os.X_OK):
        raise StepFailed(
            f"{shim} is missing or not executable; `make` builds it, `make install` installs it"
        )
    limits = (
        "--core=0",
        "--nofile=4096",
        "--memlock=8388608",
        f"--nproc={256 + spec.vm.spec.vcpu}",
        f"--fsize={spec.file_max}",
    )
    return ["prlimit", *limits, "--", shim, "--pid-fd", str(record), "--ready-fd", str(ready), *rest]
