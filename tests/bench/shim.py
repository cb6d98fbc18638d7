"""A shim's sockets, spoken to as root: wait until its guest is ready, and run a command there."""

import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from banger import messages
from bangerd.host.shims import parse_status
from tests.bench.cpu import used_ms
from tests.bench.guest import inside

PATIENCE_S = 120.0
POLL_S = 0.002


@dataclass(frozen=True, slots=True)
class Boot:
    """Seconds since the epoch; and the VMM's CPU time until its guest was ready, in milliseconds."""

    spawned: float  # the shim has started the VMM
    configured: float  # the VMM has made its devices' sockets
    ready: float  # the guest program has set the guest up, and takes sessions
    cpu: float
    guest: dict[str, float] = field(default_factory=dict)  # inside it, as its program told on the console


def appears(folder: Path, pattern: str) -> Path:
    """Return the first path below `folder` that fits, as soon as there is one. Raises RuntimeError."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := next(folder.glob(pattern), None)) is None:
        if time.monotonic() > deadline:
            raise RuntimeError(f"no {pattern} appears in {folder}")
        time.sleep(POLL_S)
    return found


def watch(folder: Path) -> Boot:
    """Follow the shim of this run folder until its guest is ready. Raises RuntimeError if it ends before."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(folder / "control.sock"))
        sock.sendall(b"WATCH\n")
        with sock.makefile("r", encoding="ascii") as lines:
            for line in lines:
                now = time.time()
                status = parse_status(line)
                if status.ready:
                    return _boot(folder, now, status.timings_ms, used_ms(_vmm(line)))
    raise RuntimeError(f"the guest of {folder} ended before it was ready")


def _vmm(status: str) -> int:
    found = re.search(r"\bvmm=(\d+)", status)
    if found is None:
        raise RuntimeError(f"the shim does not say which process the VMM is: {status}")
    return int(found[1])


def _boot(folder: Path, now: float, timings: dict[str, int], cpu: float) -> Boot:
    start = now - timings["ready"] / 1000
    # Made when the VMM has read what its machine shall be, and before it starts that.
    (made,) = (path for path in (folder / "qmp.sock", folder / "vsock.sock") if path.is_socket())
    told = inside((folder / "console.log").read_text(errors="replace"))
    return Boot(start + timings["spawn"] / 1000, made.lstat().st_ctime, now, cpu, told)


def last_of_session(kind: int, payload: bytes, out: bytearray, argv: Sequence[str]) -> bool:
    """Take a message of the guest's; true for the command's good end. Raises RuntimeError when it fails."""
    if kind == messages.STDOUT:
        out += payload
    if kind == messages.ERROR or (kind == messages.EXIT and payload != bytes(8)):
        raise RuntimeError(f"{' '.join(argv)} failed in the guest: {payload!r}")
    return kind == messages.EXIT


def execute(folder: Path, *argv: str) -> bytes:
    """Run a command in the guest; what it wrote to its standard output. Raises RuntimeError when it fails."""
    out = bytearray()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(folder / "guest.sock"))
        sock.sendall(b"CONNECT 1\n" + messages.encode(messages.Command(argv)))
        with sock.makefile("rb") as stream:
            answer = stream.readline(1024)
            if not answer.startswith(b"OK "):
                raise RuntimeError(f"the shim takes no session: {answer!r}")
            while header := stream.read(messages.HEADER.size):
                kind, length = messages.HEADER.unpack(header)
                payload = stream.read(length)
                if last_of_session(kind, payload, out, argv):
                    return bytes(out)
    raise RuntimeError("the session broke off")
