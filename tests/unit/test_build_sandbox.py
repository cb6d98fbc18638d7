"""What a build worker can do in its sandbox, and that nothing outlives it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.unit.library_bench import GOOD_IMAGE, MIRROR, Bench

from bangerd.host import worker
from bangerd.model.errors import HostNotReady, NoSuchImage, NoSuchKernel, PullFailed

pytestmark = [pytest.mark.root, pytest.mark.needs("mksquashfs")]


PROBE = """
import glob, socket
def attempt(action):
    try:
        return action()
    except OSError as exc:
        return type(exc).__name__
facts = {
    "uid": os.getuid(), "pid": os.getpid(), "map": Path("/proc/self/uid_map").read_text().split(),
    "processes": sorted(glob.glob("/proc/[0-9]*")),
    "shadow": attempt(lambda: Path("/etc/shadow").read_text()[:1]),
    "root": os.listdir("/root"), "home": os.listdir("/home"), "run": sorted(os.listdir("/run")),
    "writes": [path for path in ("/etc/x", "/tmp/x", "/var/tmp/x", "/usr/x", "/dev/shm/x", "/var/lib/x", "../x")
               if attempt(lambda: Path(path).touch()) is None],
    "mount": attempt(lambda: subprocess.run(["mount", "-o", "remount,rw", "/"], stderr=2).returncode),
    "no_new_privs": "NoNewPrivs:\\t1" in Path("/proc/self/status").read_text(),
    "stop_service": attempt(lambda: os.kill(os.getppid(), 0)),
    "options": Path(sys.argv[sys.argv.index("--apt-options") + 1]).read_text(),
    "leaked": sorted(int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) > 3),
    "tmpdir": os.environ["TMPDIR"] == os.getcwd(), "env": sorted(os.environ),
    "nofile": attempt(lambda: os.truncate(os.open("big", os.O_CREAT | os.O_WRONLY), 9 << 30)),
}
Path("facts").write_text(json.dumps(facts))
say(error={"kind": "failed", "text": json.dumps(facts)[:600]}); sys.exit(1)
"""


async def test_what_the_worker_can_do(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    facts: dict[str, object] = {}

    def keep(folder: Path) -> None:
        facts.update(json.loads((folder / "build/facts").read_text()))
        remove(folder)

    remove = worker._remove
    monkeypatch.setattr(worker, "_remove", keep)
    bench.worker_does(PROBE)
    secret = Path("/root/banger-test-secret")
    secret.write_text("secret")
    try:
        with pytest.raises(PullFailed):
            await bench.pull()
    finally:
        secret.unlink()
    base = worker.UID_FIRST
    assert facts["map"] is not None
    inside, outside, count = map(int, facts.pop("map"))  # type: ignore[call-overload]
    assert (inside, count) == (0, 65536)
    assert (outside - base) % worker.UID_COUNT == 0
    assert 0 <= outside - base < worker.SLOTS * worker.UID_COUNT
    assert facts.pop("options") == MIRROR.apt_options[0] + "\n"
    assert set(facts.pop("run")) <= {"systemd", "resolvconf", "NetworkManager"}  # type: ignore[call-overload]
    assert facts == {
        "uid": 0, "pid": 1, "processes": ["/proc/1"], "shadow": "PermissionError", "root": [], "home": [],
        "writes": [], "mount": 32, "no_new_privs": True, "stop_service": None, "leaked": [], "tmpdir": True,
        "env": ["HOME", "LC_ALL", "PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "TMPDIR"],
        "nofile": "OSError",
    }  # fmt: skip


STUBBORN = """
import signal
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
Path("deep/er").mkdir(parents=True); os.chmod("deep", 0)
for _ in range(3):
    subprocess.Popen(["setsid", "sleep", "1000"])
