"""Messages as bytes: whole or in pieces, whatever is in them."""

import array
import asyncio
import os
import random
import socket
from collections.abc import Iterator

import pytest
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from bangerd.bus.reader import Reader
from bangerd.bus.wire import FIXED, MAX_MESSAGE, Header, Malformed, parse_body, parse_header, sizes
from bangerd.bus.writer import Writer

OPTIONS = {
    "labels": Variant("a{ss}", {"a": "b"}),
    "disk": Variant("t", 2**40),
    "x": Variant("v", Variant("y", 1)),
}
BODY = ["web", OPTIONS]


def call(body: list[object] | None = None, *, fds: int = 0, serial: int = 7) -> bytes:
    message = Message(
        destination="com.thaloco.Banger1",
        path="/com/thaloco/Banger1",
        interface="com.thaloco.Banger1.Manager",
        member="CreateVM",
        sender=":1.7",
        flags=MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION,
        signature="sa{sv}",
        body=body or BODY,
        serial=serial,
        unix_fds=list(range(fds)),
    )
    data = bytes(message._marshall(negotiate_unix_fd=True))
    # dbus-next leaves out the sender, which the bus adds.
    fields = int.from_bytes(data[12:16], "little")
    more = b"\0" * (-fields % 8) + b"\7\1s\0\4\0\0\0:1.7\0"
    header = data[:12] + (fields + len(more)).to_bytes(4, "little") + data[16 : 16 + fields] + more
    return header + b"\0" * (-len(header) % 8) + data[FIXED + fields + (-fields % 8) :]


def read(data: bytes) -> tuple[Header, list[object]]:
    size = sizes(data[:FIXED])
    assert size.header + size.body == len(data)
    header = parse_header(data[: size.header])
    return header, parse_body(header, data)


def test_a_message_is_read() -> None:
    header, body = read(call(fds=3))
    assert body == BODY
    assert (header.sender, header.member, header.serial, header.unix_fds) == (":1.7", "CreateVM", 7, 3)
    assert header.interactive
    assert header.wants_reply


def test_unknown_header_fields_are_passed_over() -> None:
    data = call()
    fields = int.from_bytes(data[12:16], "little")
    more = b"\0" * (-fields % 8) + b"\x63\1t\0" + b"\0" * 4 + b"\1" * 8
    end = FIXED + fields
    header = data[:12] + (fields + len(more)).to_bytes(4, "little") + data[16:end] + more
    changed = header + b"\0" * (-len(header) % 8) + data[end + (-fields % 8) :]
    assert read(changed)[1] == BODY


def test_damaged_messages_are_malformed_and_nothing_else() -> None:
    """10,000 messages with bytes changed at random: each is read, or is Malformed."""
    dice = random.Random(20)
    whole = call(fds=1)
    read_well = 0
    for _ in range(10_000):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            data[dice.randrange(FIXED, len(data))] = dice.randrange(256)
        try:
            size = sizes(bytes(data[:FIXED]))
            header = parse_header(bytes(data[: size.header]))
            parse_body(header, bytes(data))
            read_well += 1
        except Malformed:
            pass
    assert 200 < read_well < 9_800


@pytest.mark.parametrize("start", [b"x\1\0\1", b"l\1\0\2"])
def test_what_begins_no_message(start: bytes) -> None:
    with pytest.raises(Malformed):
        sizes(start + bytes(12))


