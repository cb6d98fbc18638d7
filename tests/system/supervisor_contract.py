"""What ports.Supervisor promises, as tests that run against each adapter."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from bangerd.core.ports import Supervisor, UnitSpec
from bangerd.model.errors import StepFailed
from bangerd.model.vm import MIB, VM, Desired, Unit, VMSpec

STAND_IN = Path(__file__).with_name("shim_stand_in.py")
# Of this run alone: everything at a VM's uid is killed when the VM ends, and on one kernel that is everywhere.
UID = 200_000 + os.getpid() % 10_000 * 16


@dataclass
class Rig:
    """One adapter and the folders its units use. `outside` is how this process sees a path of the units'."""

    again: Callable[[], Awaitable[Supervisor]]  # a second adapter, as after a restart
    supervisor: Supervisor
    runtime: Path
    shim: Path
    outside: Callable[[Path], Path]
    changes: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    def spec(self, *deed: str, number: int = 1, lifeline: int | None = None) -> UnitSpec:
        """A VM whose shim does `deed`."""
        sid = f"{number:08x}"
        vm = VM(
            id=f"{sid}-0000-4000-8000-000000000000",
            sid=sid,
            name=f"vm{number}",
            owner_uid=1001,
            owner_name="alice",
            spec=VMSpec("image", "kernel", vcpu=1, memory=64 * MIB, disk=64 * MIB),
            desired=Desired.RUNNING,
            uid=UID + number,
        )
        run_dir = self.runtime / "vm" / sid
        seen = self.outside(run_dir)
        seen.mkdir(parents=True, exist_ok=True)
        os.chown(seen, 0, vm.uid)
        seen.chmod(0o770)
        return UnitSpec(
            vm,
            (str(self.shim), *deed),
            run_dir,
            (),
            (),
            (),
            memory_max=256 * MIB,
            file_max=vm.spec.disk,
            programs=(self.shim,),
            threads=16,
            needs_libraries=True,  # the stand-in is Python
            lifeline=lifeline,
        )

    def watch(self) -> None:
        self.supervisor.watch(self.changes.put_nowait)

    async def until(self, sid: str, unit: Unit) -> None:
        """Wait, told by `watch` alone, until the unit is in this state."""
        async with asyncio.timeout(20):
            while await self.supervisor.observe(sid) is not unit:
                await self.changes.get()

    async def file(self, spec: UnitSpec, name: str) -> str:
        """What the stand-in wrote, once it has."""
        path = self.outside(spec.run_dir) / name
        async with asyncio.timeout(20):
            while not path.exists() or not path.read_text():
                assert await self.supervisor.observe(spec.vm.sid) is Unit.ACTIVE, "it ended before it wrote"
                await asyncio.sleep(0.01)
        return path.read_text()


