"""The agent's end of the link against hand-made frames: what a broken stream can and cannot do."""

import os
import random
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.unit.native_link import PADDING, Link
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
    exec_message,
    frame,
    message,
    pass_fd,
    wait_gone,
)


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


def test_the_agents_end_by_a_signal_takes_its_sessions(native: Path, folder: Path) -> None:
    agent = Agent(native / "banger-guest", folder)
    agent.hello()
    agent.open(1)
    pid = agent.run(1, ["sleep", "1000"])
    agent.process.send_signal(signal.SIGTERM)
    assert agent.process.wait(20) == 0
    wait_gone(pid)
    agent.sock.close()
