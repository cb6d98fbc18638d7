"""The VMM of an in-memory host: pauses, and heeds its power button if the world says so."""

import asyncio

from bangerd.core.vmm import Capability, Launch, Plan, Rates
from bangerd.model.vm import VM, ExitReason, ExitRecord
from tests.fakes.world import World


class FakeVMM:
    name = "fake"
    accelerator = "kvm"
    capabilities = frozenset({Capability.PAUSE})
    reason = "it is the only one"
    missing: tuple[str, ...] = ()

    def __init__(self, world: World) -> None:
        self._world = world

    async def check(self) -> None: ...
    async def plan(self, launch: Launch) -> Plan:
        return Plan(("vmm", launch.vm.sid), ("/dev/kvm",), 64 * 2**20, "fd")

    def meaning(self, status: int) -> str:
        return "it said so" if status == 152 else ""

    async def pause(self, vm: VM) -> None:
        self._world.effect("pause", vm.sid)
        self._world.guests[vm.sid].paused = True

    async def resume(self, vm: VM) -> None:
        self._world.effect("resume", vm.sid)
        self._world.guests[vm.sid].paused = False

    async def paused(self, vm: VM) -> bool:
        self._world.effect("paused", vm.sid)
        return vm.sid in self._world.guests and self._world.guests[vm.sid].paused

    async def power_button(self, vm: VM) -> None:
        self._world.effect("power_button", vm.sid)
        if self._world.heeds_button:
            record = ExitRecord(ExitReason.STOP, ready=True, at=1)
            asyncio.get_running_loop().call_soon(self._world.end, vm.sid, record)

    async def balloon(self, vm: VM, amount: int) -> None: ...
    async def limit(self, vm: VM, rates: Rates) -> None: ...
    async def metrics(self, vm: VM) -> dict[str, object]:
        return {}

    async def snapshot(self, vm: VM, state: str, memory: str) -> None: ...
    async def restore(self, vm: VM, state: str, memory: str, *, resume: bool) -> None: ...

    def of(self, vm: VM) -> "FakeVMM":
        return self
