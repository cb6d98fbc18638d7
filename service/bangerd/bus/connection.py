"""dbus-next's connection, made fit for callers that mean harm.

What it changes, all of it for dbus-next 0.2.3: calls go to a `Screen` from their header, before their body is read
or unmarshalled; every received descriptor has an owner that closes it; a full socket waits; calls end after a time;
replies count only when they come from whom they were asked of; nothing is exported through the library, which would
answer Properties and ObjectManager by itself.
"""

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.errors import AuthError, DBusError, InvalidAddressError
from dbus_next.message import Message

from bangerd.bus import names
from bangerd.bus.reader import Reader
from bangerd.bus.wire import Header, Malformed, message, parse_body, to_message
from bangerd.bus.writer import Writer

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 20.0
CALL_TIMEOUT_S = 20.0

Signals = Callable[[str, list[Any]], None]


@dataclass(frozen=True, slots=True)
class Peer:
    """Whom to call."""

    name: str
    path: str
    interface: str

    def fields(self, member: str, signature: str, body: list[Any]) -> dict[str, Any]:
        return {
            "destination": self.name,
            "path": self.path,
            "interface": self.interface,
            "member": member,
            "signature": signature,
            "body": body,
        }


DRIVER = Peer(names.DRIVER, "/org/freedesktop/DBus", names.DRIVER)


class Screen(Protocol):
    """Who decides about calls."""

    def refusal(self, header: Header, size: int) -> Message | None:
        """An error for a call whose body shall not be read; None to have it read."""

    def call(self, header: Header, data: bytes | None, fds: list[int]) -> None:
        """A whole call; `data` None: it was too much for this process. Takes the descriptors over."""


class Lost(Exception):
    """The bus ended the connection, or answered nothing."""


