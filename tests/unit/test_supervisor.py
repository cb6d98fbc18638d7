"""The supervisor for machines without systemd, with real processes."""

import fcntl
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.system.supervisor_contract import STAND_IN, UID, Rig, SupervisorContract

from bangerd.core.ports import Supervisor
from bangerd.host.supervisor import ProcessSupervisor
from bangerd.model.errors import StepFailed
from bangerd.model.vm import Unit

pytestmark = pytest.mark.root  # it starts processes at other uids


@pytest.fixture
async def rig(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    folder = Path("/run") / f"banger-test-{os.getpid()}"
    folder.mkdir(mode=0o711)
    shim = folder / "shim"
    shim.write_bytes(STAND_IN.read_bytes())
    shim.chmod(0o755)

    async def again() -> Supervisor:
        return ProcessSupervisor(folder)

    rig = Rig(again, await again(), folder, shim, lambda path: path)
    try:
        yield rig
        for sid in await rig.supervisor.list_sids():
            await rig.supervisor.stop(sid)
    finally:
        await rig.supervisor.close()
        shutil.rmtree(folder)


class TestProcessSupervisor(SupervisorContract):
    async def test_records_are_roots_alone(self, rig: Rig) -> None:
        spec = rig.spec("run")
        await rig.supervisor.start(spec)
        assert (rig.runtime / "proc").stat().st_mode & 0o777 == 0o700
        await rig.supervisor.stop(spec.vm.sid)
        assert list((rig.runtime / "proc").iterdir()) == []

    @pytest.mark.parametrize(
        "said", ["", "1 {start}\n", "{self} {start}\n", "x y\n", "{self} 1\n", "9" * 60]
    )
    async def test_a_record_that_lies_is_not_believed(
        self, rig: Rig, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A shim that was taken over may write another process's number there, and wait to be stopped."""
        monkeypatch.setattr("bangerd.host.supervisor._SAID_S", 0.1)
        stat = Path("/proc/1/stat" if said.startswith("1 ") else "/proc/self/stat").read_text()
        start = stat.rpartition(")")[2].split()[19]
        record = rig.runtime / "proc" / "00000001"
        record.write_text(said.format(self=os.getpid(), start=start))
        os.chown(record, 0, UID + 1)
        with record.open("r+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            rig.watch()
            assert await rig.supervisor.observe("00000001") is Unit.ACTIVATING
            with pytest.raises(StepFailed, match="does not say"):
                await rig.supervisor.stop("00000001")
        await rig.supervisor.stop("00000001")
        assert await rig.supervisor.observe("00000001") is Unit.ABSENT

    async def test_a_vm_at_uid_0_is_refused(self, rig: Rig) -> None:
        spec = rig.spec("run")
        with pytest.raises(StepFailed, match="no uid"):
            await rig.supervisor.start(replace(spec, vm=replace(spec.vm, uid=0)))
        assert await rig.supervisor.list_sids() == frozenset()

    async def test_a_record_left_by_a_host_that_crashed(self, rig: Rig) -> None:
        (rig.runtime / "proc" / "00000001").write_text("12345 678\n")
        rig.watch()
        await rig.until("00000001", Unit.ABSENT)
        assert await rig.supervisor.list_sids() == frozenset()
        assert list((rig.runtime / "proc").iterdir()) == []
