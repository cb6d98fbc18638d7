"""The service's own life on the bus: start, rivals, the end of the bus, and an orderly end of its own."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from bangerd.bus import writer
from bangerd.bus.polkit import POLKIT
from bangerd.model.errors import HostNotReady
from tests.bus.caller import ERRORS, NAME, ROOT, CallFailed, Client
from tests.bus.conftest import Service
from tests.bus.rig import ALICE, BOB, Rig, rig
from tests.bus.test_hostile import stopped
from tests.fakes.ports import World

User = Callable[[int], Awaitable[Client]]


async def start(address: str) -> str:
    """Start a service that cannot start; what it says."""
    service = Service(address, World())
    try:
        with pytest.raises(HostNotReady) as failed:
            await service.__aenter__()
        return str(failed.value)
    finally:
        await service.__aexit__()


async def test_a_second_one_is_refused(bus: Rig, service: Service, user: User) -> None:
    text = await start(bus.address)
    assert text == (
        f"another bangerd (process {os.getpid()}) serves com.thaloco.Banger1 on this bus;"
        " stop it first (`systemctl stop banger`)"
    )
    assert await (await user(ALICE)).manager("Ping", "") == []


async def test_no_bus_is_a_sentence() -> None:
    text = await start("unix:path=/nonexistent/bus")
    assert text.startswith("the message bus at unix:path=/nonexistent/bus does not serve us: ")
    assert "No such file or directory" in text


@pytest.mark.parametrize("address", ["", "nonsense", "tcp:host=127.0.0.1,port=1", "unix:tmpdir=/tmp"])
def test_addresses_that_cannot_be(address: str) -> None:
    async def main() -> None:
        with pytest.raises(HostNotReady) as failed:
            Service(address, World())
        assert "cannot be used" in str(failed.value)

    asyncio.run(main())


async def test_a_bus_that_hangs_up_is_a_sentence() -> None:
    """dbus-next's own authentication spins for ever on an end of file."""
    server = socket.socket(socket.AF_UNIX)
    server.bind("\0banger-test-hang-up")
    server.listen()

    async def hang_up() -> None:
        loop = asyncio.get_running_loop()
        server.setblocking(False)
        peer, _ = await loop.sock_accept(server)
        peer.close()

    task = asyncio.create_task(hang_up())
    text = await start("unix:abstract=banger-test-hang-up")
    await task
    server.close()
    assert "closed the connection" in text or "Connection reset" in text or "Broken pipe" in text


async def test_without_the_bus_policy_it_says_so(bus: Rig) -> None:
    policy = """<busconfig><policy context="default"><deny own="com.thaloco.Banger1"/></policy>
      <policy user="root"><deny own="com.thaloco.Banger1"/></policy></busconfig>"""
    file = bus.folder / "deny.conf"
    file.write_text(policy)
    with rig(limits=f"<include>{file}</include>") as denying:
        text = await start(denying.address)
    assert "does not let us own com.thaloco.Banger1" in text
    assert "com.thaloco.Banger1.conf" in text


async def test_without_polkit_nothing_is_allowed() -> None:
    with rig(polkit=False) as bus:
        async with Service(bus.address, World()), await Client.connect(bus.address, 0) as root:
            for member in ("Ping", "ListVMs", "Doctor"):
                with pytest.raises(CallFailed) as failed:
                    await root.manager(member, "" if member == "Ping" else "a{sv}")
                assert failed.value.name == ERRORS + "AccessDenied"
                assert failed.value.text.startswith("polkit does not answer")


async def test_the_end_of_the_bus_is_noticed() -> None:
    with rig(polkit=False) as bus:
        async with Service(bus.address, World()) as service:
            lost = asyncio.create_task(service.server.lost())
            await asyncio.sleep(0)
            assert not lost.done()
            os.kill(bus.bus_pid, signal.SIGKILL)
            async with asyncio.timeout(5):
                await lost


async def test_an_orderly_end_answers_what_is_under_way(bus: Rig) -> None:
    async with await Client.connect(bus.address, BOB) as bob:
        with stopped(bus.polkit_pid):
            async with Service(bus.address, World()) as service:
                call = await bob.send(bob.message(ROOT, f"{NAME}.Manager", "Ping"))
                while not any(visit.call for visit in service.server._serving.values()):
                    await asyncio.sleep(0.01)
                serving = service.server._serving
        assert not serving
        answer = await call
        assert answer.error_name == ERRORS + "Canceled"
        assert "shutting down" in answer.body[0]


async def test_a_caller_is_looked_up_once(
    service: Service, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    ask = service.server._connection.ask

    async def watched(peer: object, member: str, *rest: object, **more: object) -> list[object]:
        asked.append(member)
        return await ask(peer, member, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(service.server._connection, "ask", watched)
    alice = await user(ALICE)
    await asyncio.gather(*(alice.manager("Ping", "") for _ in range(5)))
    assert asked.count("GetConnectionUnixUser") == 1
    assert asked.count("CheckAuthorization") == 5
    assert POLKIT.name == "org.freedesktop.PolicyKit1"
    assert "GetConnectionCredentials" not in asked


LIMITS = """
  <limit name="max_incoming_bytes">2000000</limit>
  <limit name="max_outgoing_bytes">20000000</limit>
"""


async def test_a_client_that_reads_nothing_ends_the_connection_and_not_the_service(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The bus keeps what the client does not read on our account, until it stops to read from us at all.

    Nothing but a new connection helps: the service notices, ends it, and is started again. The bus's limits are made
    small here, so that the test need not move hundreds of megabytes.
    """
    monkeypatch.setattr(writer, "STALL_S", 0.5)
    monkeypatch.setattr(writer, "HIGH_WATER", 200_000)
    with rig(polkit=False, limits=LIMITS) as bus:
        async with Service(bus.address, World()) as service, await Client.connect(bus.address, BOB) as bob:
            await bob.deafen()
            bob.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            introspect = bob.message(ROOT, "org.freedesktop.DBus.Introspectable", "Introspect")
            lost = asyncio.create_task(service.server.lost())
            waiting = b""
            async with asyncio.timeout(30):
                while not lost.done():
                    if not waiting:
                        introspect.serial = bob.next_serial()
                        waiting = bytes(introspect._marshall())
                    with suppress(BlockingIOError):
                        waiting = waiting[bob.sock.send(waiting) :]
                    await asyncio.sleep(0)
            out = service.server._connection._out
            assert not out._queue
        assert "taken no message" in caplog.text
        async with Service(bus.address, World()), await Client.connect(bus.address, ALICE) as alice:
            message = alice.message(ROOT, "org.freedesktop.DBus.Peer", "Ping")
            await alice.ask(message)
