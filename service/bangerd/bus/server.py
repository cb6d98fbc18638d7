"""com.thaloco.Banger1 on the bus: takes calls, has each judged and run, and answers it."""

import asyncio
import logging
import os
from dataclasses import dataclass
from functools import partial
from typing import Any

from dbus_next.constants import MessageType
from dbus_next.errors import DBusError
from dbus_next.message import Message

from bangerd.bus import names, standard
from bangerd.bus.clients import Clients
from bangerd.bus.connection import DRIVER, Connection, Lost
from bangerd.bus.core import Core
from bangerd.bus.errors import Refusal, reply_for
from bangerd.bus.export import Call, Method, enter
from bangerd.bus.image import ImageInterface
from bangerd.bus.job import JobInterface
from bangerd.bus.kernel import KernelInterface
from bangerd.bus.manager import Manager
from bangerd.bus.polkit import Authority
from bangerd.bus.signals import Signals
from bangerd.bus.tree import Tree
from bangerd.bus.vm import VMInterface
from bangerd.bus.wire import MAX_MESSAGE, Header, Malformed, message, parse_body
from bangerd.model.errors import BangerError, Canceled, HostNotReady

log = logging.getLogger(__name__)

DO_NOT_QUEUE = 4
PRIMARY_OWNER, ALREADY_OWNER = 1, 4
GONE = "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg2=''"


@dataclass(slots=True)
class _Visit:
    """A call from its arrival to its end, and what must be given back then, however it ends."""

    header: Header
    fds: list[int]
    descriptors: int
    call: Call | None = None  # once it is known who calls

    @property
    def undone(self) -> bool:
        """Nothing has been done yet: it can be broken off."""
        return self.call is None or self.call.asking


