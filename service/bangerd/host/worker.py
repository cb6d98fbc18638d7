"""Starts build workers in their sandbox and reads what they say, which is small, checked, and never trusted.

On a systemd machine a worker is a transient unit `banger-build-<slot>.service`, elsewhere a child process.
Either way workers/sandbox.py makes it nobody: ids of its own, a file system of which it may write one folder.
"""

import asyncio
import fcntl
import json
import logging
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from bangerd.core.ports import Progress
from bangerd.host import process, tree
from bangerd.host.thread import in_thread, to_the_end
from bangerd.model.errors import (
    BangerError,
    DigestMismatch,
    HostNotReady,
    OCILayerInvalid,
    PullFailed,
    StepFailed,
)

log = logging.getLogger(__name__)

# Ids above those of nspawn and below systemd's foreign range (systemd.io/UIDS-GIDS: unused); four jobs.
UID_FIRST = 0x70000000
UID_COUNT = 65536
SLOTS = 4
FILE_LIMIT = 8 << 30
MEMORY_LIMIT = 2 << 30
TIMEOUT_S = 3600.0

LINE_LIMIT = 128 * 1024  # the result of an image with many variables and labels
OUTPUT_LIMIT = 4 << 20
LOG_KEPT = 16 * 1024
KILL_S = 20.0
UNIT = "banger-build-{}.service"
_PYTHON = "/usr/bin/python3"
_PACKAGE = Path(__file__).parents[1]
_UNITS = {"bytes", "items"}
_KINDS: dict[str, type[BangerError]] = {
    "space": HostNotReady,
    "tool": HostNotReady,
    "layer": OCILayerInvalid,
    "digest": DigestMismatch,
}
# Never reached by a worker: link-local (cloud metadata too), other clouds' metadata addresses.
DENIED = ("169.254.0.0/16", "fe80::/10", "fd00:ec2::254/128", "100.100.100.200/32")


@dataclass(frozen=True, slots=True)
class Job:
    """One worker's folder: `code` is root's, `build` the worker's."""

    folder: Path
    slot: int

    @property
    def code(self) -> Path:
        return self.folder / "code"

    @property
    def build(self) -> Path:
        return self.folder / "build"

    @property
    def base(self) -> int:
        return UID_FIRST + self.slot * UID_COUNT


