"""The link's two ends, each against hand-made frames: what a broken or hostile other side can and cannot do."""

import os
import random
import signal
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.native_protocol import (
    CLOSE,
    CLOSED,
    CONTROL,
    CREDIT,
    DATA,
    EOF,
    HELLO,
    OPEN,
    OPENED,
    STARTED,
    WELCOME,
    Shim,
    exec_message,
    frame,
    message,
    pass_fd,
    read_line,
    wait_gone,
)

PADDING = bytes(65556)


class Link:
    """Frames over a connected socket, which must be sound; skips nothing but zero bytes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sock.settimeout(20)
        self.buffer = bytearray()
        self.epoch = 0

    def send(self, kind: int, channel: int = 0, payload: bytes = b"", epoch: int | None = None) -> None:
        self.sock.sendall(frame(kind, channel, payload, self.epoch if epoch is None else epoch))

    def read(self) -> tuple[int, int, bytes]:
        """The next frame's type, channel and payload. Raises EOFError."""
        while True:
            start = len(self.buffer) - len(self.buffer.lstrip(b"\0"))
            del self.buffer[:start]
            if len(self.buffer) >= 20:
                kind, _, channel, length, epoch, crc = struct.unpack_from("<xxBBIIII", self.buffer)
                if len(self.buffer) >= 20 + length:
                    payload = bytes(self.buffer[20 : 20 + length])
                    assert crc == zlib.crc32(bytes(self.buffer[:16]) + payload)
                    del self.buffer[: 20 + length]
                    assert kind in (HELLO, WELCOME) or epoch == self.epoch
                    return kind, channel, payload
            data = self.sock.recv(1 << 18)
            if not data:
                raise EOFError
            self.buffer += data

    def expect(self, kind: int, channel: int = 0) -> bytes:
        """The payload of the next frame of this kind on this channel; memory and ports lines are passed over."""
        while True:
            got, where, payload = self.read()
            if (got, where) == (kind, channel):
                return payload
            assert got == CONTROL, (
                f"expected frame {kind} on {channel}, got {got} on {where}: {payload[:80]!r}"
            )
            assert payload.split()[0] in (b"memory", b"ports", b"clock", b"ready", b"resync"), payload

    def control(self, word: bytes) -> bytes:
        """The next CONTROL line that begins with this word."""
        while not (line := self.expect(CONTROL)).startswith(word):
            pass
        return line


# ---- the guest program's end ----


class Agent(Link):
    def __init__(self, binary: Path, folder: Path) -> None:
        ours, theirs = socket.socketpair()
        super().__init__(ours)
        with (folder / "vmm.log").open("wb") as errors:
            self.process = subprocess.Popen(
                [binary, "--agent-fd", pass_fd(theirs.fileno())], pass_fds=(theirs.fileno(),), stderr=errors
            )
        theirs.close()

    def hello(self) -> None:
        """As the shim begins: padding, HELLO; everything before the WELCOME with the nonce is thrown away."""
        nonce = os.urandom(16)
        self.sock.sendall(PADDING + frame(HELLO, 0, struct.pack("<H", 1) + nonce))
        found = b""
        while nonce not in found:
            data = self.sock.recv(1 << 18)
            assert data
            found += data
        at = found.index(nonce) - 22
        self.buffer = bytearray(found[at:])
        kind, channel, payload = self.read()
        assert (kind, channel, payload[:18]) == (WELCOME, 0, struct.pack("<H", 1) + nonce)
        (self.epoch,) = struct.unpack_from("<I", payload, 18)
        assert self.epoch
        self.control(b"ready")

    def open(self, channel: int, window: int = 1 << 20) -> None:
        self.send(OPEN, channel, struct.pack("<II", 1, window))
        assert struct.unpack("<I", self.expect(OPENED, channel))[0] >= 65536

    def run(self, channel: int, argv: list[str]) -> int:
        self.send(DATA, channel, exec_message(argv))
        started = self.expect(DATA, channel)
        assert started[0] == STARTED
        return int(struct.unpack_from("<I", started, 8)[0])

    def works(self) -> None:
        self.send(CONTROL, 0, b"ping 42")
        assert self.control(b"pong") == b"pong 42"


