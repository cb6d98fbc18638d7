"""Messages of a session between client and guest: docs/guest-protocol.md, "Session messages"."""

import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from banger.errors import RUN_FAILED, Failure, UsageError

EXEC, STDIN, SIGNAL, WINSIZE = 1, 2, 3, 4
STARTED, STDOUT, STDERR, EXIT, ERROR, STDIN_CREDIT = 16, 17, 18, 19, 20, 21

HEADER = struct.Struct("<B3xI")  # type, length of the payload
U32 = struct.Struct("<I")
MAX_PAYLOAD = 65536
MAX_EXEC = 1024 * 1024
_READ_SIZE = 256 * 1024

_ITEM = struct.Struct("<HI")  # tag, length


@dataclass(frozen=True, slots=True)
class Command:
    """What to run in the guest. No argv: the user's login shell. `tty`: rows and columns."""

    argv: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    workdir: str = ""
    user: str = ""
    tty: tuple[int, int] | None = None


def encode(command: Command) -> bytes:
    """The EXEC message. Raises UsageError for what no guest could run."""
    items: list[tuple[int, bytes]] = [(1, _text(word, "an argument")) for word in command.argv]
    for variable in command.env:
        if variable.find("=") < 1:
            raise UsageError(f"{variable[:80]!a} is no environment setting", hint="write it as NAME=value")
        items.append((2, _text(variable, "an environment variable")))
    if command.workdir:
        if not command.workdir.startswith("/"):
            raise UsageError(f"the working folder {command.workdir[:80]!a} is no absolute path")
        items.append((3, _text(command.workdir, "the working folder")))
    if command.user:
        items.append((4, _text(command.user, "the user's name")))
    if command.tty is not None:
        items.append((5, struct.pack("<HH", *command.tty)))
    if not command.argv:
        items.append((6, b""))
    payload = b"".join(_ITEM.pack(tag, len(value)) + value for tag, value in items)
    if len(payload) > MAX_EXEC:
        raise UsageError(
            f"command and environment are too large: {len(payload)} bytes together, and 1 MiB can be passed",
            hint="pass large data through standard input or a file",
        )
    return HEADER.pack(EXEC, len(payload)) + payload


def _text(value: str, what: str) -> bytes:
    if "\0" in value:
        raise UsageError(f"{what} contains a NUL byte, which no program can be given")
    return os.fsencode(value)


def broken(what: str) -> Failure:
    """The failure of a guest that sent `what`."""
    return Failure(
        "Protocol", "the guest does not keep to the protocol", why=f"it sent {what}", status=RUN_FAILED
    )


def refused(code: int, text: str) -> Failure:
    """The failure of an ERROR message."""
    names = {126: "NotExecutable", 127: "NotFound"}
    return Failure(
        names.get(code, "GuestFailed"),
        text or "the guest refused",
        status=code if code in names else RUN_FAILED,
    )


class Incoming:
    """What a guest sends, cut into messages. `ended` is set by whoever takes them, and by nonsense: then it stops."""

    def __init__(self, take: Callable[[int, memoryview], None]) -> None:
        self._data = bytearray()
        self._take = take
        self.ended: int | Failure | None = (
            None  # the command's status (128+n after signal n), or what came instead
        )

    def feed(self, data: bytes) -> None:
        """Hand on the messages that are whole now, those of the protocol's own end aside."""
        self._data += data
        at = 0
        with memoryview(self._data) as view:
            while len(view) - at >= HEADER.size and self.ended is None:
                kind, length = HEADER.unpack_from(view, at)
                if length > MAX_PAYLOAD:
                    self.ended = broken(f"a message of {length} bytes")
                    break
                end = at + HEADER.size + length
                if end > len(view):
                    break
                with view[at + HEADER.size : end] as payload:
                    self._message(kind, payload)
                at = end
        del self._data[:at]

    def receive(self, link: socket.socket, gone: str) -> None:
        """Read from the session once; `gone` is what is said when the guest is no longer there."""
        try:
            data = link.recv(_READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.feed(data)
        else:
            self.ended = Failure(
                "GuestGone",
                gone,
                why="it was powered off, stopped or crashed",
                hint="`banger vm list` shows its state, `banger vm logs NAME` its last words",
                status=RUN_FAILED,
            )

    def _message(self, kind: int, payload: memoryview) -> None:
        if kind == EXIT and len(payload) == 8:
            how, value = struct.unpack("<II", payload)
            self.ended = min(128 + value, 255) if how else value & 0xFF
        elif kind == ERROR and len(payload) >= 4:
            text = bytes(payload[4:]).decode("utf-8", "replace")
            self.ended = refused(U32.unpack_from(payload)[0], text)
        elif kind in (STDOUT, STDERR) or (kind in (STARTED, STDIN_CREDIT) and len(payload) == 4):
            self._take(kind, payload)
        else:
            self.ended = broken(f"message {kind} of {len(payload)} bytes")