class Connection(MessageBus):
    """One connection to a message bus."""

    def __init__(self, address: str, screen: Screen) -> None:
        """`address` as in "unix:path=…". Raises ValueError for one that is not understood."""
        super().__init__(bus_address=address, negotiate_unix_fd=True)
        self._screen = screen
        self._out = Writer(self._sock, full=self._full, free=self._free, failed=self._finalize)
        self._writer = self._out  # type: ignore[assignment]  # connect() calls its schedule_write()
        self._reader = Reader(self._sock, refuse=self._refuse, deliver=self._deliver)
        self._answerers: dict[int, str] = {}  # serial of our call: whom it went to
        self._on_signal: Signals | None = None

    async def open(self, on_signal: Signals) -> None:
        """Connect, authenticate, say Hello. The bus's own signals go to `on_signal(member, body)`. Raises Lost."""
        self._on_signal = on_signal
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._loop.sock_connect(self._sock, self._socket_name)
                await self.connect()
        except TimeoutError:
            self._finalize(None)
            raise Lost(f"the bus did not answer within {CONNECT_TIMEOUT_S:.0f} s") from None
        except (OSError, AuthError) as exc:
            self._finalize(None)
            raise Lost(str(exc) or type(exc).__name__) from exc
        if not str(self.unique_name).startswith(":"):  # dbus-next takes the text of an error for a name
            self._finalize(None)
            raise Lost(f"the bus refused the connection: {self.unique_name}")

    async def ask(
        self,
        peer: Peer,
        member: str,
        signature: str,
        body: list[Any],
        *,
        fds: list[int] | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> list[Any]:
        """Call a method and return its reply's body; `fds` are handed over. Raises DBusError, Lost, TimeoutError."""
        serial = self.next_serial()
        reply: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()

        def done(answer: Message | None, _err: BaseException | None) -> None:
            if not reply.done():
                reply.set_result(answer)

        self._answerers[serial] = peer.name
        self._method_return_handlers[serial] = done
        try:
            fields = peer.fields(member, signature, body)
            self.send(message(MessageType.METHOD_CALL, **fields, serial=serial, unix_fds=fds))
            async with asyncio.timeout(timeout_s):
                answer = await reply
        finally:
            self._method_return_handlers.pop(serial, None)
            self._answerers.pop(serial, None)
        if answer is None:
            raise Lost("the connection to the bus is gone")
        if answer.message_type is MessageType.ERROR:
            text = answer.body[0] if answer.body and isinstance(answer.body[0], str) else ""
            raise DBusError(answer.error_name, text)
        return list(answer.body)

    def tell(self, peer: Peer, member: str, signature: str, body: list[Any]) -> None:
        """Call a method and want no reply."""
        fields = peer.fields(member, signature, body)
        self.send(message(MessageType.METHOD_CALL, **fields, flags=MessageFlag.NO_REPLY_EXPECTED))

    def send(self, msg: Message) -> "asyncio.Future[None]":  # type: ignore[override]  # as dbus-next does itself
        """Queue a message; its descriptors are handed over. The future is canceled if the message is dropped."""
        if not msg.serial:
            msg.serial = self.next_serial()
        sent: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._out.put(msg, sent)
        return sent

    async def drained(self) -> None:
        """Return when all messages are with the bus, or the connection has ended."""
        await self._out.drained()

    async def lost(self) -> None:
        """Return when the connection has ended."""
        with suppress(Exception):
            await asyncio.shield(self._disconnect_future)

    def close(self) -> None:
        """End the connection at once."""
        self._user_disconnect = True
        self._finalize(None)

    # From here on: what the library calls.

    def _setup_socket(self) -> None:
        """The library's own connects at once, and waits as long as that takes."""
        for transport, options in self._bus_address:
            if transport == "unix" and ("path" in options or "abstract" in options):
                self._socket_name = options.get("path") or "\0" + options["abstract"]
                self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self._sock.settimeout(0)
                self._stream = self._sock.makefile("rwb")
                self._fd = self._sock.fileno()
                return
        raise InvalidAddressError("it names no Unix socket")

    def _message_reader(self) -> None:
        try:
            self._reader.read()
        except (OSError, EOFError, Malformed) as exc:
            self._finalize(exc)

    def _refuse(self, header: Header, size: int) -> bool:
        """Whether this message's body shall be passed over unread."""
        if header.kind != MessageType.METHOD_CALL.value:
            return False
        refusal = self._screen.refusal(header, size)
        if refusal is not None and header.wants_reply:
            self.send(refusal)
        return refusal is not None

    def _deliver(self, header: Header, data: bytes | None, fds: list[int]) -> None:
        if header.kind == MessageType.METHOD_CALL.value:
            self._screen.call(header, data, fds)
            return
        for fd in fds:  # nothing that we ask for comes with descriptors, but newer daemons add a pidfd
            os.close(fd)
        try:
            if header.kind == MessageType.SIGNAL.value:
                self._signal(header, data)
            elif header.reply_serial in self._method_return_handlers:
                self._reply(header, data)
        except Malformed as exc:
            log.warning("a message from %s cannot be read: %s", header.sender, exc)

    def _signal(self, header: Header, data: bytes | None) -> None:
        ours = header.sender == names.DRIVER and header.interface == names.DRIVER
        if ours and data is not None and self._on_signal is not None:
            self._on_signal(header.member, parse_body(header, data))

    def _reply(self, header: Header, data: bytes | None) -> None:
        # The bus passes on replies only from whom a call went to, but its own name is cheap to check.
        if self._answerers.get(header.reply_serial) == names.DRIVER != header.sender:
            log.warning("%s answers a question that it was not asked", header.sender)
            return
        handler = self._method_return_handlers.pop(header.reply_serial)
        handler(None if data is None else to_message(header, parse_body(header, data)), None)

    def _full(self) -> None:
        log.warning("the bus takes our messages slowly; no further calls are read for now")
        self._loop.remove_reader(self._fd)

    def _free(self) -> None:
        if not self._disconnected:
            self._loop.add_reader(self._fd, self._message_reader)

    async def _auth_readline(self) -> str:
        """The library's own never ends when the bus closes the connection during authentication."""
        line = b""
        while not line.endswith(b"\r\n"):
            byte = await self._loop.sock_recv(self._sock, 1)
            if not byte or len(line) > 1024:
                raise AuthError("the bus closed the connection")
            line += byte
        return line[:-2].decode("ascii", "replace")

    def _finalize(self, err: BaseException | None = None) -> None:
        if self._disconnected:
            return
        if err is not None:
            log.error("the connection to the bus ended: %s", str(err) or type(err).__name__)
        self._reader.close()
        self._out.close()
        self._user_disconnect = True  # the future then gets a result, not an exception that nobody may fetch
        super()._finalize(err)
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        with suppress(OSError):
            self._stream.close()
        self._sock.close()
