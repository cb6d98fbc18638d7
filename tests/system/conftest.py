"""Booted machines, one without and one with banger, for all tests that do not need it fresh."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.system.here import LAB
from tests.system.installed import CHOSEN, ONCE, delete_all, drive, installed_here, installed_machine
from tests.system.machine import Machine
from tests.system.supervisor_contract import STAND_IN, Rig

from bangerd.bus.link import Link
from bangerd.core.ports import Supervisor
from bangerd.host.systemd import SYSTEMD, SystemdSupervisor

EMPTY = Path("/run/banger/empty")
SHIM = Path("/usr/local/lib/banger-test-shim")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test of a session makes the machine's root, too."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(600))


@pytest.fixture(scope="session", params=CHOSEN)
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A booted machine without banger."""
    with Machine.boot(request.param) as booted:
        yield booted


@pytest.fixture(scope="session")
def lab() -> Iterator[Machine]:
    """The lab, with banger installed and the default image and kernel; skips elsewhere."""
    with installed_here() as here:
        yield here


@pytest.fixture(scope="session", params=ONCE)
def installed(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """A machine on which root typed `make install`: a booted one of each suite, or the lab with a VMM."""
    if LAB:
        here: Machine = request.getfixturevalue("lab")
        drive(here, request.param)
        yield here
        return
    with installed_machine(request.param) as booted:
        yield booted


@pytest.fixture
def nothing_left(installed: Machine) -> Iterator[None]:
    """A test's VMs are deleted after it, by their owners, and then there is no trace of any."""
    yield
    delete_all(installed)


@pytest.fixture
async def rig(machine: Machine) -> AsyncIterator[Rig]:
    machine.copy_in(STAND_IN, str(SHIM))
    machine.run("chmod", "755", str(SHIM))
    machine.run("mkdir", "-p", "-m", "711", "/run/banger", "/run/banger/vm", "/var/lib/banger")
    machine.run("mkdir", "-p", str(EMPTY))
    links: list[Link] = []

    async def again() -> Supervisor:
        supervisor = SystemdSupervisor(EMPTY)
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