@pytest.fixture
def agent(native: Path, folder: Path) -> Iterator[Agent]:
    agent = Agent(native / "banger-guest", folder)
    agent.hello()
    yield agent
    agent.sock.close()
    assert agent.process.wait(20) == 0
    text = (folder / "vmm.log").read_text()
    assert not text


def test_hello_again_is_a_new_epoch_and_the_end_of_all_sessions(agent: Agent) -> None:
    agent.open(5)
    pid = agent.run(5, ["sleep", "1000"])
    before = agent.epoch
    agent.hello()
    assert agent.epoch != before
    wait_gone(pid)
    agent.send(OPEN, 5, struct.pack("<II", 1, 1000), epoch=before)  # stale: ignored
    agent.works()
    agent.open(5)  # the number is free


@pytest.mark.parametrize("cut", [1, 2, 10, 19, 20, 21, 5000])
def test_half_a_frame_is_completed_by_the_padding(agent: Agent, cut: int) -> None:
    whole = frame(DATA, 1, bytes(range(1, 256)) * 200, agent.epoch)
    agent.sock.sendall(whole[:cut])
    agent.hello()
    agent.works()


def test_a_damaged_frame_is_skipped_and_told(agent: Agent) -> None:
    damaged = bytearray(frame(CONTROL, 0, b"ping 1", agent.epoch))
    damaged[22] ^= 1
    agent.sock.sendall(damaged)
    agent.send(CONTROL, 0, b"ping 2")
    assert agent.control(b"resync") == b"resync"
    assert agent.control(b"pong") == b"pong 2"


def test_rubbish_never_keeps_a_hello_from_being_answered(agent: Agent) -> None:
    source = random.Random(5)
    for _ in range(40):
        sound = [
            frame(DATA, 1, source.randbytes(source.randrange(1, 3000)), agent.epoch),
            frame(OPEN, source.randrange(9), struct.pack("<II", 1, 1000), agent.epoch),
            frame(CLOSE, source.randrange(9), bytes(4), agent.epoch),
            frame(CREDIT, source.randrange(9), b"\xff\xff\xff\xff", agent.epoch),
            b"BG\x05\x00\x01\x00\x00\x00\xff\xff\x00\x00" * source.randrange(50),
            source.randbytes(source.randrange(3000)),
        ]
        source.shuffle(sound)
        stream = bytearray(b"".join(sound))
        for _ in range(source.randrange(4)):
            stream[source.randrange(len(stream))] ^= 1 << source.randrange(8)
        agent.sock.sendall(stream[: source.randrange(len(stream))])
        agent.hello()
    agent.works()


@pytest.mark.parametrize(("channel", "port"), [(0, 1), (3, 2), (3, 0), (7, 1)])
def test_what_cannot_be_opened_is_refused(agent: Agent, channel: int, port: int) -> None:
    agent.open(7)
    agent.send(OPEN, channel, struct.pack("<II", port, 1000))
    assert agent.expect(CLOSE, channel) == struct.pack("<I", 1)
    agent.send(CLOSED, channel)
    agent.works()


def test_no_byte_more_than_the_window_allows(agent: Agent) -> None:
    agent.open(1, window=100)
    agent.send(DATA, 1, exec_message(["head", "-c", "1000", "/dev/zero"]))
    received, more = b"", 100
    while more:
        payload = agent.expect(DATA, 1)
        received += payload
        more -= len(payload)
        assert more >= 0
        if not more and len(received) < 700:
            agent.works()  # nothing comes meanwhile
            more = 333
            agent.send(CREDIT, 1, struct.pack("<I", more))
    agent.send(CREDIT, 1, struct.pack("<I", 1 << 20))
    while (got := agent.read())[0] == DATA:
        received += got[2]
    assert got[0] == CLOSE
    assert received.count(0) >= 1000
    assert received.endswith(message(19, bytes(8)))


