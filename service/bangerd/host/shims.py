"""Talks to shims through their control sockets. What they say is short, and hostile until checked."""

import asyncio
import os
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from bangerd.core.ports import Disks, GuestStatus
from bangerd.host.vmsock import dial
from bangerd.model.errors import GuestFailed, StepFailed, WrongState
from bangerd.model.vm import VM, ExitReason, ExitRecord

LINE_LIMIT = 1024
REPLY_S = 5.0
PACE_S = 0.05
TAIL_BYTES = 16384  # a panic's registers and calls, and what led to it
_PAIR = re.compile(r"([a-z_.]{1,32})=([!-~]{0,512})")


class ShimClients:
    """Implements core.ports.Shims."""

    def __init__(self, disks: Disks) -> None:
        self._disks = disks
        self._changed: Callable[[str], None] = lambda _sid: None
        self._watches: dict[str, asyncio.Task[None]] = {}

    def watch(self, changed: Callable[[str], None]) -> None:
        self._changed = changed

    def attach(self, vm: VM) -> None:
        if vm.sid not in self._watches:
            task = asyncio.create_task(self._follow(vm), name=f"shim {vm.sid}")
            self._watches[vm.sid] = task
            task.add_done_callback(lambda _task: self._watches.pop(vm.sid, None))

    async def close(self) -> None:
        tasks = set(self._watches.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _follow(self, vm: VM) -> None:
        try:
            reader, writer = await self._connect(vm, "control.sock")
        except GuestFailed:
            return
        try:
            writer.write(b"WATCH\n")
            while await reader.readline():
                self._changed(vm.sid)
                # Paced: a shim that was broken into must not keep the service busy.
                await asyncio.sleep(PACE_S)
        except (OSError, ValueError):
            return  # a line over the limit, or a reset: as good as gone
        finally:
            writer.close()

    async def status(self, vm: VM) -> GuestStatus:
        return parse_status(await self._ask(vm, "STATUS"))

    async def stop(self, vm: VM, grace_s: float) -> None:
        _expect_ok(await self._ask(vm, f"STOP {grace_s:.0f}"))

    async def set_clock(self, vm: VM) -> None:
        _expect_ok(await self._ask(vm, "CLOCK"))

    async def _ask(self, vm: VM, line: str) -> str:
        reader, writer = await self._connect(vm, "control.sock")
        try:
            async with asyncio.timeout(REPLY_S):
                writer.write(line.encode() + b"\n")
                reply = await reader.readline()
        except (OSError, ValueError, TimeoutError) as exc:
            raise GuestFailed(
                f"the shim of '{vm.name}' does not answer ({str(exc) or 'no reply in time'})"
            ) from exc
        finally:
            writer.close()
        if not reply.endswith(b"\n"):
            raise GuestFailed(f"the shim of '{vm.name}' is just ending")
        return reply.decode("ascii", "replace").rstrip("\n")

    async def open_session(self, vm: VM, port: int) -> int:
        sock = self._dial(vm, "guest.sock")
        try:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(REPLY_S):
                await loop.sock_sendall(sock, f"CONNECT {port}\n".encode())
                reply = await _line_and_no_more(sock)
        except (OSError, TimeoutError) as exc:
            sock.close()
            raise GuestFailed(
                f"the guest of '{vm.name}' does not answer ({str(exc) or 'no reply in time'})"
            ) from exc
        if not reply.startswith(b"OK "):
            sock.close()
            said = printable(reply.decode("ascii", "replace"))
            raise GuestFailed(f"the guest of '{vm.name}' takes no session: {said or 'it is just ending'}")
        sock.settimeout(None)  # blocking
        return sock.detach()

    async def _connect(self, vm: VM, name: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(sock=self._dial(vm, name), limit=LINE_LIMIT)

    def _dial(self, vm: VM, name: str) -> socket.socket:
        try:
            return dial(self._disks.run_dir(vm) / name, vm.uid)
        except OSError as exc:
            raise GuestFailed(f"the shim of '{vm.name}' cannot be reached ({exc.strerror or exc})") from exc

    def read_exit(self, vm: VM) -> ExitRecord | None:
        folder = self._disks.run_dir(vm)
        try:
            text = _read_small(folder / "exit", vm.uid)
        except FileNotFoundError:
            ran = (folder / "control.sock").is_socket()
            return ExitRecord(ExitReason.LOST) if ran else None
        except OSError:
            return ExitRecord(ExitReason.LOST)
        return parse_exit(text)

    def open_log(self, vm: VM) -> int:
        try:
            return _open_regular(self._disks.run_dir(vm) / "console.log", vm.uid)
        except FileNotFoundError as exc:
            raise WrongState(
                f"VM '{vm.name}' has no console log; it was not started since the host's boot"
            ) from exc
        except OSError as exc:
            raise StepFailed(
                f"the console log of '{vm.name}' cannot be read: {exc.strerror or exc}"
            ) from exc

    def console_tail(self, vm: VM) -> tuple[str, ...]:
        return self._tail(vm, "console.log")

    def vmm_tail(self, vm: VM) -> tuple[str, ...]:
        return self._tail(vm, "vmm.log")

    def _tail(self, vm: VM, name: str) -> tuple[str, ...]:
        try:
            descriptor = _open_regular(self._disks.run_dir(vm) / name, vm.uid)
        except OSError:
            return ()
        with os.fdopen(descriptor, "rb") as file:
            file.seek(max(0, os.fstat(descriptor).st_size - TAIL_BYTES))
            text = file.read(TAIL_BYTES).decode("utf-8", "replace")
        shown = (printable(line)[:200] for line in text.splitlines())
        return tuple(line for line in shown if line.strip())


_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[ -/]*[0-~])")


def printable(text: str) -> str:
    """Without terminal escapes (ECMA-48) and control characters: a guest's words are shown on people's terminals."""
    return "".join(c for c in _ESCAPES.sub("", text) if c.isprintable())


def parse_status(line: str) -> GuestStatus:
    """Raises GuestFailed when the line is not of the form that docs/guest-protocol.md gives."""
    pairs = dict(_PAIR.findall(line))
    try:
        total, _, available = pairs.get("memory", "").partition(",")
        ports = tuple(int(p) for p in pairs.get("ports", "").split(",") if p)
        return GuestStatus(
            ready=pairs["state"] in ("ready", "stopping"),
            sessions=_small(pairs.get("sessions", "0")),
            memory_total=_small(total or "0"),
            memory_available=_small(available or "0"),
            ports=tuple(p for p in ports if 0 < p < 65536)[:64],
            timings_ms={k[2:]: _small(v) for k, v in pairs.items() if k.startswith("t.")},
        )
    except (KeyError, ValueError) as exc:
        raise GuestFailed(f"a shim said something that is no status: {line[:80]!a}") from exc


def _small(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**53:
        raise ValueError(text)
    return value


def parse_exit(text: str) -> ExitRecord:
    """An unreadable record counts as LOST."""
    pairs = dict(_PAIR.findall(text))
    try:
        return ExitRecord(
            reason=ExitReason(pairs["reason"]),
            status=_small(pairs.get("status", "0")) & 0xFF,
            signal=_small(pairs.get("signal", "0")) & 0x7F,
            ready=pairs.get("ready") == "1",
            at=_small(pairs.get("at", "0")),
        )
    except (KeyError, ValueError):
        return ExitRecord(ExitReason.LOST)


def _open_regular(path: Path, uid: int) -> int:
    # O_NONBLOCK: a FIFO put there must not hold us up.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    facts = os.fstat(descriptor)
    if stat.S_ISREG(facts.st_mode) and facts.st_uid == uid and facts.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    raise PermissionError(f"{path} is not the VM's own file")


def _read_small(path: Path, uid: int) -> str:
    with os.fdopen(_open_regular(path, uid), "rb") as file:
        return file.read(LINE_LIMIT).decode("ascii", "replace")


async def _line_and_no_more(sock: socket.socket) -> bytes:
    """The answer's line, byte by byte: what follows it belongs to the session."""
    loop = asyncio.get_running_loop()
    line = bytearray()
    while len(line) < LINE_LIMIT:
        byte = await loop.sock_recv(sock, 1)
        if not byte or byte == b"\n":
            break
        line += byte
    return bytes(line)


def _expect_ok(reply: str) -> None:
    if reply != "OK":
        raise GuestFailed(f"the shim refused: {printable(reply)[:200]}")
