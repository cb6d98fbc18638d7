"""What a build worker may do, and what of its work is believed: nothing before it was looked at.

Real sandbox, real processes; only the worker is another, told by each test what to try.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bangerd.core.ports import Progress
from bangerd.host import library as library_module
from bangerd.host import worker
from bangerd.host.library import ImageLibrary
from bangerd.host.mirror import Mirror
from bangerd.model.errors import HostNotReady, NoSuchImage, NoSuchKernel, PullFailed

pytestmark = [pytest.mark.root, pytest.mark.needs("mksquashfs")]

SERVICE = Path(worker.__file__).parents[1]
MIRROR = Mirror(
    "http://mirror/debian",
    "http://mirror/security",
    Path("/keyring"),
    ('Acquire::http::Proxy "http://u:secret@p";',),
)

# Start of every fake worker: reports as the real ones send, and a small real squashfs.
PRELUDE = """
import json, os, subprocess, sys, time
from pathlib import Path
def say(**message):
    print(json.dumps(message), flush=True)
def squash(name="rootfs.squashfs"):
    Path("tree/sbin").mkdir(parents=True, exist_ok=True)
    Path("tree/sbin/init").touch()
    subprocess.run(["mksquashfs", "tree", name, "-quiet", "-no-progress"], check=True, stdout=2)
