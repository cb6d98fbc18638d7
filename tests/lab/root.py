"""What the lab machine is made of: its kernel, and Debian with everything that tests need, as a squashfs; both made
once, then cached."""

import asyncio
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bangerd.host.library import ImageLibrary
from tests.guest.machine import recipe
from tests.system.built import build
from tests.system.debian_root import CACHE, REPO, base_root, cached, with_host_network

SOURCE = "/usr/src/banger"
RECIPE = 1
SUITE = "bookworm"
# Not the suite's own, 6.1: as on most hosts of today (since 6.7) KVM can then map a VMM's memory by huge pages, which
# makes a guest's boot another thing.
KERNEL = "debian-trixie"
NATIVE = REPO / "service/native/build"
# What tests/run prepares, but for what only other layers use.
PREPARED = ("pyproject.toml", "packaging/packages.debian", "packaging/prepare")


def lab_kernel() -> Path:
    """A folder as the service has one for each kernel."""
    (kernel,) = (cached(f"kernel-{KERNEL}", [recipe()], _make_kernel) / "kernels").iterdir()
    return kernel


def _make_kernel(folder: Path) -> None:
    mirror = os.environ.get("BANGER_MIRROR", "")
    library = ImageLibrary(folder, libexec_dir=NATIVE, systemd=False, mirror=mirror)
    asyncio.run(library.pull_kernel(KERNEL, lambda _progress: None))


def lab_root() -> Path:
    """The squashfs; its name changes with what it is made from."""
    made_from = [str(RECIPE), base_root(SUITE).name, *((REPO / name).read_text() for name in PREPARED)]
    return cached("lab", made_from, _make) / "root.squashfs"


def _make(folder: Path) -> None:
    """The checkout is prepared in it as tests/run would, where it will be, so that nothing is to be fetched later."""
    folder.mkdir()
    with tempfile.TemporaryDirectory(prefix="banger-lab-", dir=CACHE) as work:
        upper, inner, merged = (Path(work) / name for name in ("upper", "work", "root"))
        for path in (upper, inner, merged):
            path.mkdir()
        options = f"lowerdir={base_root(SUITE)},upperdir={upper},workdir={inner}"
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(merged)], check=True)
        try:
            script = f"""
                mkdir -p {SOURCE}
                cd /src && tar c --exclude=.venv --exclude=.cache --exclude=build . | tar x -C {SOURCE}
                cd {SOURCE} && packaging/prepare test
                apt-get -q -y --no-install-recommends install udev kmod
                apt-get clean && rm -rf /var/lib/apt/lists /root/.cache
            """
            _run(
                "systemd-nspawn", "-q", "-D", str(merged), "--register=no", "--keep-unit", "--console=pipe",
                f"--bind-ro={REPO}:/src", *with_host_network(), "sh", "-ec", script,
            )  # fmt: skip
            _run(
                "mksquashfs", str(merged), str(folder / "root.squashfs"), "-comp", "lz4", "-no-progress", "-quiet",
                "-wildcards", "-e", "proc/*", "sys/*", "dev/*", "run/*", "tmp/*",
            )  # fmt: skip
        finally:
            subprocess.run(["umount", str(merged)], check=True)


def payload(folder: Path, library: Path, binary: str) -> Path:
    """What changes from run to run, as a squashfs.

    In it: the checkout (source), image and kernel (library), checkouts that are built and only need
    `make install` (built), and the program that `binary` names, if any (firecracker).
    """
    stage = folder / "stage"
    stage.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPO, capture_output=True, check=True,
    ).stdout  # fmt: skip
    present = b"\0".join(
        name for name in listed.split(b"\0") if name and (REPO / os.fsdecode(name)).exists()
    )
    (stage / "source").mkdir()
    packed = subprocess.Popen(
        ["tar", "c", "--null", "--files-from=-"], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    unpacked = subprocess.Popen(["tar", "x", "-C", str(stage / "source")], stdin=packed.stdout)
    assert packed.stdin
    packed.stdin.write(present)
    packed.stdin.close()
    assert (packed.wait(), unpacked.wait()) == (0, 0)
    native = stage / "source/service/native/build"
    native.mkdir(parents=True)
    for program in ("banger-shim", "banger-guest"):
        shutil.copy2(NATIVE / program, native / program)
    arguments = [
        "mksquashfs",
        str(stage),
        str(folder / "payload.squashfs"),
        "-noD",
        "-noF",
        "-no-progress",
        "-quiet",
    ]
    _run("cp", "-al", str(library), str(stage / "library"))
    build(SUITE, stage / "source", stage / "built")
    if binary:
        _run("cp", binary, str(stage / "firecracker"))
    _run(*arguments, "-all-root")
    return folder / "payload.squashfs"


def _run(*argv: str) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