def test_credit_that_overflows_is_no_more_than_all(agent: Agent) -> None:
    agent.open(1, window=0xFFFFFFFF)
    agent.send(CREDIT, 1, b"\xff\xff\xff\xff")
    agent.run(1, ["echo", "x"])


def test_close_is_acknowledged_and_ends_the_process(agent: Agent) -> None:
    agent.open(1)
    pid = agent.run(1, ["sleep", "1000"])
    agent.send(CLOSE, 1, struct.pack("<I", 2))
    while agent.read()[0] != CLOSED:
        pass
    wait_gone(pid)
    agent.send(CLOSE, 4711, bytes(4))
    assert agent.expect(CLOSED, 4711) == b""


def test_frames_for_channels_that_do_not_exist_are_ignored(agent: Agent) -> None:
    for kind, payload in [(DATA, b"x"), (CREDIT, bytes(4)), (EOF, b""), (CLOSED, b""), (OPENED, bytes(4))]:
        agent.send(kind, 99, payload)
    agent.works()


def test_eof_before_a_command(agent: Agent) -> None:
    agent.open(1)
    agent.send(EOF, 1)
    assert b"before it named a command" in agent.expect(DATA, 1)
    agent.expect(CLOSE, 1)


@pytest.mark.parametrize("word", [b"poweroff", b"reboot"])
def test_going_down_is_told_and_acknowledged(agent: Agent, word: bytes) -> None:
    agent.send(CONTROL, 0, word)
    assert agent.control(b"shutdown") == b"shutdown " + word
    agent.send(OPEN, 1, struct.pack("<II", 1, 1000))
    assert agent.expect(CLOSE, 1) == struct.pack("<I", 1)
    agent.send(CONTROL, 0, b"bye")
    assert agent.process.wait(20) == 0


def test_going_down_does_not_wait_for_ever_for_the_host(agent: Agent) -> None:
    started = time.monotonic()
    agent.send(CONTROL, 0, b"poweroff")
    assert agent.process.wait(20) == 0
    assert 0.9 < time.monotonic() - started < 15


def test_a_stopped_reader_stops_the_agent_from_reading(agent: Agent) -> None:
    """Answers nobody reads must not pile up without bound."""
    agent.sock.setblocking(False)
    ping = frame(CONTROL, 0, b"ping " + b"x" * 1000, agent.epoch) * 64
    sent = 0
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            sent += agent.sock.send(ping)
        except BlockingIOError:
            before = sent
            time.sleep(0.3)
            try:
                sent += agent.sock.send(ping)
            except BlockingIOError:
                if sent == before:
                    break
    else:
        pytest.fail("the agent reads without end")
    assert sent < 16 << 20


# ---- the shim's end ----


class Guest(Link):
    """Stands in for the guest program behind a vsock."""

    def __init__(self, listener: socket.socket) -> None:
        sock, _ = listener.accept()
        super().__init__(sock)
        assert read_line(sock) == "CONNECT 1024\n"
        sock.sendall(b"OK 1\n")

    def read_hello(self) -> bytes:
        while True:
            kind, channel, payload = self.read()
            if kind == HELLO:
                assert channel == 0
                assert payload[:2] == b"\1\0"
                return payload[2:]

    def welcome(self, nonce: bytes, epoch: int = 77) -> None:
        self.epoch = epoch
        self.send(WELCOME, 0, struct.pack("<H", 1) + nonce + struct.pack("<I", epoch))
        self.control(b"clock")


@pytest.fixture
def guest_of(folder: Path, start_shim: Callable[..., Shim]) -> Iterator[tuple[Shim, Guest]]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "v.sock"))
        listener.listen()
        listener.settimeout(20)
        shim = start_shim(vmm=["sleep", "1000"], channel="vsock:v.sock")
        guest = Guest(listener)
        guest.listener = listener  # type: ignore[attr-defined]
        yield shim, guest
        if shim.process.poll() is None:
            shim.control("KILL")
            shim.wait()
        guest.sock.close()


