"""The session protocol against guests that keep to it, and against those that do not."""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from banger.errors import UsageError
from banger.messages import Command, encode

TOP = Path(__file__).parents[2]
CLIENT = """
import os, sys
from banger.errors import Failure
from banger.messages import Command
from banger.session import run
before = len(os.listdir("/proc/self/fd"))
try:
    status = run(int(sys.argv[1]), Command(("true",)))
except Failure as exc:
    print(exc.code, "/", exc, file=sys.stderr)
    status = exc.status
assert len(os.listdir("/proc/self/fd")) == before - 1, os.listdir("/proc/self/fd")
sys.exit(status)
"""


def message(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack("<BBHI", kind, 0, 0, len(payload)) + payload


def items(data: bytes) -> list[tuple[int, bytes]]:
    kind, _, _, length = struct.unpack_from("<BBHI", data)
    assert (kind, length) == (1, len(data) - 8)
    found, at = [], 8
    while at < len(data):
        tag, size = struct.unpack_from("<HI", data, at)
        found.append((tag, data[at + 6 : at + 6 + size]))
        at += 6 + size
    return found


def test_exec_has_everything():
    command = Command(("ls", "-l", "ü\udcff"), ("A=b=c",), "/srv", "alice", (24, 80))
    assert items(encode(command)) == [
        (1, b"ls"), (1, b"-l"), (1, b"\xc3\xbc\xff"), (2, b"A=b=c"), (3, b"/srv"), (4, b"alice"),
        (5, struct.pack("<HH", 24, 80)),
    ]  # fmt: skip
    assert items(encode(Command())) == [(6, b"")]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (Command(("a\0b",)), "NUL"),
        (Command(("a",), ("A=\0",)), "NUL"),
        (Command(("a",), ("A",)), "NAME=value"),
        (Command(("a",), ("=b",)), "NAME=value"),
        (Command(("a",), workdir="srv"), "no absolute path"),
        (Command(("x" * 10_000_000,)), "too large"),
        (Command(("x",) * 200_000), "too large"),
    ],
)
def test_what_no_guest_could_run(command, said):
    with pytest.raises(UsageError) as caught:
        encode(command)
    assert said in f"{caught.value} {caught.value.hint}"
    assert caught.value.status == 2


def play(guest: Callable[[socket.socket], None], stdin: int = subprocess.DEVNULL) -> tuple[int, bytes, str]:
    """Let a client talk to `guest`; its status, output and errors."""
    ours, theirs = socket.socketpair()
    with ours, ThreadPoolExecutor(1) as thread:
        ours.settimeout(10)
        client = subprocess.Popen(
            [sys.executable, "-c", CLIENT, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=stdin,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(TOP / "client")},
        )  # fmt: skip
        theirs.close()
        playing = thread.submit(guest, ours)
        # The guest's end is closed when it has played its part.
        playing.add_done_callback(lambda _: ours.shutdown(socket.SHUT_RDWR))
        with client:
            try:
                out, err = client.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                client.kill()
                raise
        playing.result()
    return client.returncode, out, err.decode()


