"""The guest protocol from the client's side, as small as tests can use it. docs/guest-protocol.md is the contract."""

import os
import select
import signal
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "service/native"

EXEC, STDIN, SIGNAL, WINSIZE = 1, 2, 3, 4
STARTED, STDOUT, STDERR, EXIT, ERROR, STDIN_CREDIT = 16, 17, 18, 19, 20, 21
HELLO, WELCOME, OPEN, OPENED, DATA, CREDIT, EOF, CLOSE, CLOSED, CONTROL = range(1, 11)


def message(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("<II", kind, len(payload)) + payload


def item(tag: int, value: bytes) -> bytes:
    return struct.pack("<HI", tag, len(value)) + value


def exec_message(
    argv: Sequence[str | bytes],
    *,
    env: Sequence[str] = (),
    cwd: str | None = None,
    user: str | None = None,
    tty: tuple[int, int] | None = None,
    login: bool = False,
) -> bytes:
    items = [item(1, a if isinstance(a, bytes) else a.encode()) for a in argv]
    items += [item(2, e.encode()) for e in env]
    if cwd is not None:
        items.append(item(3, cwd.encode()))
    if user is not None:
        items.append(item(4, user.encode()))
    if tty is not None:
        items.append(item(5, struct.pack("<HH", *tty)))
    if login:
        items.append(item(6, b""))
    return message(EXEC, b"".join(items))


def frame(kind: int, channel: int, payload: bytes = b"", epoch: int = 0) -> bytes:
    head = b"BG" + struct.pack("<BBIII", kind, 0, channel, len(payload), epoch)
    return head + struct.pack("<I", zlib.crc32(head + payload)) + payload


@dataclass(repr=False)
class Result:
    """What a session said: `exit` is (kind, value), `error` is (code, text); one of the two is set at its end."""

    stdout: bytearray = field(default_factory=bytearray)
    stderr: bytearray = field(default_factory=bytearray)
    pid: int | None = None
    exit: tuple[int, int] | None = None
    error: tuple[int, str] | None = None

    def __repr__(self) -> str:
        """Short: megabytes of output help nobody in a failed test's message."""
        streams = (
            f"{len(self.stdout)} bytes {bytes(self.stdout[-200:])!r}, stderr {bytes(self.stderr[-200:])!r}"
        )
        return f"<{streams}, pid {self.pid}, exit {self.exit}, error {self.error}>"


class Session:
    """A session over a connected socket. Reads block for at most `timeout` seconds."""

    def __init__(self, sock: socket.socket, timeout: float = 45) -> None:
        self.sock = sock
        self.sock.settimeout(timeout)
        self.timeout = timeout
        self.result = Result()
        self.credit = 0
        self.buffer = bytearray()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Every message until the guest closes the channel."""
        while True:
            while len(self.buffer) >= 8:
                kind, length = struct.unpack_from("<II", self.buffer)
                if len(self.buffer) < 8 + length:
                    break
                payload = bytes(self.buffer[8 : 8 + length])
                del self.buffer[: 8 + length]
                self.take(kind, payload)
                yield kind, payload
            data = self.sock.recv(1 << 18)
            if not data:
                assert not self.buffer, "the channel ended in the middle of a message"
                return
            self.buffer += data

    def take(self, kind: int, payload: bytes) -> None:
        assert self.result.exit is None, "a message after the last one"
        assert self.result.error is None, "a message after the last one"
        match kind:
            case 16:
                (self.result.pid,) = struct.unpack("<I", payload)
            case 17:
                self.result.stdout += payload
            case 18:
                self.result.stderr += payload
            case 19:
                kind_, value = struct.unpack("<II", payload)
                self.result.exit = (kind_, value)
            case 20:
                self.result.error = (struct.unpack_from("<I", payload)[0], payload[4:].decode())
            case 21:
                self.credit += struct.unpack("<I", payload)[0]
            case _:
                raise AssertionError(f"unknown message {kind}")

    def wait_for(self, kind: int) -> bytes:
        for got, payload in self.messages():
            if got == kind:
                return payload
        raise AssertionError(f"the session ended without message {kind}: {self.result}")

    def read_until(self, text: bytes) -> None:
        """Until `text` has appeared in stdout."""
        while text not in self.result.stdout:
            self.wait_for(STDOUT)

    def finish(self) -> Result:
        for _ in self.messages():
            pass
        return self.result

    def run(self, request: bytes, stdin: bytes = b"") -> Result:
        """The whole session: `stdin` is sent as it is credited, then its end."""
        pending = memoryview(stdin)
        out = bytearray(request)
        ended = False
        deadline = time.monotonic() + self.timeout
        self.sock.setblocking(False)
        while True:
            if not out and not ended and (pending or self.result.pid):
                chunk = pending[: min(self.credit, 65536)]
                if chunk or not pending:
                    out += message(STDIN, bytes(chunk))
                    self.credit -= len(chunk)
                    pending = pending[len(chunk) :]
                    ended = not chunk
            readable, writable, _ = select.select(
                [self.sock], [self.sock] if out else [], [], max(0.0, deadline - time.monotonic())
            )
            assert readable or writable, f"nothing happened in time: {self.result}"
            if writable:
                try:
                    del out[: self.sock.send(out)]
                except (BrokenPipeError, ConnectionResetError):
                    out.clear()  # the session has ended; what it said is still to be read
                    ended = True
            if readable:
                data = self.sock.recv(1 << 18)
                if not data:
                    assert not self.buffer, "the channel ended in the middle of a message"
                    return self.result
                self.buffer += data
                while len(self.buffer) >= 8:
                    kind, length = struct.unpack_from("<II", self.buffer)
                    if len(self.buffer) < 8 + length:
                        break
                    self.take(kind, bytes(self.buffer[8 : 8 + length]))
                    del self.buffer[: 8 + length]

    def close(self) -> None:
        self.sock.close()


def connect(path: Path, timeout: float = 45) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(timeout)
    try:
        sock.connect(str(path))
    except BaseException:
        sock.close()
        raise
    return sock


def read_line(sock: socket.socket) -> str:
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = sock.recv(1)
        if not byte:
            break
        line += byte
    return line.decode()


class Shim:
    """A running shim in `folder`, whose VMM is `vmm` (default: the guest program as a plain process)."""

    def __init__(
        self,
        binary: Path,
        folder: Path,
        vmm: Sequence[str | Path],
        *options: str,
        channel: str = "fd",
        **popen: object,
    ) -> None:
        self.folder = folder
        argv = [binary, "--dir", folder, "--channel", channel, *options, "--", *vmm]
        self.process = subprocess.Popen([str(a) for a in argv], **popen)  # type: ignore[call-overload]
        self.open: list[socket.socket] = []

    def path(self, name: str) -> Path:
        return self.folder / name

    def wait_socket(self, name: str, timeout: float = 10) -> socket.socket:
        """Connects as soon as the shim listens."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                sock = connect(self.path(name))
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.005)  # nothing tells when a socket file appears
                continue
            self.open.append(sock)
            return sock

    def control(self, line: str) -> str:
        with self.wait_socket("control.sock") as sock:
            sock.sendall(line.encode() + b"\n")
            return read_line(sock)

    def status(self) -> dict[str, str]:
        return dict(word.split("=", 1) for word in self.control("STATUS").split())

    def wait_state(self, state: str) -> None:
        """Until the VM is in `state`; fails when it ends first."""
        with self.wait_socket("control.sock") as sock:
            sock.sendall(b"WATCH\n")
            while f"state={state} " not in (line := read_line(sock)):
                assert line, f"the shim ended before the state was {state}"

    def session(self, port: int = 1) -> Session:
        sock = self.wait_socket("guest.sock")
        sock.sendall(b"CONNECT %d\n" % port)
        answer = read_line(sock)
        assert answer.startswith("OK "), answer
        return Session(sock)

    def run(self, *argv: str, stdin: bytes = b"", **options: object) -> Result:
        session = self.session()
        try:
            return session.run(exec_message(argv, **options), stdin)  # type: ignore[arg-type]
        finally:
            session.close()

    def wait(self, timeout: float = 20) -> int:
        return self.process.wait(timeout)

    def record(self) -> dict[str, str]:
        return dict(word.split("=", 1) for word in self.path("exit").read_text().split())

    def close(self) -> None:
        """Ends everything; safe to call twice."""
        for sock in self.open:
            sock.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(10)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()


def process_state(pid: int) -> str:
    """The state letter of a process, or "" if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_gone(pid: int, timeout: float = 10) -> None:
    """Until `pid` has ended (a zombie has)."""
    deadline = time.monotonic() + timeout
    while process_state(pid) not in ("", "Z"):
        assert time.monotonic() < deadline, f"process {pid} still runs"
        time.sleep(0.01)  # it is nobody's child here: nothing to wait on


def pass_fd(fd: int) -> str:
    os.set_inheritable(fd, True)
    return str(fd)
