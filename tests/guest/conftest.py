"""Fixtures of the guest layer: one machine for the whole session, its users, and nothing left after each test."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bangerd.host.facts import probe_kvm
from tests.guest.machine import ALICE, BOB, STRANGER, Machine, Terminal, User, build_library

TOP = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="session")
def cache() -> Path:
    """Where images, kernels and VMs' disks of tests are; kept between runs, but for the VMs."""
    folder = Path(os.environ.get("BANGER_TEST_CACHE") or TOP / ".cache/tests")
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


@pytest.fixture(scope="session")
def library(cache: Path) -> Path:
    """A state folder with the default image and kernel, made by bangerd on the first run."""
    return build_library(cache)


@pytest.fixture(scope="session")
def firecracker_bin() -> Path:
    """The program that FIRECRACKER_BIN names. Skips where it names none, or KVM does not work."""
    binary = os.environ.get("FIRECRACKER_BIN", "")
    works, why = probe_kvm()
    if not binary or not works:
        pytest.skip(f"needs Firecracker: {why if binary else 'FIRECRACKER_BIN names no binary'}")
    return Path(binary)


@pytest.fixture(scope="session", params=("firecracker", "qemu"))
def vmm_config(request: pytest.FixtureRequest) -> str:
    """The admin's config that makes this VMM drive the guests. Firecracker: where FIRECRACKER_BIN and KVM are."""
    if request.param == "qemu":
        return 'vmm = "qemu"\n'
    return f'vmm = "firecracker"\nfirecracker_bin = "{request.getfixturevalue("firecracker_bin")}"\n'


@pytest.fixture(scope="session")
def machine(cache: Path, library: Path, vmm_config: str) -> Iterator[Machine]:
    """The machine that most tests share. Its VMs are the tests' own."""
    folder = cache / f"machine-{os.getpid()}"
    folder.mkdir()
    made = Machine(f"bgt{os.getpid()}", folder, library, vmm_config)
    try:
        made.start()
        yield made
    finally:
        made.close()
        shutil.rmtree(folder)


@pytest.fixture
def alice(machine: Machine) -> Iterator[User]:
    """A user who may use banger. After the test no trace of a VM may be there that was not there before."""
    user = machine.user(ALICE)
    before = machine.traces()
    kept = {vm["name"] for vm in user.json("vm", "list")} if before else set()
    yield user
    left = [trace for trace in machine.traces() if trace not in before]
    if left:
        for owner in (user, machine.user(BOB)):
            for vm in owner.json("vm", "list"):
                if vm["name"] not in kept:
                    owner.banger("vm", "delete", vm["name"])
    assert not left, f"traces of VMs: {left}"


@pytest.fixture
def bob(machine: Machine, alice: User) -> User:
    """Another user whom a rule lets use banger."""
    return machine.user(BOB)


@pytest.fixture
def stranger(machine: Machine, alice: User) -> User:
    """A user to whom no polkit rule gives anything."""
    return machine.user(STRANGER)


@pytest.fixture
def terminal(alice: User) -> Iterator[Callable[..., Terminal]]:
    """Run a command of Alice's on a pseudo-terminal."""
    opened: list[Terminal] = []

    def run(*argv: str, rows: int = 24, columns: int = 80) -> Terminal:
        opened.append(Terminal(alice, *argv, rows=rows, columns=columns))
        return opened[-1]

    yield run
    for one in opened:
        one.close()
