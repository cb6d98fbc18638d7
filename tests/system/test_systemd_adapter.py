"""The supervisor over a real systemd, driven from outside the machine through its system bus."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.system.machine import Machine
from tests.system.supervisor_contract import STAND_IN, Rig, SupervisorContract

from bangerd.bus.link import Link
from bangerd.core.ports import Supervisor
from bangerd.host.systemd import SYSTEMD, SystemdSupervisor

SHIM = Path("/usr/local/lib/banger-test-shim")


@pytest.fixture
async def rig(machine: Machine) -> AsyncIterator[Rig]:
    machine.copy_in(STAND_IN, str(SHIM))
    machine.run("chmod", "755", str(SHIM))
    machine.run("mkdir", "-p", "-m", "711", "/run/banger", "/run/banger/vm", "/var/lib/banger")
    links: list[Link] = []

    async def again() -> Supervisor:
        supervisor = SystemdSupervisor()
        links.append(await Link.open(machine.bus_address, SYSTEMD, supervisor.on_signal))
        await supervisor.open(links[-1])
        return supervisor

    def outside(path: Path) -> Path:
        return Path(f"/proc/{machine.leader}/root{path}")

    rig = Rig(again, await again(), Path("/run/banger"), SHIM, outside)
    try:
        yield rig
        for sid in await rig.supervisor.list_sids():
            await rig.supervisor.stop(sid)
        await rig.supervisor.close()
    finally:
        for link in links:
            link.close()
        shutil.rmtree(outside(Path("/run/banger/vm")))


class TestSystemdSupervisor(SupervisorContract):
    async def test_signals_of_others_are_not_believed(self, rig: Rig, machine: Machine) -> None:
        """Any user may send a signal straight to a connection, under any interface and member."""
        rig.watch()
        names = machine.run("busctl", "--unique", "--no-legend", "--no-pager").stdout
        # Seen from inside, this process has no number there.
        unique = [line.split()[0] for line in names.splitlines() if line.split()[1] in ("0", "-")]
        assert unique
        while not rig.changes.empty():
            rig.changes.get_nowait()
        for name in unique:
            machine.run(
                "busctl", "emit", f"--destination={name}", "/org/freedesktop/systemd1",
                "org.freedesktop.systemd1.Manager", "UnitRemoved", "so",
                "banger-vm-00000001.service", "/org/freedesktop/systemd1/unit/x",
                user="nobody",
            )  # fmt: skip
        await rig.supervisor.list_sids()  # whatever was sent before has been read by now
        assert rig.changes.empty()