class Server:
    """The service's connection to the bus. `open()`, then `publish()`; `lost()` returns when the bus has gone."""

    def __init__(self, address: str, core: Core) -> None:
        """`address` of the bus: "unix:path=…". Raises HostNotReady."""
        try:
            self._connection = Connection(address, self)
        except ValueError as exc:
            raise HostNotReady(
                f"the bus address {address!r} cannot be used: {exc};"
                " give one like unix:path=/run/dbus/system_bus_socket"
            ) from exc
        self._address = address
        self._core = core
        self._clients = Clients(self._ask_uid, core.user_name)
        self._authority = Authority(self._connection)
        self._tree = Tree(
            Manager(core, self._authority),
            {
                "vm": VMInterface(core),
                "image": ImageInterface(core),
                "kernel": KernelInterface(core),
                "job": JobInterface(core),
            },
        )
        self._serving: dict[asyncio.Task[None], _Visit] = {}
        self._signals: Signals | None = None
        self._closing = False

    async def open(self) -> None:
        """Say Hello and hear of connections that end. Raises HostNotReady."""
        try:
            await self._connection.open(self._on_signal)
            await self._driver("AddMatch", "s", [GONE])
        except (Lost, DBusError, TimeoutError) as exc:
            raise self._unserved(exc) from exc
        self._signals = Signals(self._core, self._connection.send)

    async def publish(self) -> None:
        """Own the name: from here on calls arrive. Raises HostNotReady."""
        try:
            (result,) = await self._driver("RequestName", "su", [names.BUS_NAME, DO_NOT_QUEUE])
        except DBusError as exc:
            raise HostNotReady(
                f"the bus does not let us own {names.BUS_NAME}: {exc}; bangerd runs as root, and its bus policy"
                " com.thaloco.Banger1.conf must be installed"
            ) from exc
        except (Lost, TimeoutError) as exc:
            raise self._unserved(exc) from exc
        if result not in (PRIMARY_OWNER, ALREADY_OWNER):
            raise HostNotReady(
                f"another bangerd{await self._rival()} serves {names.BUS_NAME} on this bus; stop it first"
                " (`systemctl stop banger`)"
            )

    def _unserved(self, exc: Exception) -> HostNotReady:
        return HostNotReady(
            f"the message bus at {self._address} does not serve us: {str(exc) or type(exc).__name__};"
            " `systemctl start dbus` starts the system's, --bus-address names another"
        )

    async def lost(self) -> None:
        """Return when the connection to the bus has ended."""
        await self._connection.lost()

    async def close(self, grace_s: float = 5.0) -> None:
        """Take no more calls, let those under way end for `grace_s` seconds, and leave the bus."""
        self._closing = True
        if self._signals is not None:
            self._signals.close()
        for task, visit in list(self._serving.items()):
            if visit.undone:
                task.cancel()
        if self._serving:
            await asyncio.wait(self._serving, timeout=grace_s)
        for task in list(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        try:
            async with asyncio.timeout(grace_s):
                await self._connection.drained()
        except TimeoutError:
            log.warning("the bus did not take all answers")
        self._connection.close()

    # Screen: called by the connection

    def refusal(self, header: Header, size: int) -> Message | None:
        """Judge a call by its header alone."""
        try:
            self._screen(header, size)
        except (Refusal, BangerError) as exc:
            return reply_for(header, exc)
        return None

    def call(self, header: Header, data: bytes | None, fds: list[int]) -> None:
        """Serve a whole call."""
        if data is None:
            self._reply_error(
                header, Refusal("LimitsExceeded", "bangerd has too many files open; try again later")
            )
            return
        self._clients.arrived(header.sender)
        visit = _Visit(header, fds, len(fds))
        task = asyncio.create_task(self._serve(visit, data), name=f"{header.member} for {header.sender}")
        self._serving[task] = visit
        task.add_done_callback(self._served)

    def _screen(self, header: Header, size: int) -> None:
        if self._closing:
            raise Canceled("bangerd is shutting down; call again")
        if size > MAX_MESSAGE:
            raise Refusal("LimitsExceeded", f"a message of {size} bytes; up to {MAX_MESSAGE} are taken")
        takes, descriptors = self._declared(header)
        if header.signature != takes:
            raise Refusal("InvalidArgs", f"{header.member} takes ({takes}), not ({header.signature})")
        if header.unix_fds > descriptors:
            raise Refusal(
                "InvalidArgs",
                f"{header.member} takes {descriptors or 'no'} descriptors, not {header.unix_fds}",
            )
        self._clients.check_room(header.sender)

    def _declared(self, header: Header) -> tuple[str, int]:
        """Signature of the called method, and how many descriptors it takes."""
        signature = standard.SIGNATURES.get((header.interface, header.member))
        if signature is not None:
            return signature, 0
        method = self._tree.method(header.path, header.interface, header.member).method
        return method.signature, method.descriptors

    # serving

    async def _serve(self, visit: _Visit, data: bytes) -> None:
        header = visit.header
        try:
            caller = await self._clients.caller(header.sender)
        except (DBusError, Lost, TimeoutError) as exc:
            log.info("%s left before its call was served: %s", header.sender, exc)
            return
        try:
            self._clients.enter(caller.uid, visit.descriptors)
            visit.call, visit.fds = Call(header, caller, list(visit.fds)), []
            await self._run(visit.call, data)
        except Exception as exc:  # noqa: BLE001  # whatever it is, the caller gets one sentence
            self._reply_error(header, exc)

    async def _run(self, call: Call, data: bytes) -> None:
        header = call.header
        try:
            body = parse_body(header, data)
        except Malformed as exc:
            raise Refusal("InvalidArgs", str(exc)) from None
        turn = partial(self._clients.turn, call.uid)
        if (header.interface, header.member) in standard.SIGNATURES:
            async with turn():
                signature, values = standard.answer(self._tree, header, body)
            self._reply(header, signature, values, [])
            return
        place = self._tree.method(header.path, header.interface, header.member)
        result = await enter(self._authority, turn, place, call, body)
        self._reply_result(header, place.method, result)

    def _served(self, task: asyncio.Task[None]) -> None:
        """Also of a task that was cancelled before it ran at all."""
        visit = self._serving.pop(task)
        for fd in visit.fds:
            os.close(fd)
        self._clients.left(visit.header.sender)
        if visit.call is not None:
            visit.call.close()
            self._clients.leave(visit.call.uid, visit.descriptors)
        if task.cancelled():
            self._reply_error(
                visit.header, Canceled("bangerd broke the call off, it is shutting down; call again")
            )
        elif task.exception() is not None:
            log.error("serving a call met a bug", exc_info=task.exception())

    def _reply_result(self, header: Header, method: Method, result: Any) -> None:
        values = [] if not method.returns else [result] if len(method.returns) == 1 else list(result)
        fds = [value for value, arg in zip(values, method.returns, strict=True) if arg.type == "h"]
        for index, arg in enumerate(method.returns):
            if arg.type == "h":
                values[index] = fds.index(values[index])
        self._reply(header, method.reply_signature, values, fds)

    def _reply(self, header: Header, signature: str, values: list[Any], fds: list[int]) -> None:
        """Send a reply and its descriptors, which are closed here whatever happens."""
        if not header.wants_reply:
            for fd in fds:
                os.close(fd)
            return
        try:
            self._connection.send(
                message(
                    MessageType.METHOD_RETURN,
                    reply_serial=header.serial,
                    destination=header.sender,
                    signature=signature,
                    body=values,
                    unix_fds=fds,
                )
            )
        except Exception:
            for fd in fds:
                os.close(fd)
            raise

    def _reply_error(self, header: Header, exc: BaseException) -> None:
        if header.wants_reply:
            self._connection.send(reply_for(header, exc))

    # the bus itself

    async def _driver(self, member: str, signature: str, body: list[Any]) -> list[Any]:
        return await self._connection.ask(DRIVER, member, signature, body)

    async def _ask_uid(self, client: str) -> int:
        # Not GetConnectionCredentials: newer daemons add a pidfd to its answer.
        (uid,) = await self._driver("GetConnectionUnixUser", "s", [client])
        return int(uid)

    async def _rival(self) -> str:
        try:
            (pid,) = await self._driver("GetConnectionUnixProcessID", "s", [names.BUS_NAME])
        except (DBusError, Lost, TimeoutError):
            return ""
        return f" (process {pid})"

    def _on_signal(self, member: str, body: list[Any]) -> None:
        if member != "NameOwnerChanged" or not body[0].startswith(":"):
            return
        client = body[0]
        self._clients.gone(client)
        for task, visit in self._serving.items():
            if visit.header.sender == client and visit.undone:
                task.cancel()  # nobody waits for it any more
