"""What every test is held to: needs are said, the event loop is not blocked, nothing is left behind."""

import asyncio
import inspect
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from tests.patience import FACTOR, patience

TESTS = Path(__file__).parent
REQUIRE = os.environ.get("BANGER_REQUIRE", "") not in ("", "0")
# A binary that nobody packages, and a machine of its own.
MAY_BE_ABSENT = ("needs Firecracker", "needs the lab")
ROOT_LAYERS = frozenset({"netns", "guest", "system", "lab"})
# Their VMs live in network namespaces of their machines, whose own checks look there; here others may be at work.
AWAY_LAYERS = frozenset({"guest", "system"})


# Started by nohup, or in the background of a script, everything below would ignore these for good.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)


def layer_of(path: Path) -> str:
    parts = path.relative_to(TESTS).parts
    return parts[0] if len(parts) > 1 else "tree"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "root: needs to run as root")
    config.addinivalue_line("markers", "needs(*programs): needs these programs on PATH")
    config.addinivalue_line("markers", "lab: of the subset that tests/lab/run runs where KVM works")


@pytest.hookimpl(trylast=True)  # after the layers' own, which say how long their tests may take
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if layer_of(item.path) in ROOT_LAYERS:
            item.add_marker("root")
        if FACTOR != 1:
            mark = item.get_closest_marker("timeout")
            seconds = mark.args[0] if mark else float(config.getini("timeout"))
            item.add_marker(pytest.mark.timeout(patience(seconds)), append=False)


def unmet(item: pytest.Item) -> str:
    """What this machine lacks for a test, "" if nothing."""
    if item.get_closest_marker("root") and os.geteuid() != 0:
        return "needs root"
    programs = [program for mark in item.iter_markers("needs") for program in mark.args]
    lacking = [
        program
        for program in programs
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    ]
    return f"needs {', '.join(lacking)}: packaging/packages.debian names the packages" if lacking else ""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    reason = unmet(item)
    if reason:
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With BANGER_REQUIRE no need may be unmet, so a skip is a failure, but for what is not everywhere."""
    report = yield
    if REQUIRE and report.skipped and not hasattr(report, "wasxfail"):
        reason = str(call.excinfo.value) if call.excinfo else ""
        if not any(name in reason for name in MAY_BE_ABSENT):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid}: BANGER_REQUIRE is set and this was skipped: {reason}"
    return report


# The loop of the root service may not wait for anything but the loop. Reading and stat of small local files
# are allowed (they do not block for long; what does goes to a thread), and so is what the test itself does.
ALLOWED_BLOCKING = ("os.", "io.", "threading.", "builtins.")


@pytest.fixture(autouse=True)
def loop_not_blocked(request: pytest.FixtureRequest) -> Iterator[None]:
    """In async tests a blocking call made by bangerd on the loop raises BlockingError."""
    if not inspect.iscoroutinefunction(request.function):
        yield
        return
    guard = BlockBuster(scanned_modules=["bangerd"])
    for name in [name for name in guard.functions if name.startswith(ALLOWED_BLOCKING)]:
        del guard.functions[name]
    guard.activate()
    try:
        yield
    finally:
        guard.deactivate()


def children() -> dict[int, str]:
    """Pid and description of every child of this process, zombies included."""
    found: dict[int, str] = {}
    own = os.getpid()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text(encoding="utf-8", errors="replace")
        except OSError:  # it ended meanwhile
            continue
        name, _, rest = text.rpartition(")")
        state, parent, *_ = rest.split()
        if int(parent) == own:
            found[int(stat.parent.name)] = f"{name.partition('(')[2]} ({state})"
    return found


def links() -> frozenset[str]:
    """banger's interfaces in this network namespace."""
    return frozenset(name for _, name in socket.if_nameindex() if name.startswith(("bgr-", "banger")))


def tables() -> frozenset[str]:
    """banger's nft tables in this network namespace."""
    if os.geteuid() != 0 or not (nft := shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin")):
        return frozenset()
    done = subprocess.run([nft, "list", "tables"], capture_output=True, text=True, check=False, timeout=10)
    return frozenset(line for line in done.stdout.splitlines() if "banger" in line)


def units() -> frozenset[str]:
    """banger's VM units, where systemd runs."""
    if not Path("/run/systemd/system").is_dir():
        return frozenset()
    done = subprocess.run(
        ["systemctl", "list-units", "--all", "--plain", "--no-legend", "banger-vm-*"],
        capture_output=True, text=True, check=False, timeout=10,
    )  # fmt: skip
    return frozenset(line.split()[0] for line in done.stdout.splitlines() if line.strip())


def left_behind(before: tuple[frozenset[str] | dict[int, str], ...], layer: str) -> list[str]:
    """What is there now and was not `before`, in words."""
    found = []
    for title, old, new in zip(
        ("child", "interface", "nft table", "unit"), before, world(layer), strict=True
    ):
        found += [f"{title} {new[key] if isinstance(new, dict) else key}" for key in new if key not in old]
    return found


def world(layer: str) -> tuple[dict[int, str], frozenset[str], frozenset[str], frozenset[str]]:
    """Children, links, nft tables and units that are there now; of each only what a test of this layer could make."""
    empty: frozenset[str] = frozenset()
    rooted, here = layer in ROOT_LAYERS, layer not in AWAY_LAYERS
    return (
        children(),
        links() if here else empty,
        tables() if rooted and here else empty,
        units() if rooted else empty,
    )


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fails an async test after which tasks still run on its loop."""
    before = asyncio.all_tasks()
    yield
    left = {task for task in asyncio.all_tasks() if task not in before and not task.done()}
    left -= {asyncio.current_task()}
    assert not left, f"tasks left running: {left}"


@pytest.fixture(autouse=True)
def settled(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: no task, child process, tap, bridge, nft table or unit that was not there before."""
    layer = layer_of(request.path)
    before = world(layer)
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("no_task_left")
    yield
    left = left_behind(before, layer)
    assert not left, f"left behind: {', '.join(left)}"