class Workers:
    """Runs workers below `folder`. `systemd`: as units; `denied`: networks that no worker may reach."""

    def __init__(self, folder: Path, *, systemd: bool, denied: Iterable[str] = ()) -> None:
        self._folder = folder
        self._systemd = systemd
        self._denied = (*DENIED, *denied)
        self._free = list(range(SLOTS))
        self._slots = asyncio.Semaphore(SLOTS)
        # A user's pipe or registry may take as long as it likes: one place is kept for what all share.
        self._of_users = asyncio.Semaphore(SLOTS - 1)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o711)

    @property
    def denied(self) -> tuple[str, ...]:
        """For workers that connect to where a user says; without systemd they have to see to it themselves."""
        return self._denied

    @asynccontextmanager
    async def job(self, kind: str, *, of_user: bool = False) -> AsyncIterator[Job]:
        """A folder for one worker, gone at the end whatever happens. `of_user`: a user decides how long it takes."""
        async with self._of_users if of_user else nullcontext(), self._slots:
            slot = self._free.pop()
            folder = Path(tempfile.mkdtemp(prefix=f"{kind}-{slot}-", dir=self._folder))
            try:
                folder.chmod(0o711)
                job = Job(folder, slot)
                await in_thread(_furnish, job)
                yield job
            finally:
                await in_thread(_remove, folder)
                self._free.append(slot)

    async def run(
        self,
        job: Job,
        module: str,
        arguments: Sequence[str],
        report: Callable[[Progress], None],
        *,
        libraries: Path | None = None,
    ) -> dict[str, object]:
        """Run `bangerd.workers.<module>` and return its result line, once all its processes are gone.

        `libraries`: a folder of Python packages that it imports. Raises what the worker says (_KINDS), PullFailed
        for anything else, StepFailed when the sandbox cannot be made. When
        it is cancelled the worker is dead before CancelledError goes on.
        """
        argv = [
            *(self._unit(job) if self._systemd else []),
            *self._sandbox(job, libraries),
            "--", _PYTHON, "-m", f"bangerd.workers.{module}", *arguments,
        ]  # fmt: skip
        child = await process.spawn(argv, stdin=process.PIPE, stdout=process.PIPE, stderr=process.PIPE)
        reader = _Reader(child, report)
        log_read = asyncio.create_task(reader.read_log())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await reader.read_reports()
                status = await child.wait()
        except TimeoutError:
            raise PullFailed(
                f"the build took longer than {TIMEOUT_S / 60:.0f} minutes and was ended"
            ) from None
        finally:
            await to_the_end(self._end(job, child, reader, log_read))
        return reader.result(status)

    async def collect(self) -> None:
        """End workers that a killed service left, and remove their folders."""
        if self._systemd:
            await process.run(["systemctl", "stop", UNIT.format("*")], timeout_s=60, check=False)
        for folder in sorted(self._folder.iterdir()):
            await _ended(folder)
            await in_thread(_remove, folder)

    def _sandbox(self, job: Job, libraries: Path | None) -> list[str]:
        shown = [f"--libraries={libraries}:{job.code / 'libraries'}"] if libraries else []
        path = f"{job.code}:{job.code / 'libraries'}" if libraries else str(job.code)
        return [
            _PYTHON, "-I", str(job.code / "sandbox.py"),
            "--base", str(job.base), "--write", str(job.build), "--keep", str(job.code), *shown,
            "--lock", str(job.folder / "lock"), "--pythonpath", path,
            "--fsize", str(FILE_LIMIT), "--memory", str(MEMORY_LIMIT),
        ]  # fmt: skip

    def _unit(self, job: Job) -> list[str]:
        """systemd-run with everything that the sandbox does not do by itself: limits for all of the worker
        together, addresses that it may not reach, system calls that it does not need."""
        properties = {
            "KillMode": "control-group",
            "KillSignal": "SIGKILL",
            "RuntimeMaxSec": f"{TIMEOUT_S:.0f}",
            "MemoryMax": str(MEMORY_LIMIT),
            "MemorySwapMax": "0",
            "TasksMax": "512",
            "CPUWeight": "20",
            "IOWeight": "20",
            "LimitFSIZE": str(FILE_LIMIT),
            "LimitCORE": "0",
            "OOMPolicy": "kill",
            "IPAddressDeny": " ".join(self._denied),
            "ProtectSystem": "strict",
            "ReadWritePaths": f"{job.build} {job.folder / 'lock'}",
            "ProtectHome": "tmpfs",
            "PrivateTmp": "yes",
            "PrivateDevices": "yes",
            "ProtectClock": "yes",
            "ProtectControlGroups": "yes",
            "ProtectKernelModules": "yes",
            "ProtectHostname": "yes",
            "LockPersonality": "yes",
            "RestrictRealtime": "yes",
            "NoNewPrivileges": "yes",
            "SystemCallArchitectures": "native",
            "RestrictNamespaces": "user mnt pid ipc uts net",
            "RestrictAddressFamilies": "AF_UNIX AF_INET AF_INET6 AF_NETLINK",
            # For the sandbox to make the namespaces and write the id maps; gone before the worker's first byte.
            "CapabilityBoundingSet": "CAP_SYS_ADMIN CAP_SETUID CAP_SETGID",
            "SystemCallFilter": "~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap bpf keyctl"
            " add_key request_key io_uring_setup userfaultfd perf_event_open kexec_load",
            "SystemCallErrorNumber": "EPERM",
        }
        return [
            "systemd-run", "--quiet", "--collect", "--wait", "--pipe", "--service-type=exec",
            "--slice=banger.slice", f"--unit={UNIT.format(job.slot)}", "--description=banger image worker",
            *(f"--property={key}={value}" for key, value in properties.items()),
            "--",
        ]  # fmt: skip

    async def _end(
        self, job: Job, child: asyncio.subprocess.Process, reader: "_Reader", log_read: asyncio.Task[None]
    ) -> None:
        await self._kill(job, child)
        await reader.drain()
        await log_read

    async def _kill(self, job: Job, child: asyncio.subprocess.Process) -> None:
        """The closing of its standard input ends the sandbox and all within; more if it does not."""
        assert child.stdin is not None  # noqa: S101, a pipe
        child.stdin.close()
        try:
            async with asyncio.timeout(KILL_S):
                await asyncio.shield(child.wait())
        except TimeoutError:
            log.warning("worker %s does not end, killing it", job.folder.name)
            child.kill()
            await child.wait()
        if self._systemd:
            await process.run(["systemctl", "stop", UNIT.format(job.slot)], timeout_s=60, check=False)


