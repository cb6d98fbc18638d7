"""A client of any uid, written against the specification: it can send what no library would."""

import array
import asyncio
import os
import socket
import struct
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from tests.bus.rig import groups_of

NAME = "com.thaloco.Banger1"
ROOT = "/com/thaloco/Banger1"
ERRORS = NAME + ".Error."
STANDARD = "org.freedesktop.DBus.Error."
INTERACTIVE = MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION


CONNECT = """
import socket, sys
bus, test = socket.socket(socket.AF_UNIX), socket.socket(fileno=0)
bus.connect(sys.argv[1])
socket.send_fds(test, [b"x"], [bus.fileno()])
bus.close()
test.recv(1)
"""


class CallFailed(Exception):
    """An error reply."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name, self.text = name, text


@dataclass(slots=True)
class Reply:
    body: list[Any]
    fds: list[int]

    def close(self) -> None:
        while self.fds:
            os.close(self.fds.pop())


class Client:
    """One connection. `async with await Client.connect(address, uid)`."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.name = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._process_ends: socket.socket | None = None
        self.signals: list[Message] = []
        self.serve: Callable[[Message], None] = lambda _message: None  # calls to us
        self._serial = 0
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._news = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, address: str, uid: int, groups: Sequence[int] = ()) -> "Client":
        """`groups`: beside those that `uid` has anyway."""
        if uid != 0:
            # The bus believes the kernel, which remembers who connected; polkit 126 looks at that process, too.
            return await cls.connect_from_process(address, uid, groups)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(address.removeprefix("unix:path="))
        return await cls._begin(sock, uid)

    @classmethod
    async def connect_from_process(cls, address: str, uid: int, groups: Sequence[int] = ()) -> "Client":
        """The socket was connected by a process of that user's own, `process`, which lives as long as the client."""
        ours, theirs = socket.socketpair()
        argv = ["/usr/bin/python3", "-I", "-S", "-c", CONNECT, address.removeprefix("unix:path=")]
        all_groups = [*groups_of(uid), *groups]
        process = subprocess.Popen(argv, stdin=theirs, user=uid, group=uid, extra_groups=all_groups, cwd="/")
        theirs.close()
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        client = await cls._begin(socket.socket(fileno=fd), uid)
        client.process, client._process_ends = process, ours
        return client

    @classmethod
    async def _begin(cls, sock: socket.socket, uid: int) -> "Client":
        sock.setblocking(False)
        client = cls(sock)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, b"\0AUTH EXTERNAL " + str(uid).encode().hex().encode() + b"\r\n")
        assert (await client._line()).startswith(b"OK")
        await loop.sock_sendall(sock, b"NEGOTIATE_UNIX_FD\r\n")
        assert await client._line() == b"AGREE_UNIX_FD"
        await loop.sock_sendall(sock, b"BEGIN\r\n")
        client.listen()
        client.name = (await client.driver("Hello")).body[0]
        return client

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.deafen()
        self.sock.close()
        if self.process is not None and self._process_ends is not None:
            self._process_ends.close()
            self.process.wait(10)
        for message in self.signals:
            for fd in message.unix_fds:
                os.close(fd)

    def listen(self) -> None:
        self._reader = asyncio.create_task(self._read())

    async def deafen(self) -> None:
        """Read nothing more."""
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait({self._reader})
            self._reader = None

    async def _line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            line += await asyncio.get_running_loop().sock_recv(self.sock, 1)
        return line[:-2]

    async def _read(self) -> None:
        while True:
            message = await self._message()
            if message.message_type is MessageType.SIGNAL:
                self.signals.append(message)
                self._news.set()
            elif message.message_type is MessageType.METHOD_CALL:
                self.serve(message)
            elif message.reply_serial in self._waiting:
                self._waiting.pop(message.reply_serial).set_result(message)

    async def _message(self) -> Message:
        fds: list[int] = []
        data = await self._exactly(16, fds)
        body, _, fields = struct.unpack_from("<III", data, 4)
        data += await self._exactly(fields + (-fields % 8) + body, fds)
        reader = Unmarshaller(_Stream(data))
        message = reader.unmarshall()
        message.unix_fds = fds
        return message  # type: ignore[no-any-return]

    async def _exactly(self, count: int, fds: list[int]) -> bytes:
        data = b""
        loop = asyncio.get_running_loop()
        while len(data) < count:
            try:
                piece, control, _, _ = self.sock.recvmsg(count - len(data), socket.CMSG_SPACE(64 * 4))
            except BlockingIOError:
                ready = loop.create_future()
                loop.add_reader(self.sock, lambda ready=ready: ready.done() or ready.set_result(None))
                try:
                    await ready
                finally:
                    loop.remove_reader(self.sock)
                continue
            for _, _, value in control:
                got = array.array("i")
                got.frombytes(value)
                fds.extend(got)
            if not piece:
                raise ConnectionResetError("the bus closed the connection")
            data += piece
        return data

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial

    def message(
        self, path: str, interface: str, member: str, signature: str = "", body: Any = (), **more: Any
    ) -> Message:
        more.setdefault("destination", NAME)
        return Message(
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=list(body),
            serial=self.next_serial(),
            **more,
        )

    async def send(
        self, message: Message, fds: list[int] | tuple[int, ...] = ()
    ) -> "asyncio.Future[Message]":
        """Send a message; the future is its reply. The descriptors stay the caller's."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[message.serial] = future
        message.unix_fds = list(fds)
        await self.send_bytes(bytes(message._marshall(negotiate_unix_fd=True)), fds)
        return future

    async def send_bytes(self, data: bytes, fds: list[int] | tuple[int, ...] = ()) -> None:
        loop = asyncio.get_running_loop()
        if fds:
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            data = data[self.sock.sendmsg([data], control) :]
        await loop.sock_sendall(self.sock, data)

    async def ask(
        self, message: Message, fds: list[int] | tuple[int, ...] = (), timeout_s: float = 20
    ) -> Reply:
        """Raises CallFailed, TimeoutError."""
        future = await self.send(message, fds)
        async with asyncio.timeout(timeout_s):
            answer = await future
        if answer.message_type is MessageType.ERROR:
            raise CallFailed(answer.error_name, answer.body[0])
        return Reply(answer.body, answer.unix_fds)

    async def driver(self, member: str, signature: str = "", body: Any = ()) -> Reply:
        bus = "org.freedesktop.DBus"
        return await self.ask(
            self.message("/org/freedesktop/DBus", bus, member, signature, body, destination=bus)
        )

    async def call(
        self,
        path: str,
        member: str,
        signature: str = "",
        *body: Any,
        interactive: bool = False,
        fds: list[int] | tuple[int, ...] = (),
    ) -> list[Any]:
        """Call "Interface.Member" of banger's; the body of the reply. Raises CallFailed."""
        interface, _, name = member.rpartition(".")
        flags = INTERACTIVE if interactive else MessageFlag.NONE
        reply = await self.ask(
            self.message(path, f"{NAME}.{interface}", name, signature, body, flags=flags), fds
        )
        assert not reply.fds
        return reply.body

    async def manager(self, member: str, signature: str = "a{sv}", *body: Any, **more: Any) -> list[Any]:
        return await self.call(
            ROOT, f"Manager.{member}", signature, *(body or ({},) * bool(signature)), **more
        )

    async def open(self, path: str, member: str) -> int:
        """Call a method of VM that returns a descriptor."""
        reply = await self.ask(self.message(path, f"{NAME}.VM", member, "a{sv}", [{}]))
        assert reply.body == [0]
        (fd,) = reply.fds
        return fd

    async def properties(self, path: str, interface: str) -> dict[str, Any]:
        message = self.message(
            path, "org.freedesktop.DBus.Properties", "GetAll", "s", [f"{NAME}.{interface}"]
        )
        return plain((await self.ask(message)).body[0])  # type: ignore[no-any-return]

    async def subscribe(self, rule: str = f"type='signal',sender='{NAME}'") -> None:
        await self.driver("AddMatch", "s", [rule])

    async def heard(self, member: str, *body: Any) -> None:
        """Return when a signal has come. Raises TimeoutError."""
        async with asyncio.timeout(10):
            while not any(m.member == member and m.body[: len(body)] == list(body) for m in self.signals):
                self._news.clear()
                await self._news.wait()

    async def create(self, name: str, *, wait: bool = True, **options: Variant) -> tuple[str, str]:
        """Create a VM and wait for the job's end; paths of VM and job."""
        vm, job = await self.manager("CreateVM", "sa{sv}", name, options)
        if wait:
            await self.done(job)
        return vm, job

    async def done(self, job: str) -> dict[str, Any]:
        """Wait for a job's end, and describe it."""
        await self.subscribe()
        while (facts := plain((await self.call(job, "Job.Describe", "a{sv}", {}))[0]))["state"] == "running":
            await self.heard("JobRemoved", job)
        return facts  # type: ignore[no-any-return]


class _Stream:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, count: int) -> bytes:
        piece, self._data = self._data[:count], self._data[count:]
        return piece


def plain(value: Any) -> Any:
    """Without variants."""
    if isinstance(value, Variant):
        return plain(value.value)
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return value