def connect_client(shim: Shim, guest: Guest) -> tuple[socket.socket, int]:
    """A client whose channel the guest has accepted, with a window of 64 KiB."""
    client = shim.wait_socket("guest.sock")
    client.sendall(b"CONNECT 1\n")
    while True:
        kind, channel, payload = guest.read()
        if kind == OPEN:
            break
    assert struct.unpack("<II", payload) == (1, 1 << 18)
    guest.send(OPENED, channel, struct.pack("<I", 65536))
    assert read_line(client) == f"OK {channel}\n"
    return client, channel


def test_everything_before_the_right_welcome_is_thrown_away(guest_of: tuple[Shim, Guest]) -> None:
    shim, guest = guest_of
    nonce = guest.read_hello()
    guest.epoch = 5
    guest.send(CONTROL, 0, b"ready")
    guest.sock.sendall(random.Random(2).randbytes(300000))
    guest.sock.sendall(frame(DATA, 1, bytes(60000), 5)[:50000])  # the rest never comes
    guest.send(WELCOME, 0, struct.pack("<H", 1) + bytes(16) + struct.pack("<I", 5))
    guest.send(WELCOME, 0, struct.pack("<H", 9) + nonce + struct.pack("<I", 5))
    guest.send(WELCOME, 0, struct.pack("<H", 1) + nonce + struct.pack("<I", 0), epoch=0)
    assert shim.status()["state"] == "booting"
    guest.welcome(nonce)
    guest.send(CONTROL, 0, b"ready")
    shim.wait_state("ready")


def test_a_hello_that_was_read_and_not_answered_is_sent_again(guest_of: tuple[Shim, Guest]) -> None:
    shim, guest = guest_of
    first = guest.read_hello()
    second = guest.read_hello()
    assert first != second
    guest.welcome(second)
    guest.send(CONTROL, 0, b"ready")
    shim.wait_state("ready")


@pytest.mark.parametrize("damage", ["rubbish", "epoch", "crc", "resync"])
def test_a_broken_stream_begins_anew_and_ends_the_sessions(
    guest_of: tuple[Shim, Guest], damage: str
) -> None:
    shim, guest = guest_of
    guest.welcome(guest.read_hello())
    client, channel = connect_client(shim, guest)
    broken = bytearray(frame(DATA, channel, b"abc", guest.epoch))
    broken[21] ^= 4
    guest.sock.sendall(
        {
            "rubbish": b"rubbish" + frame(CREDIT, channel, bytes(4), guest.epoch),
            "epoch": frame(DATA, channel, b"abc", guest.epoch + 1),
            "crc": bytes(broken) + frame(CREDIT, channel, bytes(4), guest.epoch),
            "resync": frame(CONTROL, 0, b"resync", guest.epoch),
        }[damage]
    )
    assert client.recv(100) == b""
    nonce = guest.read_hello()
    guest.welcome(nonce, epoch=78)
    client, channel = connect_client(shim, guest)
    guest.send(DATA, channel, b"hello")
    assert client.recv(100) == b"hello"


def test_a_connection_that_breaks_is_made_anew(guest_of: tuple[Shim, Guest]) -> None:
    shim, guest = guest_of
    guest.welcome(guest.read_hello())
    client, channel = connect_client(shim, guest)
    guest.sock.sendall(frame(DATA, channel, bytes(60000), guest.epoch)[:30000])
    guest.sock.close()
    assert client.recv(100) == b""
    again = Guest(guest.listener)  # type: ignore[attr-defined]
    again.welcome(again.read_hello(), epoch=79)
    client, channel = connect_client(shim, again)
    again.send(DATA, channel, b"hello")
    assert client.recv(100) == b"hello"
    again.sock.close()


def test_a_guest_that_sends_more_than_the_window_loses_the_channel(guest_of: tuple[Shim, Guest]) -> None:
    shim, guest = guest_of
    guest.welcome(guest.read_hello())
    client, channel = connect_client(shim, guest)
    other, other_channel = connect_client(shim, guest)
    for _ in range(8):  # more than the window and what the client's socket holds
        guest.send(DATA, channel, bytes(65536))
    while (got := guest.read())[0] == CREDIT:
        pass
    assert got == (CLOSE, channel, struct.pack("<I", 3))
    guest.send(DATA, other_channel, b"fine")
    assert other.recv(100) == b"fine"
    client.close()