class Seen:
    """A reader over a socket pair, and what it delivered."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self.refused: list[int] = []
        self.messages: list[tuple[int, bool, int]] = []  # serial, whether there was a body, descriptors
        self.reader = Reader(self.ours, refuse=self._refuse, deliver=self._deliver)

    def _refuse(self, header: Header, size: int) -> bool:
        if size > MAX_MESSAGE and header.serial % 2:
            self.refused.append(header.serial)
            return True
        return False

    def _deliver(self, header: Header, data: bytes | None, fds: list[int]) -> None:
        self.messages.append((header.serial, data is not None, len(fds)))
        for fd in fds:
            os.close(fd)

    def send(self, data: bytes, fds: int = 0) -> None:
        null = [os.open("/dev/null", os.O_RDONLY) for _ in range(fds)]
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", null))] if fds else []
        sent = self.theirs.sendmsg([data[:65536]], control)
        for fd in null:
            os.close(fd)
        self.reader.read()
        while sent < len(data):
            sent += self.theirs.send(data[sent : sent + 65536])
            self.reader.read()


@pytest.fixture
def seen() -> Iterator[Seen]:
    made = Seen()
    yield made
    made.reader.close()
    made.ours.close()
    made.theirs.close()


def fds_open() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a generator would hold one


def test_messages_byte_by_byte(seen: Seen) -> None:
    before = fds_open()
    for serial in (1, 2, 3):
        data = call(fds=2, serial=serial)
        seen.send(data[:1], fds=2)
        for one in data[1:]:
            seen.send(bytes([one]))
    assert seen.messages == [(1, True, 2), (2, True, 2), (3, True, 2)]
    assert fds_open() == before


def test_many_messages_at_once(seen: Seen) -> None:
    seen.send(b"".join(call(serial=serial) for serial in range(1, 201)))
    while len(seen.messages) < 200:
        before = len(seen.messages)
        seen.reader.read()
        assert len(seen.messages) > before
    assert [serial for serial, _, _ in seen.messages] == list(range(1, 201))


def test_descriptors_stay_with_their_message(seen: Seen) -> None:
    before = fds_open()
    for serial in range(1, 60):
        seen.send(call(fds=serial % 4, serial=serial), fds=serial % 4)
    assert seen.messages == [(serial, True, serial % 4) for serial in range(1, 60)]
    assert fds_open() == before


def test_a_count_that_is_not_true(seen: Seen) -> None:
    """The bus checks it; if descriptors got lost on the way into this process, there is nothing to serve."""
    before = fds_open()
    seen.send(call(fds=3, serial=1), fds=2)
    seen.send(call(fds=0, serial=2), fds=2)
    seen.send(call(serial=3))
    assert seen.messages == [(1, False, 0), (2, False, 0), (3, True, 0)]
    assert fds_open() == before


def test_long_messages_are_passed_over_and_the_next_is_read(seen: Seen) -> None:
    before = fds_open()
    long = ["x" * 3_000_000, {}]
    seen.send(call(long, serial=1, fds=1), fds=1)  # refused by the screen
    seen.send(call(long, serial=2, fds=1), fds=1)  # delivered without its body
    seen.send(call(serial=3))
    header_too_long = bytearray(call(serial=4))
    header_too_long[12:16] = (MAX_MESSAGE + 8).to_bytes(4, "little")
    body = int.from_bytes(header_too_long[4:8], "little")
    seen.send(bytes(header_too_long[:FIXED]) + bytes(MAX_MESSAGE + 8 + body), fds=1)
    seen.send(call(serial=5))
    assert seen.refused == [1]
    assert seen.messages == [(2, False, 0), (3, True, 0), (5, True, 0)]
    assert fds_open() == before


def test_the_end_of_the_stream(seen: Seen) -> None:
    before = fds_open()
    seen.send(call(fds=1)[:40], fds=1)
    seen.theirs.close()
    with pytest.raises(EOFError):
        seen.reader.read()
    seen.reader.close()
    assert fds_open() == before - 1  # theirs


def message(size: int, fds: list[int] | None = None) -> Message:
    return Message(
        message_type=MessageType.SIGNAL, path="/", interface="a.b", member="C", serial=1,
        signature="ay", body=[bytes(size)], unix_fds=fds or [],
    )  # fmt: skip


async def test_the_writer_waits_keeps_order_and_closes() -> None:
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    events: list[str] = []
    out = Writer(
        ours,
        full=lambda: events.append("full"),
        free=lambda: events.append("free"),
        failed=lambda exc: events.append(str(exc)),
    )
    before = fds_open()
    out.schedule_write()
    for number in range(100):
        out.put(message(100_000 + number, [os.open("/dev/null", os.O_RDONLY)]))
    assert events == ["full"]
    received = 0
    drained = asyncio.create_task(out.drained())
    while not drained.done():
        try:
            data, fds, _, _ = socket.recv_fds(theirs, 1 << 20, 10)
            received += len(data)
            for fd in fds:
                os.close(fd)
        except BlockingIOError:
            await asyncio.sleep(0)
    while received < sum(
        len(message(100_000 + n, [0])._marshall(negotiate_unix_fd=True)) for n in range(100)
    ):
        data, fds, _, _ = socket.recv_fds(theirs, 1 << 20, 10)
        received += len(data)
        for fd in fds:
            os.close(fd)
    assert events == ["full", "free"]
    assert fds_open() == before
    # Beyond the limit, and after the end, messages are dropped and their descriptors closed.
    for _ in range(50):
        out.put(message(1_000_000, [os.open("/dev/null", os.O_RDONLY)]))
    assert out._waiting <= 32 * 1024 * 1024
    out.close()
    out.put(message(1, [os.open("/dev/null", os.O_RDONLY)]))
    ours.close()
    theirs.close()
    assert fds_open() == before - 2
