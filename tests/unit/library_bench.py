"""A library of images whose build workers do what a test says, in the real sandbox."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bangerd.core.ports import Progress
from bangerd.host import library as library_module
from bangerd.host import worker
from bangerd.host.library import ImageLibrary
from bangerd.host.mirror import Mirror

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
Path("vmlinux").write_bytes(b"\\x7fELF\\x02\\x01" + bytes(12) + b"\\x3e" + bytes(4096))
Path("vmlinuz").write_bytes(bytes(0x1fe) + b"\\x55\\xaa" + b"\\0\\0" + b"HdrS" + bytes(4096))
Path("modules.cpio").write_bytes(b"070701modules")
say(result={"release": "6.1.0", "package": "linux-image", "version": "6.1-1"})
"""


class Bench:
    """A library whose worker runs what a test says."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.state = folder / "state"
        self.plain: tuple[str, ...] = ()
        self.denied: tuple[str, ...] = ()
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
        return ImageLibrary(
            self.state,
            libexec_dir=self.libexec,
            systemd=False,
            insecure_registries=self.plain,
            denied=self.denied,
        )

    def worker_does(self, body: str) -> None:
        for name in ("build_image", "build_kernel"):
            (self.package / f"workers/{name}.py").write_text(PRELUDE + body)

    async def pull(self, report: Callable[[Progress], None] = lambda _p: None) -> str:
        """Pull and return the image's id."""
        return (await self.library.pull_image("debian-bookworm", report)).id

    def leftovers(self) -> list[str]:
        """Files of builds, and processes with the ids of builds; not those of another library on this machine."""
        ids = range(worker.UID_FIRST, worker.UID_FIRST + worker.SLOTS * worker.UID_COUNT)
        found = [str(path) for path in (self.state / "work").iterdir()]
        ours = str(self.state).encode()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                text = (folder / "status").read_text()
                if int(text.partition("Uid:\t")[2].split()[0]) not in ids:
                    continue
                named = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if ours in named:
                found.append(text.splitlines()[0])
        return found
