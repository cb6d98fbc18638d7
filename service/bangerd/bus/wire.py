"""Messages as bytes: headers read before any body is, bodies read within a budget.

dbus-next 0.2.3 unmarshals whatever arrives, knows only nine header fields and keeps every signature that it has
ever seen. What comes here was written by any user of the machine.
"""

import io
import struct
from dataclasses import dataclass
from typing import Any

from dbus_next._private.unmarshaller import Unmarshaller
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import SignatureTree

FIXED = 16  # bytes that say how long the rest is
MAX_MESSAGE = 256 * 1024
MAX_VALUES = 2048  # a variant of one byte costs four bytes on the wire, but 300 in memory and 10 µs
MAX_SIGNATURES = 1024

# Code and type of the header fields that we know; others are passed over.
_FIELDS = {
    (1, "o"): "path",
    (2, "s"): "interface",
    (3, "s"): "member",
    (4, "s"): "error_name",
    (5, "u"): "reply_serial",
    (6, "s"): "destination",
    (7, "s"): "sender",
    (8, "g"): "signature",
    (9, "u"): "unix_fds",
}


class Malformed(Exception):
    """Bytes that no bus daemon passes on."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """From the first 16 bytes: lengths of the whole header (padding included) and of the body."""

    header: int
    body: int


@dataclass(slots=True)
class Header:
    """A message's header. Absent fields are empty."""

    kind: int  # 1 call, 2 return, 3 error, 4 signal; others are to be ignored
    flags: int
    serial: int
    body_length: int
    little: bool
    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    reply_serial: int = 0
    destination: str = ""
    sender: str = ""
    signature: str = ""
    unix_fds: int = 0

    @property
    def interactive(self) -> bool:
        return bool(self.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)

    @property
    def wants_reply(self) -> bool:
        return self.kind == MessageType.METHOD_CALL.value and not self.flags & MessageFlag.NO_REPLY_EXPECTED


class _SignatureCache(dict[str, SignatureTree]):
    """Callers choose the signatures of variants: forget all before there are too many."""

    def __setitem__(self, key: str, value: SignatureTree) -> None:
        if len(self) >= MAX_SIGNATURES:
            self.clear()
        super().__setitem__(key, value)


SignatureTree._cache = _SignatureCache()  # noqa: SLF001  # dbus-next 0.2.3 has no other way to bound it


def sizes(fixed: bytes) -> Sizes:
    """Raises Malformed if these 16 bytes begin no message."""
    if fixed[0] not in b"lB" or fixed[3] != 1:
        raise Malformed("no D-Bus message of protocol version 1")
    order = "<" if fixed[0] == ord("l") else ">"
    body, _, fields = struct.unpack_from(order + "III", fixed, 4)
    return Sizes(header=FIXED + fields + (-fields % 8), body=body)


def parse_header(data: bytes) -> Header:
    """Read a whole header (`Sizes.header` bytes). Unknown fields are passed over. Raises Malformed."""
    little = data[0] == ord("l")
    order = "<" if little else ">"
    body, serial, length = struct.unpack_from(order + "III", data, 4)
    header = Header(data[1], data[2], serial, body, little)
    reader = _Body(data, FIXED, little=little)
    try:
        while reader.offset < FIXED + length:
            reader.align(8)
            code = reader.read_byte()
            signature = reader.read_signature()
            value = reader.read_one(signature)
            if (code, signature) in _FIELDS:
                setattr(header, _FIELDS[code, signature], value)
    except Malformed:
        raise
    except Exception as exc:  # whatever dbus-next meets in bytes that it did not expect
        raise Malformed(f"header: {type(exc).__name__}: {exc}") from exc
    return header


def parse_body(header: Header, data: bytes) -> list[Any]:
    """Read the body of a whole message. Descriptors stay indexes. Raises Malformed, also beyond MAX_VALUES values."""
    if not header.body_length:
        return []
    reader = _Body(data, len(data) - header.body_length, little=header.little)
    try:
        return [reader.read_argument(type_) for type_ in SignatureTree._get(header.signature).types]  # noqa: SLF001
    except Malformed:
        raise
    except Exception as exc:
        raise Malformed(f"body: {type(exc).__name__}: {exc}") from exc


def message(kind: MessageType, **fields: Any) -> Message:
    """dbus-next's message with those fields that are not empty."""
    return Message(message_type=kind, **{name: value for name, value in fields.items() if value})


def to_message(header: Header, body: list[Any]) -> Message:
    """The library's form of a reply to our own call, without descriptors."""
    return message(
        MessageType(header.kind),
        error_name=header.error_name,
        reply_serial=header.reply_serial,
        sender=header.sender,
        signature=header.signature,
        body=body,
        serial=header.serial,
    )


class _Body(Unmarshaller):
    """dbus-next's reader over bytes that are all here, with a budget of values."""

    def __init__(self, data: bytes, offset: int, *, little: bool) -> None:
        super().__init__(io.BytesIO())
        self.buf = bytearray(data)
        self.offset = offset
        self.endian = ord("l") if little else ord("B")
        self.left = MAX_VALUES

    def read_argument(self, type_: Any) -> Any:
        self.left -= 1
        if self.left < 0:
            raise Malformed(f"more than {MAX_VALUES} values in one message")
        return super().read_argument(type_)

    def read_one(self, signature: str) -> Any:
        (type_,) = SignatureTree._get(signature).types  # noqa: SLF001
        return self.read_argument(type_)
