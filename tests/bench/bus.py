"""What goes over the private bus while something is measured: dbus-monitor's timestamped profile, read and parsed."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from privatehost import PrivateHost

# A call that nobody else makes: once the monitor tells of it, it has told of everything before it.
LAST = "ListActivatableNames"


@dataclass(frozen=True, slots=True)
class Message:
    """`kind`: mc (call), mr (reply), err, sig. `reply_to`: the call's serial. `at`: seconds since the epoch."""

    kind: str
    at: float
    serial: int
    sender: str
    destination: str
    member: str = ""
    reply_to: int = 0


@contextmanager
def monitored(host: PrivateHost) -> Iterator[list[Message]]:
    """Yields a list that holds every message once the block has been left."""
    layout = host.layout
    # It stamps a message when it reads it, so it should not have to wait for a CPU.
    argv = [*layout.within, "nice", "-n", "-10", "dbus-monitor", "--address", layout.address, "--profile"]
    child = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=host.env,
    )
    assert child.stdout is not None
    messages: list[Message] = []
    with child, child.stdout:
        try:
            for line in child.stdout:
                # The bus tells a new monitor that it has lost its name: from here on it sees everything.
                if "NameLost" in line:
                    break
            yield messages
            host.call(LAST)
            for line in child.stdout:
                found = parse(line)
                if found is not None and found.member == LAST:
                    break
                if found is not None:
                    messages.append(found)
        finally:
            child.terminate()


def parse(line: str) -> Message | None:
    """None for a line that tells of no message."""
    fields = line.rstrip("\n").split("\t")
    match fields:
        case ["mc" | "sig" as kind, at, serial, sender, destination, _path, _interface, member]:
            return Message(kind, float(at), int(serial), sender, destination, member)
        case ["mr" | "err" as kind, at, serial, sender, destination, reply_to]:
            return Message(kind, float(at), int(serial), sender, destination, reply_to=int(reply_to))
        case _:
            return None