def test_the_client_sends_no_more_than_its_credit(guest_of: tuple[Shim, Guest]) -> None:
    shim, guest = guest_of
    guest.welcome(guest.read_hello())
    client, channel = connect_client(shim, guest)
    client.sendall(bytes(100000))
    received = 0
    while received < 65536:
        received += len(guest.expect(DATA, channel))
    assert received == 65536
    guest.send(CREDIT, channel, struct.pack("<I", 50000))
    while received < 100000:
        received += len(guest.expect(DATA, channel))
    client.shutdown(socket.SHUT_WR)
    guest.expect(EOF, channel)
    guest.send(DATA, channel, b"answer")
    guest.send(EOF, channel)
    assert client.recv(100) == b"answer"
    assert client.recv(100) == b""


def test_a_client_that_closes_is_told_to_the_guest(guest_of: tuple[Shim, Guest]) -> None:
    shim, guest = guest_of
    guest.welcome(guest.read_hello())
    client, channel = connect_client(shim, guest)
    client.close()
    assert guest.expect(CLOSE, channel) == struct.pack("<I", 2)
    guest.send(DATA, channel, b"too late")
    guest.send(CLOSED, channel)
    guest.send(CLOSE, 12345, bytes(4))
    guest.expect(CLOSED, 12345)


@pytest.mark.parametrize(
    "line",
    [
        b"memory 1 2 3 4\x00",
        b"memory \xff\xff",
        b"memory -1 x",
        b"ports " + b"1," * 500,
        b"ports 1;rm -rf",
        b"ports 22 state=stopped",
        b"shutdown maybe",
        b"ready\nstate=stopping",
        b"x" * 1024,
        b"%s%n%s%n",
    ],
)
def test_a_guest_cannot_forge_a_status(guest_of: tuple[Shim, Guest], line: bytes) -> None:
    shim, guest = guest_of
    guest.welcome(guest.read_hello())
    guest.send(CONTROL, 0, b"memory 1000 500")
    guest.send(CONTROL, 0, b"ports 22,80")
    guest.send(CONTROL, 0, b"ready")
    shim.wait_state("ready")
    guest.send(CONTROL, 0, line)
    guest.send(CLOSE, 9, bytes(4))
    guest.expect(CLOSED, 9)
    status = shim.status()
    assert (status["state"], status["ports"]) == ("ready", "22,80")
    assert status["memory"] in ("1000,500", "1,2")
    assert set(status) <= {"state", "vmm", "sessions", "memory", "ports", "t.spawn", "t.hello", "t.ready"}


def test_a_hostile_guest_keeps_the_shim_from_nothing(guest_of: tuple[Shim, Guest]) -> None:
    shim, guest = guest_of
    guest.welcome(guest.read_hello())
    _, channel = connect_client(shim, guest)
    source = random.Random(11)
    guest.sock.setblocking(False)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        kind = source.randrange(1, 12)
        size = source.choice([0, 4, 8, 18, 22, 1000, 65536])
        where = source.choice([0, channel, channel + 1, 1 << 31])
        epoch = source.choice([0, 77, 78, source.randrange(1 << 32)])
        data = frame(kind, where, source.randbytes(size), epoch) + b"BG\x05\0" * source.randrange(2)
        try:
            guest.sock.send(data)
            guest.sock.recv(1 << 20)
        except BlockingIOError:
            pass
    assert shim.status()["state"] in ("booting", "ready")
    assert shim.control("KILL") == "OK\n"
    assert shim.wait() == 0


def test_the_agents_end_by_a_signal_takes_its_sessions(native: Path, folder: Path) -> None:
    agent = Agent(native / "banger-guest", folder)
    agent.hello()
    agent.open(1)
    pid = agent.run(1, ["sleep", "1000"])
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(20) == 0
    wait_gone(pid)
    agent.sock.close()