def receive(link: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = link.recv(count - len(data))
        assert more, data
        data += more
    return data


def take(link: socket.socket) -> tuple[int, bytes]:
    kind, _, _, length = struct.unpack("<BBHI", receive(link, 8))
    return kind, receive(link, length)


def test_output_in_pieces_and_the_status():
    def guest(link: socket.socket) -> None:
        assert take(link)[0] == 1
        data = message(16, struct.pack("<I", 7)) + message(17, b"out" * 9000) + message(18, b"err\n")
        for at in range(0, len(data), 1001):
            link.sendall(data[at : at + 1001])
        link.sendall(message(17, b"") + message(19, struct.pack("<II", 0, 9)))

    status, out, err = play(guest)
    assert (status, out) == (9, b"out" * 9000)
    assert err == "err\n"


def test_no_more_stdin_than_was_credited():
    seen: list[tuple[int, bytes]] = []

    def guest(link: socket.socket) -> None:
        take(link)
        link.settimeout(0.3)
        with pytest.raises(TimeoutError):
            link.recv(1)
        link.settimeout(10)
        for credit in (3, 4, 100):
            link.sendall(message(21, struct.pack("<I", credit)))
            seen.append(take(link))
        seen.append(take(link))
        link.sendall(message(19, struct.pack("<II", 0, 0)))

    ours, theirs = os.pipe()
    os.write(theirs, b"abcdefghij")
    os.close(theirs)
    assert play(guest, stdin=ours)[0] == 0
    os.close(ours)
    assert seen == [(2, b"abc"), (2, b"defg"), (2, b"hij"), (2, b"")]


@pytest.mark.parametrize(
    ("last", "status", "said"),
    [
        (message(19, struct.pack("<II", 1, 15)), 143, ""),
        (message(19, struct.pack("<II", 1, 4_000_000_000)), 255, ""),
        (message(19, struct.pack("<II", 0, 256)), 0, ""),
        (
            message(20, struct.pack("<I", 126) + b"x: permission denied"),
            126,
            "NotExecutable / x: permission denied",
        ),
        (message(20, struct.pack("<I", 127) + b"\xff\x1b[2J"), 127, "NotFound / "),
        (message(20, struct.pack("<I", 125) + b""), 125, "GuestFailed / the guest refused"),
        (message(20, struct.pack("<I", 0) + b"zero"), 125, "zero"),
        (message(20, b"x"), 125, "Protocol"),
        (message(19, b"1234"), 125, "Protocol"),
        (message(99, b""), 125, "Protocol"),
        (message(2, b"x"), 125, "Protocol"),
        (message(21, b"12345"), 125, "Protocol"),
        (struct.pack("<BBHI", 17, 0, 0, 65537), 125, "a message of 65537 bytes"),
        (b"\xff" * 100, 125, "Protocol"),
        (b"", 125, "GuestGone"),
        (message(17, b"x" * 100)[:50], 125, "GuestGone"),
    ],
)
def test_how_a_guest_can_end(last, status, said):
    def guest(link: socket.socket) -> None:
        take(link)
        link.sendall(message(17, b"before") + last)

    code, out, err = play(guest)
    assert (code, out) == (status, b"before")
    assert said in err


def test_output_is_whole_even_if_the_guest_is_gone():
    """What had arrived is written, also to a reader that is slow, before the failure is told."""

    def guest(link: socket.socket) -> None:
        take(link)
        link.sendall(message(17, b"y" * 65536) * 8)

    code, out, err = play(guest)
    assert (code, len(out)) == (125, 8 * 65536)
    assert "GuestGone" in err


def test_an_endless_credit_is_no_trouble():
    def guest(link: socket.socket) -> None:
        take(link)
        link.sendall(message(21, struct.pack("<I", 0xFFFFFFFF)) * 3 + message(19, struct.pack("<II", 0, 0)))

    assert play(guest)[0] == 0


OVERDUE = """
import sys
from banger import session
from banger.errors import Failure
from banger.messages import Command
session._TIMEOUT_STEPS = tuple((signum, 0.1) for signum, _ in session._TIMEOUT_STEPS)
try:
    session.run(int(sys.argv[1]), Command(("true",)), timeout_s=0.1)
except Failure as exc:
    print(exc, file=sys.stderr)
    sys.exit(exc.status)
"""


def test_a_command_that_outlasts_its_time_and_takes_no_notice():
    """SIGTERM, SIGKILL, each with SIGCONT for one that is stopped; a guest that does not even then end it is left."""
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(10)
        words = [sys.executable, "-c", OVERDUE, str(theirs.fileno())]
        env = {**os.environ, "PYTHONPATH": str(TOP / "client")}
        with subprocess.Popen(words, pass_fds=[theirs.fileno()], env=env, stderr=subprocess.PIPE) as client:
            theirs.close()
            assert items(ours.recv(4096))
            ours.sendall(message(16, struct.pack("<I", 7)))
            heard = b""
            while data := ours.recv(4096):
                heard += data
            _, said = client.communicate(timeout=10)
    signals = [message(3, struct.pack("<I", signum)) for signum in (15, 18, 9, 18)]
    assert heard == b"".join(signals)
    assert client.returncode == 124
    assert b"ran longer than 0.1 s and does not end" in said
