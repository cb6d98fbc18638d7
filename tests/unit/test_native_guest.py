"""The shim's end of the link against hand-made frames: what a broken or hostile guest can and cannot do."""

import random
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.unit.native_link import Link
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
    WELCOME,
    Shim,
    connect,
    frame,
    read_line,
)


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


def knock(folder: Path) -> None:
    """As the VMM does when its guest asks for a connection to port 1024 of the host."""
    connect(folder / "v.sock_1024").close()


@pytest.fixture
def guest_of(folder: Path, start_shim: Callable[..., Shim]) -> Iterator[tuple[Shim, Guest]]:
    with socket.socket(socket.AF_UNIX) as listener:
        shim = start_shim(vmm=["sleep", "1000"], channel="vsock:v.sock")
        shim.status()  # answered when the VMM was started, before which a socket of this name was removed
        listener.bind(str(folder / "v.sock"))
        listener.listen()
        listener.settimeout(20)
        knock(folder)
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


def test_a_knock_is_answered_by_a_connection(folder: Path, start_shim: Callable[..., Shim]) -> None:
    """Each time at once: of itself the shim tries once a second. No knock brings a second connection."""
    with socket.socket(socket.AF_UNIX) as listener:
        shim = start_shim(vmm=["sleep", "1000"], channel="vsock:v.sock")
        shim.status()
        listener.bind(str(folder / "v.sock"))
        listener.listen()
        listener.settimeout(20)
        begun = time.monotonic()
        for _ in range(12):
            knock(folder)
            refused, _ = listener.accept()
            with refused:
                assert read_line(refused) == "CONNECT 1024\n"
        assert time.monotonic() - begun < 10
        knock(folder)
        guest = Guest(listener)
        guest.welcome(guest.read_hello())
        for _ in range(3):
            knock(folder)
        assert shim.status()["state"] == "booting"
        listener.settimeout(0.2)
        with pytest.raises(TimeoutError):
            listener.accept()
        guest.sock.close()
        shim.control("KILL")
        shim.wait()
