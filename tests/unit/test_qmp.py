"""QEMU's monitor when it hangs, or says nonsense: told in time, and nothing of ours is left."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from tests.unit.test_firecracker import a_vm

from bangerd.host import qemu
from bangerd.host.disk import DiskFiles
from bangerd.model.errors import StepFailed

GREETING = b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\n'
Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def says(text: bytes, *, ends: bool = True) -> Peer:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        if not ends:
            await reader.read()
        writer.close()

    return peer


@pytest.fixture
def disks(tmp_path: Path) -> DiskFiles:
    found = DiskFiles(tmp_path / "state", tmp_path / "run")
    found.run_dir(a_vm()).mkdir()
    return found


@pytest.mark.parametrize(
    "peer",
    [
        pytest.param(says(b"", ends=False), id="hangs"),
        pytest.param(says(GREETING, ends=False), id="hangs after its greeting"),
        pytest.param(says(b""), id="closes"),
        pytest.param(says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), id="garbage"),
        pytest.param(says(b"[" * 60_000 + b"\n"), id="deep"),
        pytest.param(says(b'{"QMP": "' + b"x" * 1_000_000, ends=False), id="huge"),
        pytest.param(says(GREETING + b'{"return": {}}\n{"return": {}}\n'), id="answers to nothing"),
    ],
)
async def test_a_monitor_that_is_none(disks: DiskFiles, monkeypatch: pytest.MonkeyPatch, peer: Peer) -> None:
    monkeypatch.setattr(qemu, "QMP_S", 0.5)
    driver = qemu.Qemu("/bin/true", disks, kvm=False)
    before, begun = len(list(Path("/proc/self/fd").iterdir())), time.monotonic()
    async with await asyncio.start_unix_server(peer, disks.run_dir(a_vm()) / "qmp.sock"):
        with pytest.raises(StepFailed, match="^QEMU of 'web' did not do 'stop': ."):
            await driver.pause(a_vm())
        assert time.monotonic() - begun < 5
    await asyncio.sleep(0.1)  # the server's end of it
    assert len(list(Path("/proc/self/fd").iterdir())) <= before


async def test_a_monitor_that_tells_events_without_end_is_left_at_once(disks: DiskFiles) -> None:
    event = b'{"event": "X", "data": {}, "timestamp": {"seconds": 1, "microseconds": 1}}\n'

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(GREETING)
        await reader.read(1000)
        writer.write(b'{"return": {}}\n')
        with suppress(ConnectionError):
            while True:
                writer.write(event * 100)
                await writer.drain()
        writer.close()

    begun = time.monotonic()
    async with await asyncio.start_unix_server(peer, disks.run_dir(a_vm()) / "qmp.sock"):
        with pytest.raises(
            StepFailed, match="^QEMU of 'web' did not do 'stop': it told more than 1000 events$"
        ):
            await qemu.Qemu("/bin/true", disks, kvm=False).pause(a_vm())
    assert time.monotonic() - begun < 5


async def test_a_monitor_that_hangs_can_be_left_at_any_time(disks: DiskFiles) -> None:
    driver = qemu.Qemu("/bin/true", disks, kvm=False)
    async with await asyncio.start_unix_server(says(b"", ends=False), disks.run_dir(a_vm()) / "qmp.sock"):
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await driver.paused(a_vm())
        assert time.monotonic() - begun < 3
