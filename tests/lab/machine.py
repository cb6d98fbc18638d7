"""The lab: a whole machine with systemd, cgroup v2 and KVM, under QEMU. Without hardware for it, SVM is emulated.

It is started by banger's own shim, booted by banger's own initrd, and spoken to through its guest program: what is
tested in it is tested on it.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from banger import messages, transfer
from banger.errors import Failure
from bangerd.host import initrd
from bangerd.model.seed import Seed
from tests.guest.machine import build_library
from tests.lab.root import NATIVE, lab_kernel, lab_root, payload
from tests.system.debian_root import CACHE

MEMORY_MIB = 8192
DISK = 64 << 30
BOOT_S = 180
FOLDER = "machine"
# QEMU's vCPUs have one TSC, which Linux does not believe without being told; the other clocks take an exit for each
# look. And nobody is to be kept apart here by what makes each indirect jump of the kernel slow.
QUICK = "tsc=reliable mitigations=off norandmaps"
NESTING = ("-accel", "kvm", "-cpu", "host")
EMULATED = ("-accel", "tcg,thread=multi,tb-size=1024", "-cpu", "max,+svm,+npt")


class LabError(Exception):
    """The lab did not come up, or a command could not be run in it."""


class Lab:
    """A running lab machine. Made by `boot`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.emulated = not _nests()
        self._shim: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def boot(cls, firecracker: str = "") -> Iterator[Self]:
        """`firecracker`: path of a binary for /lab/firecracker; what else is in /lab, tests/lab/root.py tells.

        Raises LabError when it does not come up.
        """
        library = build_library(CACHE.parent)
        for left in CACHE.glob(f"{FOLDER}-*"):  # by a run that was killed
            if not Path(f"/proc/{left.name.split('-')[1]}").is_dir():
                shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=f"{FOLDER}-{os.getpid()}-", dir=CACHE) as work:
            lab = cls(Path(work))
            kernel = lab_kernel()
            disks = [
                (lab._seed(), True), (lab_root(), True), (kernel / "modules.squashfs", True), (lab._disk(), False),
                (payload(Path(work), library, firecracker), True),
            ]  # fmt: skip
            try:
                lab._start(kernel, disks)
                yield lab
            finally:
                lab._end()

    def _seed(self) -> Path:
        roles = ("image", "modules", "data", "mount:/lab")
        seed = self.folder / "seed.img"
        seed.write_bytes(Seed(hostname="lab", disks=roles, init="/sbin/init").encode())
        return seed

    def _disk(self) -> Path:
        disk = self.folder / "disk.ext4"
        with disk.open("wb") as file:
            file.truncate(DISK)
        subprocess.run(
            ["mke2fs", "-q", "-F", "-t", "ext4", "-E", "lazy_itable_init=1", str(disk)], check=True
        )
        return disk

    def _start(self, kernel: Path, disks: list[tuple[Path, bool]]) -> None:
        program, _ = initrd.read_program(NATIVE / "banger-guest")
        initrd.write(self.folder / "initrd", program, kernel / "modules.cpio")
        argv = [
            "qemu-system-x86_64", "-M", "q35", *(EMULATED if self.emulated else NESTING),
            "-smp", str(min(4, os.cpu_count() or 1)), "-m", f"{MEMORY_MIB}M",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-kernel", str(kernel / "vmlinuz"), "-initrd", str(self.folder / "initrd"),
            "-append", f"quiet console=ttyS0 cryptomgr.notests panic=-1 {QUICK}",
            "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
            "-chardev", "socket,id=guest,fd=3", "-device", "virtio-serial-pci",
            "-device", "virtserialport,chardev=guest,name=banger.0",
        ]  # fmt: skip
        for index, (path, read_only) in enumerate(disks):
            how = f"if=none,id=disk{index},format=raw,file={path},readonly={'on' if read_only else 'off'}"
            argv += ["-drive", f"{how},file.locking=off", "-device", f"virtio-blk-pci,drive=disk{index}"]
        # In a session of its own: a Ctrl-C is for us, who then end it. If we are killed it goes too.
        shim = ["setpriv", "--pdeathsig=TERM", "--", str(NATIVE / "banger-shim"), "--dir", str(self.folder)]
        self._shim = subprocess.Popen(
            [*shim, "--channel", "fd", "--", *argv], stdin=subprocess.DEVNULL, start_new_session=True
        )
        self._await("control.sock")
        self.run("systemctl", "is-system-running", "--wait", check=False)
        self.sh("modprobe kvm-amd || modprobe kvm-intel; modprobe tun; udevadm settle; ls -l /dev/kvm")

    def _await(self, name: str) -> None:
        deadline = time.monotonic() + BOOT_S
        while not (self.folder / name).exists():
            if not self.runs() or time.monotonic() > deadline:
                raise LabError(f"the lab does not start: {self.console()}")
            time.sleep(0.05)

    def runs(self) -> bool:
        """Whether the machine is there still."""
        return self._shim is not None and self._shim.poll() is None

    def console(self, *, whole: bool = False) -> str:
        """What its console shows, and what QEMU said: the last lines."""
        texts = [(self.folder / name) for name in ("console.log", "vmm.log")]
        shown = [path.read_text(errors="replace") for path in texts if path.exists()]
        return "\n".join(text if whole else text[-3000:] for text in shown)

    def _session(self) -> int:
        link = socket.socket(socket.AF_UNIX)
        link.connect(str(self.folder / "guest.sock"))
        link.sendall(b"CONNECT 1\n")
        answer = b""
        while not answer.endswith(b"\n"):
            data = link.recv(1)
            if not data:
                raise LabError(f"the lab takes no session ({answer!r}): {self.console()}")
            answer += data
        if not answer.startswith(b"OK"):
            raise LabError(f"the lab takes no session ({answer!r}): {self.console()}")
        return link.detach()

    def run(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        sink: Callable[[memoryview], object] = lambda _data: None,
        check: bool = True,
    ) -> int:
        """Run a command as root to its end; `sink` gets its output. Returns its status. Raises LabError if `check`."""
        variables = tuple(f"{name}={value}" for name, value in (env or {}).items())
        said = bytearray()

        def take(data: memoryview) -> None:
            said.extend(data)
            sink(data)

        command = messages.Command(argv, env=variables, workdir=cwd)
        try:
            outcome = transfer.run(self._session(), command, sink=take)
        except Failure as exc:
            raise LabError(f"{argv}: {exc}\n{self.console()}") from None
        if check and outcome.status:
            raise LabError(
                f"{argv} ended with {outcome.status}: {said.decode(errors='replace')}{outcome.stderr}"
            )
        return outcome.status

    def sh(self, script: str) -> str:
        """A shell script's output. Raises LabError when it fails."""
        said = bytearray()
        self.run("sh", "-ec", script, sink=said.extend)
        return said.decode(errors="replace")

    def _end(self) -> None:
        if self._shim is not None and self.runs():
            self._shim.send_signal(signal.SIGTERM)  # the guest powers off
            self._shim.wait()


def _nests() -> bool:
    """Whether a guest of this machine can have KVM in hardware."""
    modules = [Path("/sys/module") / name / "parameters/nested" for name in ("kvm_intel", "kvm_amd")]
    nested = any(path.exists() and path.read_text()[0] in "Y1" for path in modules)
    return nested and os.access("/dev/kvm", os.W_OK)