class _Reader:
    """Reads a worker's reports and the end of its log."""

    def __init__(self, child: asyncio.subprocess.Process, report: Callable[[Progress], None]) -> None:
        self._child = child
        self._report = report
        self._last: dict[str, object] = {}
        self._log = b""

    def result(self, status: int) -> dict[str, object]:
        facts = self._last.get("result")
        if status == 0 and isinstance(facts, dict):
            return facts
        said = "; ".join(_printable(self._log).splitlines()[-3:])[-400:]
        log.warning("build worker ended with status %d: %s", status, said)
        raise _error(self._last.get("error"), status, said)

    async def read_log(self) -> None:
        """Until every process of the worker has closed its standard error."""
        assert self._child.stderr is not None  # noqa: S101, a pipe
        while block := await self._child.stderr.read(LOG_KEPT):
            self._log = (self._log + block)[-LOG_KEPT:]

    async def drain(self) -> None:
        """Nobody writes any more: up to the end, which closes the child's transport."""
        assert self._child.stdout is not None  # noqa: S101, a pipe
        while await self._child.stdout.read(LOG_KEPT):
            pass

    async def read_reports(self) -> None:
        """Raises PullFailed when the worker says more, or other things, than it should."""
        assert self._child.stdout is not None  # noqa: S101, a pipe
        budget = OUTPUT_LIMIT
        pending = b""
        while block := await self._child.stdout.read(LINE_LIMIT):
            budget -= len(block)
            *lines, pending = (pending + block).split(b"\n")
            if budget < 0 or len(pending) > LINE_LIMIT:
                raise PullFailed("the build worker talks too much, and was ended")
            for line in lines:
                self._line(line)

    def _line(self, line: bytes) -> None:
        message = parse(line)
        if isinstance(message, Progress):
            self._report(message)
        else:
            self._last = message


def parse(line: bytes) -> Progress | dict[str, object]:
    """One report: a Progress, or {"result": {…}} or {"error": {…}}. Raises PullFailed for anything else."""
    try:
        message = json.loads(line)
        (key,) = message
        body = message[key]
        if key == "progress":
            stage, done, total, unit = (body[name] for name in ("stage", "done", "total", "unit"))
            sane = type(done) is type(total) is int and 0 <= done < 2**62 and 0 <= total < 2**62
            if sane and unit in _UNITS and isinstance(stage, str) and stage.isalpha() and len(stage) <= 32:
                return Progress(stage, done, total, unit)
        elif key in ("result", "error") and isinstance(body, dict):
            return {key: body}
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise PullFailed("the build worker says what it should not, and was ended")


def _error(said: object, status: int, tail: str) -> BangerError:
    if isinstance(said, dict) and isinstance(said.get("text"), str):
        text = _printable(said["text"].encode())[:600].replace("\n", " ")
        return _KINDS.get(str(said.get("kind")), PullFailed)(text)
    if status == 125:
        return StepFailed(f"the build worker's sandbox could not be made: {tail}")
    return PullFailed(f"the build worker ended with status {status}" + (f": {tail}" if tail else ""))


def _printable(text: bytes) -> str:
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in text.decode(errors="replace"))


def _furnish(job: Job) -> None:
    """A copy of the worker's code, since the original may lie where nobody may look (below /root, say)."""
    for part in ("model", "workers"):
        shutil.copytree(
            _PACKAGE / part, job.code / "bangerd" / part, ignore=shutil.ignore_patterns("__pycache__")
        )
    (job.code / "bangerd/__init__.py").touch()
    (job.code / "libraries").mkdir()
    shutil.copyfile(_PACKAGE / "workers/sandbox.py", job.code / "sandbox.py")
    for path in [job.code, *job.code.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    (job.folder / "lock").touch()
    job.build.mkdir()
    os.chown(job.build, job.base, job.base)


def _remove(folder: Path) -> None:
    parent = tree.open_folder(folder.parent)
    try:
        tree.remove(parent, folder.name)
    finally:
        os.close(parent)


async def _ended(folder: Path) -> None:
    """Wait until the sandbox of a job, which dies with the service that started it, is gone."""
    try:
        lock = os.open(folder / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        for _ in range(100):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                await asyncio.sleep(0.1)
            else:
                return
        log.warning("the worker of %s still runs", folder)
    finally:
        os.close(lock)