say(progress={"stage": "stuck", "done": 0, "total": 0, "unit": "bytes"})
time.sleep(1000)
"""


async def test_cancellation_ends_all_of_it(bench: Bench) -> None:
    bench.worker_does(STUBBORN)
    stuck = asyncio.Event()
    pull = asyncio.create_task(bench.pull(lambda _p: stuck.set()))
    await stuck.wait()
    assert len(bench.leftovers()) >= 5  # the folder, the worker, its three children
    pull.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pull
    assert bench.leftovers() == []


async def test_cancelled_twice(bench: Bench) -> None:
    bench.worker_does(STUBBORN)
    stuck = asyncio.Event()
    pull = asyncio.create_task(bench.pull(lambda _p: stuck.set()))
    await stuck.wait()
    while not pull.done():
        pull.cancel()
        await asyncio.sleep(0.001)
    assert bench.leftovers() == []


KILLED = """
import asyncio, sys
from contextlib import AsyncExitStack
from pathlib import Path
from bangerd.host import library, worker
from bangerd.host.mirror import Mirror
worker._PACKAGE = Path(sys.argv[1])
async def find_mirror(_c): return Mirror("m", "s", Path("/k"), ())
library.find_mirror = find_mirror
made = library.ImageLibrary(Path(sys.argv[2]), libexec_dir=Path(sys.argv[3]), systemd=False)
asyncio.run(made.pull_image("debian-bookworm", lambda p: print(p.stage, flush=True)))
"""


async def test_a_killed_service_leaves_nothing(bench: Bench) -> None:
    """kill -9 of the service: its workers die by themselves, and the next start removes their files."""
    bench.worker_does(STUBBORN)
    service = subprocess.Popen(
        [sys.executable, "-c", KILLED, bench.package, bench.state, bench.libexec],
        env={"PYTHONPATH": ":".join(sys.path), "PATH": os.environ["PATH"]}, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert service.stdout is not None
    with service.stdout:
        assert service.stdout.readline() == b"stuck\n"
        assert len(bench.leftovers()) >= 5
        service.send_signal(signal.SIGKILL)
        service.wait()
    await bench.open().collect()
    assert bench.leftovers() == []


async def test_a_killed_sandbox_takes_its_worker_along(bench: Bench) -> None:
    bench.worker_does(STUBBORN)
    stuck = asyncio.Event()
    pull = asyncio.create_task(bench.pull(lambda _p: stuck.set()))
    await stuck.wait()
    own = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    (sandbox,) = [pid for pid in own if b"sandbox.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(sandbox), signal.SIGKILL)
    with pytest.raises(PullFailed, match="ended with status -9"):
        await pull
    deadline = time.monotonic() + 5
    while bench.leftovers() and time.monotonic() < deadline:
        await asyncio.sleep(0.01)


async def test_no_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(bench.state)

    def little(_path: Path) -> os.statvfs_result:
        return os.statvfs_result((real.f_bsize, 4096, real.f_blocks, 5, 25600, 0, 0, 0, 0, 255))

    bench.worker_does(GOOD_IMAGE)
    monkeypatch.setattr(os, "statvfs", little)
    with pytest.raises(
        HostNotReady, match="needs 1536 MiB of free room in .*, there are 100 MiB; free some room"
    ):
        await bench.pull()


async def test_unknown_names(bench: Bench) -> None:
    with pytest.raises(NoSuchImage):
        await bench.library.pull_image("debian-potato", lambda _p: None)
    with pytest.raises(NoSuchKernel):
        await bench.library.pull_kernel("linux-9", lambda _p: None)
    assert "debian-bookworm" in bench.library.catalog()


async def test_manifests_that_are_none(bench: Bench) -> None:
    bench.worker_does(GOOD_IMAGE)
    identity = await bench.pull()
    good = json.loads((bench.state / f"images/{identity}/manifest.json").read_text())
    for number, text in enumerate(
        ("", "[]", "{}", json.dumps({**good, "size": "1"}), json.dumps({**good, "id": "other"}), "\0")
    ):
        folder = bench.state / f"images/{number:012}"
        folder.mkdir()
        (folder / "manifest.json").write_text(text)
    (bench.state / "images/00000000000a").mkdir()
    (bench.state / "images/file").touch()
    del good["labels"]  # a field that an older version did not know
    (bench.state / f"images/{identity}/manifest.json").write_text(json.dumps(good))
    assert [image.id for image in bench.open().images()] == [identity]


async def test_users_leave_a_place_for_what_all_share(tmp_path: Path) -> None:
    """A pipe that nobody writes to holds a worker for as long as its owner likes."""
    workers = worker.Workers(tmp_path / "work", systemd=False)
    async with AsyncExitStack() as stack, asyncio.timeout(30):
        for _ in range(worker.SLOTS - 1):
            await stack.enter_async_context(workers.job("import", of_user=True))
        further = asyncio.create_task(stack.enter_async_context(workers.job("oci", of_user=True)))
        await stack.enter_async_context(workers.job("image"))
        assert not further.done()
        further.cancel()
        await asyncio.wait({further})
    async with workers.job("oci", of_user=True):
        pass
