"""Forgets the flows of an address that changes hands: replies to them are not for its next holder."""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

log = logging.getLogger(__name__)

_NETLINK_NETFILTER = 12
_GET, _DELETE = (1 << 8) | 1, (1 << 8) | 2
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_NESTED = 0x8000
_TUPLE_ORIG, _TUPLE_IP, _FILTER, _FILTER_ORIG_FLAGS = 1, 1, 25, 1
_ZONE = 18
_IP_V4_SOURCE, _COUNT_SOURCE = 1, 1 << 0
_HEADER = struct.Struct("=IHHII")


async def forget(address: str) -> None:
    """Delete all tracked flows that this IPv4 address began. In a thread: the kernel walks its whole table."""
    await asyncio.to_thread(_forget, address)


def _forget(address: str) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER) as sock:
        sock.bind((0, 0))
        try:
            # Kernels before 6.8 cannot delete by filter, only list by it.
            for flow in list(_dump(sock, address)):
                _ask(sock, _DELETE, _REQUEST | _ACK, flow)
                list(_answers(sock))
        except OSError as exc:
            # No connection tracking in the kernel, then no flows either; else the flow ends by its timeout.
            log.warning("cannot forget old flows of %s: %s", address, exc.strerror or exc)


def _dump(sock: socket.socket, address: str) -> Iterator[bytes]:
    """What identifies each flow of an address: its original tuple and zone, as attributes."""
    source = _attr(_IP_V4_SOURCE, IPv4Address(address).packed)
    wanted = _attr(_TUPLE_ORIG | _NESTED, _attr(_TUPLE_IP | _NESTED, source))
    only = _attr(_FILTER | _NESTED, _attr(_FILTER_ORIG_FLAGS, struct.pack("=I", _COUNT_SOURCE)))
    _ask(sock, _GET, _REQUEST | _DUMP, wanted + only)
    for body in _answers(sock):
        found = {kind & 0x3FFF: whole for kind, whole in _attrs(body[4:])}
        if _TUPLE_ORIG in found:
            yield found[_TUPLE_ORIG] + found.get(_ZONE, b"")


def _attr(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _attrs(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and whole bytes, padding included, of each attribute."""
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        whole = (length + 3) & ~3
        yield kind, data[:whole]
        data = data[whole:]


def _ask(sock: socket.socket, kind: int, flags: int, attributes: bytes) -> None:
    body = struct.pack("=BBH", socket.AF_INET, 0, 0) + attributes
    sock.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)


def _answers(sock: socket.socket) -> Iterator[bytes]:
    """Bodies of the answer's messages. Raises OSError with the kernel's error."""
    while True:
        data = sock.recv(1 << 16)
        while len(data) >= _HEADER.size:
            length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data)
            body = data[_HEADER.size : length]
            if kind == _ERROR:
                (code,) = struct.unpack_from("=i", body)
                if code not in {0, -2}:  # ENOENT: it ended by itself meanwhile
                    raise OSError(-code, os.strerror(-code))
                return
            if kind == _DONE:
                return
            yield body
            data = data[(length + 3) & ~3 :]
