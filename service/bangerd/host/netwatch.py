"""Says when another program changed what banger's network rests on: routes, switches, its bridge, its rules.

Only message headers are looked at; what has become of things is asked afresh. Nothing polls.
"""

import asyncio
import errno
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

_NETLINK_ROUTE, _NETLINK_NETFILTER = 0, 12
_LINK, _IPV4_ADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV4_NETCONF, _NFTABLES = 1, 5, 7, 8, 24, 7
_NEWLINK, _DELLINK, _NEWADDR, _DELADDR, _NEWROUTE, _DELROUTE, _NEWRULE, _DELRULE = (
    16,
    17,
    20,
    21,
    24,
    25,
    32,
    33,
)
_NEWNETCONF = 80
_ALL_INTERFACES = -1
_NFT_SUBSYSTEM = 10
_NFT_NEWGEN = 15
# Types of nftables messages that tell of removal: table, chain, rule, set, set element.
_NFT_REMOVALS = frozenset({2, 5, 8, 11, 14})
_HEADER = struct.Struct("=IHHII")


@dataclass(slots=True)
class Seen:
    """What happened since the last look."""

    rules_lost: bool = False  # something of a table named banger was removed
    moved: bool = False  # routes, policy rules, forwarding switches, or the links followed

    def __bool__(self) -> bool:
        return self.rules_lost or self.moved


@dataclass(slots=True)
class Watch:
    """`changed` is called from the loop when there is something to look at; drain() tells what, and forgets it."""

    changed: Callable[[], None]
    table: str = "banger"
    _sockets: list[socket.socket] = field(default_factory=list)
    _bridge: int = 0
    _uplinks: frozenset[int] = frozenset()
    _seen: Seen = field(default_factory=Seen)

    def start(self) -> None:
        """Nothing if it watches already. Raises OSError."""
        if self._sockets:
            return
        groups = [_LINK, _IPV4_ADDR, _IPV4_ROUTE, _IPV4_RULE, _IPV4_NETCONF]
        for family, wanted in ((_NETLINK_ROUTE, groups), (_NETLINK_NETFILTER, [_NFTABLES])):
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
            self._sockets.append(sock)
            sock.settimeout(0)
            sock.bind((0, sum(1 << (group - 1) for group in wanted)))
            asyncio.get_running_loop().add_reader(sock, self._readable)

    def follow(self, bridge: int, uplinks: Collection[int]) -> None:
        """Which interface indexes matter from now on."""
        self._bridge = bridge
        self._uplinks = frozenset(uplinks)

    def close(self) -> None:
        for sock in self._sockets:
            asyncio.get_running_loop().remove_reader(sock)
            sock.close()
        self._sockets.clear()
        self._seen = Seen()

    def drain(self) -> Seen:
        """What has happened up to now, also what the loop has not come to yet."""
        self._read()
        seen, self._seen = self._seen, Seen()
        return seen

    def _readable(self) -> None:
        self._read()
        if self._seen:
            self.changed()

    def _read(self) -> None:
        for sock in self._sockets:
            while True:
                try:
                    data = sock.recv(1 << 16)
                except BlockingIOError:
                    break
                except OSError as exc:
                    if exc.errno != errno.ENOBUFS:
                        raise
                    self._seen = Seen(
                        rules_lost=True, moved=True
                    )  # there was more than the socket could hold
                    continue
                for kind, body in _messages(data):
                    if kind >> 8 == _NFT_SUBSYSTEM:
                        self._note_nft(kind & 0xFF, body)
                    elif self._matters(kind, body):
                        self._seen.moved = True

    def _note_nft(self, kind: int, body: bytes) -> None:
        # In all of nftables' messages the first attribute, behind four bytes, is the table's name.
        # Loading a ruleset removes, then adds; what ends with removing is another's work.
        if kind != _NFT_NEWGEN and body[8:].startswith(self.table.encode() + b"\0"):
            self._seen.rules_lost = kind in _NFT_REMOVALS

    def _matters(self, kind: int, body: bytes) -> bool:
        if kind in {_NEWROUTE, _DELROUTE}:
            family, length = body[0], body[1]
            return family == socket.AF_INET and length <= 1
        if kind in {_NEWRULE, _DELRULE}:
            return body[0] == socket.AF_INET
        if kind in {_NEWLINK, _DELLINK, _NEWADDR, _DELADDR}:
            (index,) = struct.unpack_from("=i", body, 4)
            return index in self._uplinks or (index == self._bridge and kind in {_DELLINK, _DELADDR})
        if kind == _NEWNETCONF:
            (index,) = struct.unpack_from("=i", body, 8)
            return index == _ALL_INTERFACES or index in self._uplinks
        return False


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3
