"""A guest that does not stop: first its agent is asked, then its power button is pressed, then it is ended."""

import pytest
from tests.fakes.ports import World
from tests.fakes.service import ALICE, Service, ended

from bangerd.core.effects import Effects
from bangerd.core.requests import CreateRequest
from bangerd.model.errors import StepFailed
from bangerd.model.vm import VMState


@pytest.mark.parametrize("button", [None, StepFailed("no answer")])
async def test_a_guest_that_does_not_stop_is_ended(
    monkeypatch: pytest.MonkeyPatch, button: StepFailed | None
) -> None:
    world = World(stops=False)
    if button is not None:
        world.broken["power_button"] = button
    async with Service(world) as service:
        vm = await service.run(CreateRequest())
        monkeypatch.setattr(Effects, "agent_patience_s", 0.01)
        monkeypatch.setattr(service.vms._effects, "patience_s", lambda _step: 0.01)
        await ended(service.vms.stop(vm, ALICE))
        asked = [line for line in world.log if line.split()[0] in ("stop", "power_button", "kill")]
        assert asked == [f"stop {vm.sid}", f"power_button {vm.sid}", f"kill {vm.sid}"]
        assert service.vms.state(vm) is VMState.STOPPED


async def test_a_guest_without_its_agent_is_stopped_by_the_power_button(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(stops=False, heeds_button=True)
    async with Service(world) as service:
        vm = await service.run(CreateRequest())
        monkeypatch.setattr(Effects, "agent_patience_s", 0.01)
        for _ in range(2):  # what was pressed once counts for one run
            await ended(service.vms.stop(vm, ALICE))
            assert service.vms.state(vm) is VMState.STOPPED
            await ended(service.vms.start(vm, ALICE))
        assert world.log.count(f"power_button {vm.sid}") == 2
        assert f"kill {vm.sid}" not in world.log