class SupervisorContract:
    async def test_start_and_stop(self, rig: Rig) -> None:
        rig.watch()
        spec = rig.spec("run")
        assert await rig.supervisor.observe(spec.vm.sid) is Unit.ABSENT
        await rig.supervisor.start(spec)
        assert await rig.supervisor.observe(spec.vm.sid) is Unit.ACTIVE
        assert await rig.supervisor.list_sids() == {spec.vm.sid}
        await rig.supervisor.stop(spec.vm.sid)
        assert await rig.supervisor.observe(spec.vm.sid) is Unit.ABSENT
        assert await rig.supervisor.list_sids() == frozenset()
        assert spec.vm.sid in {rig.changes.get_nowait() for _ in range(rig.changes.qsize())}

    async def test_end_by_itself(self, rig: Rig) -> None:
        rig.watch()
        spec = rig.spec("exit", "0")
        await rig.supervisor.start(spec)
        await rig.until(spec.vm.sid, Unit.ABSENT)
        assert await rig.supervisor.list_sids() == frozenset()

    async def test_a_failure_stays_until_it_is_forgotten(self, rig: Rig) -> None:
        rig.watch()
        spec = rig.spec("exit", "1")
        await rig.supervisor.start(spec)
        await rig.until(spec.vm.sid, Unit.FAILED)
        assert await rig.supervisor.list_sids() == {spec.vm.sid}
        with pytest.raises(StepFailed):
            await rig.supervisor.start(spec)
        await rig.supervisor.forget(spec.vm.sid)
        await rig.until(spec.vm.sid, Unit.ABSENT)
        await rig.supervisor.start(rig.spec("run"))
        await rig.supervisor.stop(spec.vm.sid)

    async def test_no_unit_is_no_error(self, rig: Rig) -> None:
        await rig.supervisor.stop("0000ffff")
        await rig.supervisor.forget("0000ffff")
        assert await rig.supervisor.observe("0000ffff") is Unit.ABSENT

    async def test_a_second_start_is_refused(self, rig: Rig) -> None:
        spec = rig.spec("run")
        await rig.supervisor.start(spec)
        with pytest.raises(StepFailed):
            await rig.supervisor.start(spec)
        assert await rig.supervisor.observe(spec.vm.sid) is Unit.ACTIVE
        await rig.supervisor.stop(spec.vm.sid)

    async def test_forget_leaves_what_runs_alone(self, rig: Rig) -> None:
        spec = rig.spec("run")
        await rig.supervisor.start(spec)
        await rig.supervisor.forget(spec.vm.sid)
        assert await rig.supervisor.observe(spec.vm.sid) is Unit.ACTIVE
        await rig.supervisor.stop(spec.vm.sid)

    async def test_a_missing_shim(self, rig: Rig) -> None:
        spec = rig.spec("run")
        missing = Path("/usr/lib/no-such-shim")
        broken = replace(spec, argv=(str(missing),), programs=(missing,))
        with pytest.raises(StepFailed):
            await rig.supervisor.start(broken)
        await rig.supervisor.forget(spec.vm.sid)
        assert await rig.supervisor.observe(spec.vm.sid) is Unit.ABSENT
        assert await rig.supervisor.list_sids() == frozenset()

    async def test_stop_ends_children_that_hide(self, rig: Rig) -> None:
        rig.watch()
        spec = rig.spec("fork")
        await rig.supervisor.start(spec)
        await rig.file(spec, "child")
        await rig.supervisor.stop(spec.vm.sid)
        assert not [entry for entry in Path("/proc").glob("[0-9]*") if uid_of(entry) == spec.vm.uid]

    async def test_children_end_with_the_shim(self, rig: Rig) -> None:
        rig.watch()
        reader, writer = os.pipe()
        spec = rig.spec("fork", "lifeline", lifeline=reader)
        await rig.supervisor.start(spec)
        os.close(reader)
        await rig.file(spec, "child")
        os.close(writer)
        await rig.until(spec.vm.sid, Unit.ABSENT)
        assert not [entry for entry in Path("/proc").glob("[0-9]*") if uid_of(entry) == spec.vm.uid]

    async def test_lifeline(self, rig: Rig) -> None:
        rig.watch()
        reader, writer = os.pipe()
        try:
            spec = rig.spec("lifeline", lifeline=reader)
            await rig.supervisor.start(spec)
        finally:
            os.close(reader)
        assert await rig.supervisor.observe(spec.vm.sid) is Unit.ACTIVE
        os.close(writer)
        await rig.until(spec.vm.sid, Unit.ABSENT)

    async def test_what_the_shim_is_given(self, rig: Rig) -> None:
        spec = rig.spec("report")
        # Neither this process's environment nor its descriptors are any business of a VM's.
        os.environ["BANGER_SECRET"] = "s"
        inherited = os.open("/dev/null", os.O_RDONLY)
        os.set_inheritable(inherited, True)
        try:
            await rig.supervisor.start(spec)
            report = json.loads(await rig.file(spec, "report"))
        finally:
            del os.environ["BANGER_SECRET"]
            os.close(inherited)
            await rig.supervisor.stop(spec.vm.sid)
        assert report["uid"] == [spec.vm.uid] * 3
        assert report["gid"] == [spec.vm.uid] * 3
        assert set(report["groups"]) <= {spec.vm.uid}
        assert report["cwd"] == str(spec.run_dir)
        assert report["umask"] == 0
        assert report["stdin"] == "/dev/null"
        assert report["session"]
        assert "BANGER_SECRET" not in report["env"]
        assert len(report["fds"]) <= 4  # three, and under the process supervisor its record

    async def test_a_restarted_service_finds_its_vms(self, rig: Rig) -> None:
        spec = rig.spec("run")
        await rig.supervisor.start(spec)
        await rig.supervisor.close()
        rig.supervisor = await rig.again()
        rig.watch()
        assert await rig.supervisor.list_sids() == {spec.vm.sid}
        await rig.until(spec.vm.sid, Unit.ACTIVE)
        await rig.supervisor.stop(spec.vm.sid)
        await rig.until(spec.vm.sid, Unit.ABSENT)
        assert await rig.supervisor.list_sids() == frozenset()

    async def test_a_restarted_service_sees_the_end(self, rig: Rig) -> None:
        reader, writer = os.pipe()
        spec = rig.spec("lifeline", lifeline=reader)
        await rig.supervisor.start(spec)
        os.close(reader)
        await rig.supervisor.close()
        rig.supervisor = await rig.again()
        rig.watch()
        await rig.until(spec.vm.sid, Unit.ACTIVE)
        os.close(writer)
        await rig.until(spec.vm.sid, Unit.ABSENT)

    async def test_many_at_once(self, rig: Rig) -> None:
        specs = [rig.spec("run", number=number) for number in range(1, 9)]
        await asyncio.gather(*(rig.supervisor.start(spec) for spec in specs))
        assert await rig.supervisor.list_sids() == {spec.vm.sid for spec in specs}
        await asyncio.gather(*(rig.supervisor.stop(spec.vm.sid) for spec in specs))
        assert await rig.supervisor.list_sids() == frozenset()


def uid_of(process: Path) -> int:
    """-1 when there is no such process."""
    try:
        status = (process / "status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return -1
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    return -1 if fields["State"].startswith("Z") else int(fields["Uid"].split()[0])
