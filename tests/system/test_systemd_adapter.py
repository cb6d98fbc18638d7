"""The supervisor over a real systemd, driven from outside the machine through its system bus."""

from tests.system.machine import Machine
from tests.system.supervisor_contract import Rig, SupervisorContract


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
