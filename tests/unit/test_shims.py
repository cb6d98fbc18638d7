"""What shims say is checked: shape, size, and whose socket or file it is."""

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bangerd.host.shims import ShimClients, parse_exit, parse_status, printable
from bangerd.host.vmsock import dial
from bangerd.model.errors import GuestFailed, StepFailed, WrongState
from bangerd.model.vm import VM, Desired, ExitReason, VMSpec

OWN = os.getuid()


class Folder:
    """Where the VM's files are; the rest of ports.Disks is not needed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run_dir(self, _vm: VM) -> Path:
        return self.path


A_VM = VM(
    "0" * 32, "00000000", "web", 1000, "alice", VMSpec("i", "k", 1, 2**29, 2**33), Desired.RUNNING, OWN
)


@pytest.fixture
async def shims(tmp_path: Path) -> AsyncIterator[ShimClients]:
    clients = ShimClients(Folder(tmp_path))  # type: ignore[arg-type]
    yield clients
    await clients.close()


async def serve(path: Path, answer: bytes) -> asyncio.Server:
    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)
        writer.close()

    return await asyncio.start_unix_server(client, path)


def test_status_is_read() -> None:
    said = "state=ready vmm=17 sessions=2 memory=500,400 ports=22,80 t.spawn=1 t.hello=900 t.ready=1200"
    status = parse_status(said)
    assert (status.ready, status.sessions, status.memory_total, status.memory_available) == (
        True,
        2,
        500,
        400,
    )
    assert status.ports == (22, 80)
    assert status.timings_ms == {"spawn": 1, "hello": 900, "ready": 1200}


@pytest.mark.parametrize(
    "said",
    [
        "",
        "state",
        "sessions=1",
        "state=ready sessions=x",
        "state=ready sessions=-1",
        "state=ready memory=1" + "0" * 40,
        "state=ready ports=22,x",
        "\x1b[2J",
    ],
)
def test_nonsense_for_a_status(said: str) -> None:
    with pytest.raises(GuestFailed, match="no status"):
        parse_status(said)


def test_ports_out_of_range_are_left_out() -> None:
    assert parse_status("state=ready ports=0,22,70000").ports == (22,)


def test_exit_record() -> None:
    record = parse_exit("reason=poweroff status=0 ready=1 at=1700000000\n")
    assert (record.reason, record.status, record.ready, record.at) == (
        ExitReason.POWEROFF,
        0,
        True,
        1_700_000_000,
    )


@pytest.mark.parametrize("said", ["", "reason=fun", "reason=poweroff at=x", "\0" * 100])
def test_an_unreadable_record_is_a_lost_one(said: str) -> None:
    assert parse_exit(said).reason is ExitReason.LOST


def test_terminal_escapes_are_not_shown() -> None:
    assert printable("a\x1b[31mred\x1b[0m\x1b]0;title\x07\x07\x9bb") == "aredb"


async def test_a_short_answer(shims: ShimClients, tmp_path: Path) -> None:
    async with await serve(tmp_path / "control.sock", b"state=ready"):
        with pytest.raises(GuestFailed, match="just ending"):
            await shims.status(A_VM)


async def test_an_endless_answer(shims: ShimClients, tmp_path: Path) -> None:
    async with await serve(tmp_path / "control.sock", b"x" * 100_000):
        with pytest.raises(GuestFailed, match="does not answer"):
            await shims.status(A_VM)


async def test_a_refused_session(shims: ShimClients, tmp_path: Path) -> None:
    async with await serve(tmp_path / "guest.sock", b"ERR \x1b[31mno\n"):
        with pytest.raises(GuestFailed, match="takes no session: ERR "):
            await shims.open_session(A_VM, 1)


async def test_a_session_keeps_what_follows_the_answer(shims: ShimClients, tmp_path: Path) -> None:
    async with await serve(tmp_path / "guest.sock", b"OK 7\nfirst bytes"):
        with socket.socket(fileno=await shims.open_session(A_VM, 1)) as session:
            assert session.recv(100) == b"first bytes"


async def test_no_link_is_followed(shims: ShimClients, tmp_path: Path) -> None:
    async with await serve(tmp_path / "elsewhere.sock", b"state=ready\n"):
        (tmp_path / "control.sock").symlink_to("elsewhere.sock")
        with pytest.raises(GuestFailed):
            await shims.status(A_VM)


@pytest.mark.root
async def test_another_users_socket_is_refused(tmp_path: Path) -> None:
    async with await serve(tmp_path / "control.sock", b""):
        with pytest.raises(PermissionError, match="broken into"):
            dial(tmp_path / "control.sock", OWN + 1)


def test_what_is_no_socket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "control.sock").write_text("")
    with pytest.raises(PermissionError, match="no socket"):
        dial(tmp_path / "control.sock", OWN)


@pytest.mark.parametrize("kind", ["link", "fifo", "hard link", "folder"])
async def test_a_log_that_is_not_the_vms_own(shims: ShimClients, tmp_path: Path, kind: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    log = tmp_path / "console.log"
    match kind:
        case "link":
            log.symlink_to(secret)
        case "fifo":
            os.mkfifo(log)
        case "hard link":
            log.hardlink_to(secret)
        case "folder":
            log.mkdir()
    with pytest.raises(StepFailed, match="console log of '.*' cannot be read"):
        shims.open_log(A_VM)
    assert shims.console_tail(A_VM) == ()


async def test_a_vm_that_was_not_started_has_no_log(shims: ShimClients) -> None:
    with pytest.raises(WrongState, match="not started since the host's boot"):
        shims.open_log(A_VM)


async def test_the_log(shims: ShimClients, tmp_path: Path) -> None:
    (tmp_path / "console.log").write_bytes(b"one\n\ntwo\x1b[31m\xff\nthree\n")
    descriptor = shims.open_log(A_VM)
    assert stat.S_ISREG(os.fstat(descriptor).st_mode)
    os.close(descriptor)
    assert shims.console_tail(A_VM) == ("one", "two\N{REPLACEMENT CHARACTER}", "three")
    (tmp_path / "vmm.log").write_bytes(b"\x1b]0;title\x07cannot\n")
    assert shims.vmm_tail(A_VM) == ("cannot",)


async def test_exit_records_are_found(shims: ShimClients, tmp_path: Path) -> None:
    assert shims.read_exit(A_VM) is None
    async with await serve(tmp_path / "control.sock", b""):
        found = shims.read_exit(A_VM)
        assert found is not None
        assert found.reason is ExitReason.LOST
    (tmp_path / "exit").write_text("reason=stop status=0 ready=1 at=5\n")
    found = shims.read_exit(A_VM)
    assert found is not None
    assert found.reason is ExitReason.STOP
