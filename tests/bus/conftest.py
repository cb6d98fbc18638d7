"""The bus edge over a real core on an in-memory host, on a real bus with a real polkitd."""

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from bangerd.bus.core import Core
from bangerd.bus.server import Server
from bangerd.config import Config
from bangerd.core.doctor import Doctor
from bangerd.core.effects import Ports
from bangerd.core.images import Images
from bangerd.core.jobs import Jobs
from bangerd.core.vms import VMs
from tests.bus.caller import Client
from tests.bus.rig import POLKITD, TOP, Rig, rig
from tests.fakes.ports import World, fake_ports

HERE = Path(__file__).parent
USERS = {0: "root", 1000: "alice", 1001: "bob", 1002: "carol", 1003: "boss"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of this folder need a bus and polkit, and to be root in order to be anybody else."""
    for item in items:
        on_a_bus = inspect.iscoroutinefunction(getattr(item, "function", None))
        if item.path.parent == HERE and on_a_bus and item.path.name != "test_wire.py":
            item.add_marker("root")
            item.add_marker(pytest.mark.needs("dbus-daemon", "dbus-send", POLKITD))


class Service:
    """bangerd without its host, on one bus."""

    def __init__(self, address: str, world: World, config: Config | None = None) -> None:
        self.world = world
        self.ports: Ports = fake_ports(world, config or Config(max_vms_per_user=10_000))
        self.jobs = Jobs()
        self.vms = VMs(self.ports, self.jobs)
        self.images = Images(self.ports, self.jobs, self.vms)
        self.core = Core(
            vms=self.vms,
            images=self.images,
            jobs=self.jobs,
            doctor=Doctor(self.ports),
            version="0.1.0",
            capabilities=("fake",),
            catalog=self.ports.library.catalog,
            user_name=lambda uid: USERS.get(uid, str(uid)),
        )
        self.server = Server(address, self.core)

    async def __aenter__(self) -> "Service":
        await self.server.open()
        await self.vms.begin()
        await self.server.publish()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.server.close()
        await self.jobs.close()
        await self.vms.close()


@pytest.fixture(scope="session")
def bus() -> Iterator[Rig]:
    """A bus on which alice and bob, as members of group devs, may use banger."""
    with rig([TOP / "polkit/examples/50-banger-devs.rules"]) as running:
        yield running


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def service(bus: Rig, world: World) -> AsyncIterator[Service]:
    async with Service(bus.address, world) as running:
        yield running


@pytest.fixture
async def user(bus: Rig) -> AsyncIterator[Callable[[int], Awaitable[Client]]]:
    """`await user(ALICE)`: a fresh connection of that uid, closed at the end of the test."""
    async with AsyncExitStack() as stack:

        async def connect(uid: int) -> Client:
            return await stack.enter_async_context(await Client.connect(bus.address, uid))

        yield connect
