"""Messages of a session between client and guest: docs/guest-protocol.md, "Session messages"."""

import os
import struct
from dataclasses import dataclass

from banger.errors import RUN_FAILED, Failure, UsageError

EXEC, STDIN, SIGNAL, WINSIZE = 1, 2, 3, 4
STARTED, STDOUT, STDERR, EXIT, ERROR, STDIN_CREDIT = 16, 17, 18, 19, 20, 21

HEADER = struct.Struct("<B3xI")  # type, length of the payload
U32 = struct.Struct("<I")
MAX_PAYLOAD = 65536
MAX_EXEC = 1024 * 1024

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
