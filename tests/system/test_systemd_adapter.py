"""The supervisor over a real systemd, driven from outside the machine through its system bus."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dbus_next.aio.message_bus import MessageBus
from tests.system.machine import Machine
from tests.system.supervisor_contract import STAND_IN, Rig, SupervisorContract

from bangerd.core.ports import Supervisor
from bangerd.host.systemd import SystemdSupervisor

SHIM = Path("/usr/local/lib/banger-test-shim")


@pytest.fixture
async def rig(machine: Machine) -> AsyncIterator[Rig]:
    machine.copy_in(STAND_IN, str(SHIM))
    machine.run("chmod", "755", str(SHIM))
    machine.run("mkdir", "-p", "-m", "711", "/run/banger", "/run/banger/vm", "/var/lib/banger")
    bus = await MessageBus(machine.bus_address, negotiate_unix_fd=True).connect()

    async def again() -> Supervisor:
        return await SystemdSupervisor.connect(bus)

    def outside(path: Path) -> Path:
        return Path(f"/proc/{machine.leader}/root{path}")

    rig = Rig(again, await again(), Path("/run/banger"), SHIM, outside)
    try:
        yield rig
        for sid in await rig.supervisor.list_sids():
            await rig.supervisor.stop(sid)
        await rig.supervisor.close()
    finally:
        bus.disconnect()  # type: ignore[no-untyped-call]
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        bus._stream.close()  # dbus-next 0.2.3 shuts its socket down, and leaves it open
        bus._sock.close()
        shutil.rmtree(outside(Path("/run/banger/vm")))


class TestSystemdSupervisor(SupervisorContract):
    pass
