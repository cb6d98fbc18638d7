"""A connection of its own to one other service of the bus: calls to it, and its signals.

Any user may send a signal straight to a connection, with descriptors and megabytes in it. So what does not come
from the service that was chosen is passed over unread, from its header.
"""

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from dbus_next.message import Message

from bangerd.bus.connection import DRIVER, Connection, Lost, Peer
from bangerd.bus.wire import Header, parse_body

Listener = Callable[[str, str, str, list[Any]], None]  # path, interface, member, body
_SIGNAL = 4


class _NoCalls:
    """Nothing is offered here."""

    def refusal(self, header: Header, size: int) -> Message | None:
        raise NotImplementedError  # never asked: _One refuses first

    def call(self, header: Header, data: bytes | None, fds: list[int]) -> None:
        for fd in fds:
            os.close(fd)


class _One(Connection):
    """Listens to the bus driver and to one unique name."""

    def __init__(self, address: str, name: str, listener: Listener) -> None:
        super().__init__(address, _NoCalls())
        self.peer_name = name
        self.peer_owner = ""
        self._listener = listener

    def driver_says(self, member: str, body: list[Any]) -> None:
        if member == "NameOwnerChanged" and body[0] == self.peer_name:
            self.peer_owner = body[2]

    def _refuse(self, header: Header, size: int) -> bool:
        if header.kind == _SIGNAL:
            return header.sender not in (DRIVER.name, self.peer_owner)
        return header.reply_serial == 0  # calls; replies only come from whom we asked

    def _signal(self, header: Header, data: bytes | None) -> None:
        if header.sender == DRIVER.name:
            super()._signal(header, data)
        elif data is not None:
            self._listener(header.path, header.interface, header.member, parse_body(header, data))


class Link:
    """Made by `open`. One connection, to the service `name`, which may restart meanwhile."""

    def __init__(self, connection: _One) -> None:
        self._connection = connection
        self.name = connection.peer_name

    @classmethod
    async def open(cls, address: str, name: str, listener: Listener) -> "Link":
        """Connect. Raises ConnectionError when there is no bus, or nobody of that name on it."""
        connection = _One(address, name, listener)
        link = cls(connection)
        try:
            await connection.open(connection.driver_says)
            await link.add_match(f"sender='{DRIVER.name}',member='NameOwnerChanged',arg0='{name}'")
            owner = await connection.ask(DRIVER, "GetNameOwner", "s", [name])
        except (Lost, TimeoutError) as exc:
            connection.close()
            raise ConnectionError(str(exc) or f"the bus does not answer for {name}") from exc
        connection.peer_owner = owner[0]
        return link

    async def call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        fds: Sequence[int] = (),
        timeout_s: float = 25.0,
    ) -> list[Any]:
        """The reply's body. `fds` stay the caller's. Raises DBusError, ConnectionError, TimeoutError."""
        peer = Peer(self.name, path, interface)
        copies: list[int] = []
        try:
            copies += [os.dup(fd) for fd in fds]
            return await self._connection.ask(
                peer, member, signature, list(body), fds=copies, timeout_s=timeout_s
            )
        except Lost as exc:
            raise ConnectionError(str(exc)) from exc

    async def add_match(self, rule: str) -> None:
        """Have the bus pass on signals that fit the rule. Raises DBusError, ConnectionError, TimeoutError."""
        try:
            await self._connection.ask(DRIVER, "AddMatch", "s", [f"type='signal',{rule}"])
        except Lost as exc:
            raise ConnectionError(str(exc)) from exc

    def remove_match(self, rule: str) -> None:
        """Take back an add_match, without waiting for it."""
        self._connection.tell(DRIVER, "RemoveMatch", "s", [f"type='signal',{rule}"])

    async def lost(self) -> None:
        """Return when the connection has ended."""
        await self._connection.lost()

    def close(self) -> None:
        with suppress(OSError):
            self._connection.close()
