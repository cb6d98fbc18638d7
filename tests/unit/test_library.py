"""What a build worker may do, and what of its work is believed: nothing before it was looked at.

Real sandbox, real processes; only the worker is another, told by each test what to try.
"""

import asyncio
import subprocess

import pytest
from tests.unit.library_bench import GOOD_IMAGE, GOOD_KERNEL, Bench

from bangerd.core.ports import Progress
from bangerd.model.errors import HostNotReady, PullFailed

pytestmark = [pytest.mark.root, pytest.mark.needs("mksquashfs")]


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


async def test_the_same_kernel_gets_other_boot_modules(bench: Bench) -> None:
    """As after an upgrade of banger that needs one more of them."""
    bench.worker_does(GOOD_KERNEL)
    first = await bench.library.pull_kernel("debian-bookworm", lambda _p: None)
    bench.worker_does(GOOD_KERNEL.replace("070701modules", "070701more"))
    second = await bench.library.pull_kernel("debian-bookworm", lambda _p: None)
    assert second.id == first.id
    assert bench.library.kernels() == bench.open().kernels() == (second,)
    assert bench.library.kernel_paths(second)[1].read_bytes().endswith(b"070701more")


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
        ('os.write(1, b"x" * 300000); time.sleep(60)', PullFailed, "talks too much"),
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


@pytest.mark.parametrize(
    ("good", "bad", "says"),
    [
        ("HdrS", "ELF!", "vmlinuz is no Linux kernel in bzImage format"),
        ("\\x3e", "\\xb7", "vmlinux is no kernel in ELF format for x86-64"),
    ],
)
async def test_a_kernel_that_is_none(bench: Bench, good: str, bad: str, says: str) -> None:
    assert good in GOOD_KERNEL
    bench.worker_does(GOOD_KERNEL.replace(good, bad))
    with pytest.raises(PullFailed, match=says):
        await bench.library.pull_kernel("debian-bookworm", lambda _p: None)
    assert list((bench.state / "kernels").iterdir()) == []