"""
GOOD_IMAGE = """
say(progress={"stage": "download", "done": 1, "total": 2, "unit": "bytes"})
squash()
say(result={"init": "/sbin/init"})
"""
GOOD_KERNEL = """
squash("modules.squashfs")
Path("vmlinuz").write_bytes(bytes(0x1fe) + b"\\x55\\xaa" + b"\\0\\0" + b"HdrS" + bytes(4096))
Path("modules.cpio").write_bytes(b"070701modules")
say(result={"release": "6.1.0", "package": "linux-image", "version": "6.1-1"})
"""


class Bench:
    """A library whose worker runs what a test says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = folder / "state"
        self.package = folder / "bangerd"
        self.libexec = folder / "libexec"
        self.libexec.mkdir()
        (self.libexec / "banger-guest").write_bytes(b"guest program 1")
        for part in ("model", "workers"):
            shutil.copytree(
                SERVICE / part, self.package / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        folder.chmod(0o755)
        monkeypatch.setattr(worker, "_PACKAGE", self.package)

        async def find_mirror(_configured: str) -> Mirror:
            return MIRROR

        monkeypatch.setattr(library_module, "find_mirror", find_mirror)
        self.library = self.open()

    def open(self) -> ImageLibrary:
        """As a service that has just been started."""
        self.state.mkdir(exist_ok=True)
        return ImageLibrary(self.state, libexec_dir=self.libexec, systemd=False)

    def worker_does(self, body: str) -> None:
        for name in ("build_image", "build_kernel"):
            (self.package / f"workers/{name}.py").write_text(PRELUDE + body)

    async def pull(self, report: Callable[[Progress], None] = lambda _p: None) -> str:
        """Pull and return the image's id."""
        return (await self.library.pull_image("debian-bookworm", report)).id

    def leftovers(self) -> list[str]:
        """Files of builds, and processes with the ids of builds."""
        ids = range(worker.UID_FIRST, worker.UID_FIRST + worker.SLOTS * worker.UID_COUNT)
        found = [str(path) for path in (self.state / "work").iterdir()]
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(text.partition("Uid:\t")[2].split()[0]) in ids:
                found.append(text.splitlines()[0])
        return found


@pytest.fixture
async def bench(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    # pytest's own folders are closed to other users, and below /tmp, which workers see empty.
    folder = tmp_path_factory.mktemp("bench")
    yield (made := Bench(folder, monkeypatch))
    assert made.leftovers() == []
    assert list((made.state / "images").glob(".*")) == []


async def test_an_image_enters_whole(bench: Bench) -> None:
    bench.worker_does(GOOD_IMAGE)
    seen: list[Progress] = []
    image = await bench.library.pull_image("debian-bookworm", seen.append)
    assert seen == [Progress("download", 1, 2, "bytes"), Progress("check")]
    path = bench.library.image_path(image)
    digest = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True).stdout.split()[
        0
    ]
    assert (image.digest, image.id, image.size) == (f"sha256:{digest}", digest[:12], path.stat().st_size)
    assert (image.name, image.init, image.owner_uid) == ("debian-bookworm", "/sbin/init", 0)
    for entry in (path.parent, *path.parent.iterdir()):
        seen_stat = entry.stat()
        assert (seen_stat.st_uid, seen_stat.st_gid) == (0, 0)
        assert seen_stat.st_mode & 0o777 == (0o755 if entry.is_dir() else 0o644)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["manifest.json", "rootfs.squashfs"]
    assert bench.library.images() == bench.open().images() == (image,)


async def test_a_kernel_enters_with_its_initrd(bench: Bench) -> None:
    bench.worker_does(GOOD_KERNEL)
    kernel = await bench.library.pull_kernel("debian-bookworm", lambda _p: None)
    assert (kernel.name, kernel.release) == ("debian-bookworm", "6.1.0")
    vmlinuz, initrd, modules = bench.library.kernel_paths(kernel)
    assert b"HdrS" in vmlinuz.read_bytes()
    assert modules.read_bytes().startswith(b"hsqs")
    assert b"guest program 1" in initrd.read_bytes()
    assert initrd.read_bytes().endswith(b"070701modules")
    assert bench.open().kernels() == (kernel,)


async def test_a_new_guest_program_makes_a_new_initrd(bench: Bench) -> None:
    bench.worker_does(GOOD_KERNEL)
    kernel = await bench.library.pull_kernel("debian-bookworm", lambda _p: None)
    initrd = bench.library.kernel_paths(kernel)[1]
    first = initrd.stat().st_ino
    await bench.open().collect()
    assert initrd.stat().st_ino == first  # the same program: left alone
    (bench.libexec / "banger-guest").write_bytes(b"guest program 2")
    upgraded = bench.open()
    await upgraded.collect()
    assert b"guest program 2" in initrd.read_bytes()
    assert initrd.read_bytes().endswith(b"070701modules")
    assert upgraded.kernels() == bench.open().kernels() == (kernel,)
    again = initrd.stat().st_ino
    await bench.open().collect()
    assert initrd.stat().st_ino == again


async def test_remove(bench: Bench) -> None:
    bench.worker_does(GOOD_IMAGE)
    image = await bench.library.pull_image("debian-bookworm", lambda _p: None)
    await bench.library.remove_image(image)
    await bench.library.remove_image(image)
    assert bench.library.images() == bench.open().images() == ()
    assert list((bench.state / "images").iterdir()) == []


async def test_the_same_content_twice_is_one_image(bench: Bench) -> None:
    bench.worker_does(GOOD_IMAGE.replace("squash()", 'squash(); os.utime("rootfs.squashfs")').replace(
        "squash();", 'os.environ["SOURCE_DATE_EPOCH"] = "1"; squash();'))  # fmt: skip
    assert await bench.pull() == await bench.pull()
    assert len(bench.library.images()) == len(list((bench.state / "images").iterdir())) == 1


async def test_two_at_once(bench: Bench) -> None:
    """Each waits until it has seen the other start: by a progress report that the test answers with a file."""
    bench.worker_does(
        """
        say(progress={"stage": "meet", "done": os.stat(".").st_uid, "total": 0, "unit": "items"})
        squash()
        Path("tree/unique").write_bytes(os.urandom(8)); squash()
        say(result={"init": ""})
    """.replace("\n        ", "\n")
    )
    async with asyncio.TaskGroup() as group:
        pulls = [group.create_task(bench.pull()) for _ in range(6)]
    assert len({pull.result() for pull in pulls}) == 6
    assert len(bench.library.images()) == 6


# What a worker that was broken into may try, and what is said then.
@pytest.mark.parametrize(
    ("body", "error", "says"),
    [
        ('say(error={"kind": "network", "text": "no mirror\\x1b[31m"}); sys.exit(1)', PullFailed, r"^no mirror\?"),
        ('say(error={"kind": "space", "text": "disk full"}); sys.exit(1)', HostNotReady, "^disk full"),
        ('say(error={"kind": 5, "text": [1]}); sys.exit(1)', PullFailed, "ended with status 1"),
        ("sys.exit(3)", PullFailed, "ended with status 3"),
        ('print("boom\\nwhy", file=sys.stderr); sys.exit(9)', PullFailed, "status 9: boom; why"),
        ("pass", PullFailed, "ended with status 0"),
        ('say(result={"init": "/sbin/init"})', PullFailed, r"delivered no rootfs.squashfs \(No such file"),
        ('squash(); say(result={"init": "a\\nb"})', PullFailed, "no sane init"),
        ('squash(); say(result={"init": "x" * 999})', PullFailed, "no sane init"),
        ('squash(); say(result={"init": 7})', PullFailed, "no sane init"),
        ('Path("rootfs.squashfs").write_text("PK"); say(result={"init": ""})', PullFailed, "no squashfs"),
        ('Path("rootfs.squashfs").touch(); say(result={"init": ""})', PullFailed, "no plain file"),
        ('squash(); os.truncate("rootfs.squashfs", 200); say(result={"init": ""})', PullFailed, "cut off"),
        ('os.symlink("/etc/shadow", "rootfs.squashfs"); say(result={"init": ""})', PullFailed, "delivered no"),
        ('os.mkfifo("rootfs.squashfs"); say(result={"init": ""})', PullFailed, "no plain file"),
        ('os.mkdir("rootfs.squashfs"); say(result={"init": ""})', PullFailed, "no plain file"),
        ('squash(); os.link("rootfs.squashfs", "b"); say(result={"init": ""})', PullFailed, "no plain file"),
        ('squash(); os.chmod("rootfs.squashfs", 0); say(result={"init": "\\u00e9"})', PullFailed, "no sane init"),
        ('print("hello", flush=True); time.sleep(60)', PullFailed, "says what it should not"),
        ('say(progress={"stage": "../x", "done": 1, "total": 1, "unit": "bytes"})', PullFailed, "should not"),
        ('say(progress={"stage": "a", "done": -1, "total": 1, "unit": "bytes"})', PullFailed, "should not"),
        ('say(progress={"stage": "a", "done": 1, "total": 1, "unit": "apples"})', PullFailed, "should not"),
        ('say(progress={"stage": "a", "done": True, "total": 1, "unit": "bytes"})', PullFailed, "should not"),
        ('say(progress={"stage": "a"})', PullFailed, "should not"),
        ('say(a=1, b=2)', PullFailed, "should not"),
        ('print("[" * 3000, flush=True)', PullFailed, "should not"),
        ('print("1" * 3000, flush=True)', PullFailed, "should not"),
        ('os.write(1, b"x" * 100000); time.sleep(60)', PullFailed, "talks too much"),
        ('[say(progress={"stage": "a", "done": 1, "total": 1, "unit": "bytes"}) for _ in range(100000)]',
         PullFailed, "talks too much"),
    ],
)  # fmt: skip
async def test_hostile_worker(bench: Bench, body: str, error: type[Exception], says: str) -> None:
    bench.worker_does(body)
    with pytest.raises(error, match=says):
        await bench.pull()
    assert bench.library.images() == ()
    assert list((bench.state / "images").iterdir()) == []


async def test_a_kernel_that_is_none(bench: Bench) -> None:
    bench.worker_does(GOOD_KERNEL.replace("HdrS", "ELF!"))
    with pytest.raises(PullFailed, match="vmlinuz is no Linux kernel in bzImage format"):
        await bench.library.pull_kernel("debian-bookworm", lambda _p: None)
    assert list((bench.state / "kernels").iterdir()) == []


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
        HostNotReady, match="needs 2048 MiB of free room in .*, there are 100 MiB; free some room"
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
