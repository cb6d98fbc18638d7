"""The service dies at every point of every command: the next one finishes what was wanted, and nothing is lost."""

import asyncio

import pytest
from tests.fakes.ports import World
from tests.fakes.service import ALICE, Service, ended

from bangerd.core.requests import CreateRequest
from bangerd.model.lifecycle import Step
from bangerd.model.vm import VM, Desired, VMState


def crash_points() -> list[str]:
    return [step.name.lower() + suffix for step in Step for suffix in ("", "_done")]


async def crash(service: Service, point: str, act: str, vm: VM) -> None:
    """Run `act` on a service that dies at `point`, or once it is done when it does not come by there."""
    died = asyncio.Event()

    async def hook(reached: str) -> None:
        if reached == point and not died.is_set():
            died.set()
            await asyncio.Event().wait()  # nothing happens any more

    object.__setattr__(service.ports, "hook", hook)
    getattr(service.vms, act)(vm, ALICE)
    death = asyncio.create_task(died.wait())
    job = service.jobs.running(f"vm/{vm.sid}")
    assert job is not None
    finish = asyncio.create_task(job.wait())
    async with asyncio.timeout(5):
        await asyncio.wait({death, finish}, return_when=asyncio.FIRST_COMPLETED)
    for task in (death, finish):
        task.cancel()
    for machine in service.vms._machines.values():
        if machine._task is not None:
            machine._task.cancel()
            await asyncio.wait({machine._task})
    await asyncio.wait({death, finish})
    await service.jobs.close()


@pytest.mark.parametrize("point", crash_points())
@pytest.mark.parametrize("act", ["start", "stop", "delete", "pause"])
@pytest.mark.parametrize("cached", [False, True], ids=["", "cache"])
async def test_a_crash_at_any_point_loses_nothing(act: str, point: str, *, cached: bool) -> None:
    world = World()
    service = Service(world)
    await service.vms.begin()
    caches = {"/root/go": "go"} if cached else {}
    vm = await service.run(CreateRequest(name="web", start=act != "start", caches=caches))
    await crash(service, point, act, vm)
    wanted = {
        "start": Desired.RUNNING,
        "stop": Desired.STOPPED,
        "delete": Desired.ABSENT,
        "pause": Desired.PAUSED,
    }[act]
    async with Service(world) as again:
        if wanted is Desired.ABSENT:
            await again.gone()
            return
        states = {
            Desired.RUNNING: VMState.RUNNING,
            Desired.STOPPED: VMState.STOPPED,
            Desired.PAUSED: VMState.PAUSED,
        }
        await again.settled("web", states[wanted])
        async with asyncio.timeout(5):
            while (vm.sid in world.taps) is (wanted is Desired.STOPPED):
                await asyncio.sleep(0)
            while cached and bool(world.caches[1000, "go"]) is (wanted is Desired.STOPPED):
                await asyncio.sleep(0)
        await ended(again.vms.delete(again.vms.find("web"), ALICE))
        assert world.nothing_left()
