"""A command in a guest as a part of our own work, with a real guest program behind a real shim."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from banger import transfer
from banger.errors import Failure
from banger.interrupt import Interrupted, Interrupts
from banger.messages import Command

TOP = Path(__file__).parents[3]
MIB = 1024 * 1024


def session(guest: Path) -> int:
    link = socket.socket(socket.AF_UNIX)
    link.connect(str(guest))
    link.sendall(b"CONNECT 1\n")
    answer = b""
    while not answer.endswith(b"\n"):
        answer += link.recv(1)
    assert answer.startswith(b"OK"), answer
    return link.detach()


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture(autouse=True)
def no_descriptor_is_left():
    before = descriptors()
    yield
    assert descriptors() == before


GIGABYTE = """
import hashlib, resource, sys
from banger import transfer
from banger.messages import Command
block = bytes(range(256)) * 4096
sent, heard = hashlib.sha256(), hashlib.sha256()
def source():
    for _ in range(1024):
        sent.update(block)
        yield block
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
command = Command(("sh", "-c", "cat; echo end >&2; exit 3"))
done = transfer.run(int(sys.argv[1]), command, source=source(), sink=heard.update)
assert (done.status, done.stderr) == (3, "end\\n"), done
assert sent.digest() == heard.digest()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.timeout(120)
def test_a_gigabyte_there_and_back_at_bounded_memory(guest):
    fd = session(guest)
    done = subprocess.run(
        [sys.executable, "-c", GIGABYTE, str(fd)], pass_fds=[fd], env={**os.environ, "PYTHONPATH": str(TOP / "client")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    os.close(fd)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 16 * 1024  # KiB


def test_chunks_of_any_kind_and_size(guest):
    heard = bytearray()
    source = [b"", b"a", bytearray(b"b" * 70_000), memoryview(b"c" * 300_000), b"d"]
    done = transfer.run(session(guest), Command(("cat",)), source=source, sink=heard.extend)
    assert done == transfer.Outcome(0, "")
    assert heard == b"a" + b"b" * 70_000 + b"c" * 300_000 + b"d"


def test_statuses_and_the_end_of_stderr(guest):
    assert transfer.run(session(guest), Command(("sh", "-c", "kill -9 $$"))).status == 137
    done = transfer.run(session(guest), Command(("sh", "-c", "seq 100000 >&2; exit 9")))
    assert done.status == 9
    assert len(done.stderr) == 16 * 1024
    assert done.stderr.endswith("\n100000\n")
    with pytest.raises(Failure) as caught:
        transfer.run(session(guest), Command(("no-such-program",)))
    assert (caught.value.code, caught.value.status) == ("NotFound", 127)


def test_a_command_that_does_not_read_it_all(guest):
    taken = 0

    def source():
        nonlocal taken
        while taken < 200:
            taken += 1
            yield bytes(MIB)

    assert transfer.run(session(guest), Command(("head", "-c", "10")), source=source()).status == 0


@pytest.mark.parametrize("where", ["source", "sink"])
def test_what_source_or_sink_raise_ends_the_command(guest, tmp_path, where):
    script = f"trap 'echo hup >{tmp_path}/said; exit' HUP; echo on; sleep 30 & wait"

    def source():
        yield b"x"
        if where == "source":
            raise KeyError(where)
        time.sleep(0.1)

    def sink(_data):
        if where == "sink":
            raise KeyError(where)

    with pytest.raises(KeyError, match=where):
        transfer.run(session(guest), Command(("sh", "-c", script)), source=source(), sink=sink)
    deadline = time.monotonic() + 10
    while where == "sink" and not (tmp_path / "said").exists():
        assert time.monotonic() < deadline, "the command was not hung up"
        time.sleep(0.02)


def test_the_guest_goes_in_the_midst():
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(b"\x10\0\0\0\4\0\0\0\1\0\0\0" + b"\x11\0\0\0\2\0\0\0hi")
        theirs.shutdown(socket.SHUT_WR)
        heard = bytearray()
        with pytest.raises(Failure) as caught:
            transfer.run(ours.detach(), Command(("cat",)), source=[b"x" * MIB], sink=heard.extend)
    assert (caught.value.code, heard) == ("GuestGone", b"hi")


@pytest.mark.parametrize(
    "sent", [b"\x11\0\0\0\xff\xff\xff\x7f", b"\x63\0\0\0\0\0\0\0", b"\x13\0\0\0\1\0\0\0x"]
)
def test_a_guest_that_talks_nonsense(sent):
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(sent)
        with pytest.raises(Failure) as caught:
            transfer.run(ours.detach(), Command(("cat",)))
    assert caught.value.code == "Protocol"


def test_a_signal_ends_it_and_the_handlers_are_as_before(guest):
    before = signal.getsignal(signal.SIGTERM)

    def sink(_data):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted) as caught:
        transfer.run(session(guest), Command(("sh", "-c", "echo on; sleep 30")), sink=sink)
    assert caught.value.failure.status == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_outer_work_says_what_ends_and_holds_it_back(guest):
    done = []

    def sink(_data):
        os.kill(os.getpid(), signal.SIGTERM)

    def work():
        with Interrupts("cannot do it") as interrupts:
            with interrupts.held():
                transfer.run(session(guest), Command(("echo", "on")), sink=sink)
                done.append(1)
            done.append(2)

    with pytest.raises(Interrupted, match="cannot do it: ended by SIGTERM"):
        work()
    assert done == [1]


def test_a_signal_that_is_ignored_stays_so(guest):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        script = "echo on"
        done = transfer.run(
            session(guest),
            Command(("sh", "-c", script)),
            sink=lambda _: os.kill(os.getpid(), signal.SIGTERM),
        )
        assert done.status == 0
    finally:
        signal.signal(signal.SIGTERM, before)
