"""The guide's shell blocks, run in order by an ordinary user; the guest is a stand-in for the session protocol."""

import asyncio
import re
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from bangerd.model.vm import VM
from tests.bus.conftest import Service
from tests.bus.rig import ALICE, TOP, Rig, groups_of

GUIDE = TOP / "docs/dbus.md"


def blocks() -> list[str]:
    return re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text(), re.DOTALL | re.MULTILINE)


class StandIn:
    """Runs what a session asks for, here, if it is what the guide asks for."""

    def __init__(self) -> None:
        self.sessions: list[asyncio.Task[None]] = []

    async def open_session(self, _vm: VM, port: int) -> int:
        assert port == 1
        ours, theirs = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        self.sessions.append(asyncio.create_task(self._serve(reader, writer)))
        return theirs.detach()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind, length = struct.unpack("<B3xI", await reader.readexactly(8))
        assert kind == 1
        data, words = await reader.readexactly(length), []
        while data:
            tag, size = struct.unpack_from("<HI", data)
            assert tag == 1
            words.append(data[6 : 6 + size].decode())
            data = data[6 + size :]
        assert await reader.readexactly(8) == struct.pack("<B3xI", 2, 0)
        assert words == ["sh", "-c", "echo hello from $(uname -s); exit 7"]
        for message in (
            (16, struct.pack("<I", 5)),
            (17, b"hello from Linux\n"),
            (19, struct.pack("<II", 0, 7)),
        ):
            writer.write(struct.pack("<B3xI", message[0], len(message[1])) + message[1])
        await writer.drain()
        writer.close()
        await writer.wait_closed()


def test_the_guide_is_whole() -> None:
    assert len(blocks()) >= 9
    # No block that looks like shell and is not run.
    assert GUIDE.read_text().count("```") == 2 * len(blocks())


@pytest.mark.needs("busctl")
async def test_the_guide_is_true(bus: Rig, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn()
    monkeypatch.setattr(service.ports.shims, "open_session", stand_in.open_session)
    script = "set -eux\n" + "\n".join(blocks())
    with TemporaryDirectory(prefix="banger-docs-") as folder:
        shutil.chown(folder, ALICE, ALICE)
        (Path(folder) / "guide.sh").write_text(script)
        process = await asyncio.create_subprocess_exec(
            "bash",
            "guide.sh",
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "DBUS_SYSTEM_BUS_ADDRESS": bus.address, "HOME": folder},
            user=ALICE,
            group=ALICE,
            extra_groups=groups_of(ALICE),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        out = (await process.communicate())[0].decode()
    assert process.returncode == 0, out
    for expected in (
        's "0.1.0"',
        "is made by /com/thaloco/Banger1/job/",
        's "running"',
        "hello from Linux",
        "its status was 7",
        '"com.thaloco.banger1.vm.create" "yes"',
    ):
        assert expected in out
    assert service.world.nothing_left()
    assert len(stand_in.sessions) == 1
    await stand_in.sessions[0]
