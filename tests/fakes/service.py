"""The core on an in-memory host, as one thing to start, ask and crash in a test."""

import asyncio

from bangerd.config import Config
from bangerd.core.jobs import Caller, Job, Jobs
from bangerd.core.requests import CreateRequest
from bangerd.core.vms import VMs
from bangerd.model.vm import VM, VMState
from tests.fakes.ports import World, fake_ports

ALICE = Caller(1000, "alice", ":1.1")
BOB = Caller(1001, "bob", ":1.2")


class Service:
    """The core on one world; closed at the end of the test, or crashed in mid-way and built anew."""

    def __init__(self, world: World, config: Config | None = None, *, isolates_owners: bool = True) -> None:
        self.world = world
        self.ports = fake_ports(world, config, isolates_owners=isolates_owners)
        self.jobs = Jobs()
        self.vms = VMs(self.ports, self.jobs)

    async def __aenter__(self) -> "Service":
        await self.vms.begin()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.jobs.close()
        await self.vms.close()

    async def run(self, request: CreateRequest, by: Caller = ALICE, lifeline: int | None = None) -> VM:
        """Create and wait; raises what the job failed with."""
        vm, job = await self.vms.create(request, by, lifeline)
        await ended(job)
        return self.vms.get(vm.sid)

    async def settled(self, name: str, state: VMState) -> VM:
        """Wait until the VM shows the state, as its reconciler gets there by itself."""
        async with asyncio.timeout(5):
            while self.vms.state(self.vms.find(name)) is not state:
                await asyncio.sleep(0)
        return self.vms.find(name)

    async def gone(self) -> None:
        async with asyncio.timeout(5):
            while not self.world.nothing_left():
                await asyncio.sleep(0)


async def ended(job: Job) -> None:
    await job.wait()
    if job.error is not None:
        raise job.error
