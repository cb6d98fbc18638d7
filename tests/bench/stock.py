"""The way people do it by hand: Debian's own initrd, an ext4 image copied for each VM, user networking, ssh.

The image is made once: a minimal Debian with its cloud kernel, systemd-networkd and sshd, and the initrd that
initramfs-tools made while the kernel was installed.
"""

import hashlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

RECIPE = 2  # a change here makes a new image
SUITE = "bookworm"
PACKAGES = ("systemd-sysv", "openssh-server", "linux-image-cloud-amd64", "dbus")
IMAGE_BYTES = 4 * 1024**3
NETWORK = "[Match]\nType=ether\n[Network]\nDHCP=yes\n"
PATIENCE_S = 600.0
RETRY_S = 0.05


@dataclass(frozen=True, slots=True)
class Stock:
    """What was built once: root.ext4, vmlinuz, initrd.img and the key id in one folder."""

    folder: Path

    @property
    def release(self) -> str:
        return (self.folder / "release").read_text().strip()


@dataclass(frozen=True, slots=True)
class Run:
    """One cold run, milliseconds from before the copy: `copied`, and `answered` when ssh had the status of true."""

    copied: float
    answered: float


def prepare(cache: Path) -> Stock:
    """The image, made within some minutes if it is not there. Raises RuntimeError."""
    for tool in ("mmdebstrap", "mke2fs", "ssh", "ssh-keygen"):
        if not shutil.which(tool):
            raise RuntimeError(f"{tool} is not installed; on Debian: mmdebstrap, e2fsprogs, openssh-client")
    recipe = " ".join([str(RECIPE), SUITE, *PACKAGES, str(IMAGE_BYTES), NETWORK])
    done = cache / f"stock-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not done.is_dir():
        making = cache / f"making-stock-{os.getpid()}"
        making.mkdir(parents=True)
        try:
            _make(making)
            making.rename(done)
        finally:
            if making.is_dir():
                shutil.rmtree(making)
    return Stock(done)


def _make(folder: Path) -> None:
    root = folder / "root"
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", str(folder / "id"))
    mirror = os.environ.get("BANGER_MIRROR", "")
    _run(
        "mmdebstrap", "--mode=root", "--variant=minbase", "--quiet", f"--include={','.join(PACKAGES)}",
        '--aptopt=APT::Install-Recommends "false"', "--customize-hook=chroot $1 systemctl enable systemd-networkd",
        SUITE, str(root), *([mirror] if mirror else []),
    )  # fmt: skip
    (root / "etc/hostname").write_text("stock\n")
    (root / "etc/systemd/network/80-dhcp.network").write_text(NETWORK)
    ssh = root / "root/.ssh"
    ssh.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(folder / "id.pub", ssh / "authorized_keys")
    (kernel,) = (root / "boot").glob("vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    shutil.copy(kernel, folder / "vmlinuz")
    shutil.copy(root / "boot" / f"initrd.img-{release}", folder / "initrd.img")
    (folder / "release").write_text(release + "\n")
    image = folder / "root.ext4"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    _run("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(root), str(image))
    shutil.rmtree(root)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{argv[0]} ended with {done.returncode}: {done.stderr[-2000:]}")


def run(stock: Stock, folder: Path, machine: Sequence[str]) -> Run:
    """Copy, boot, ssh until true was run, kill. `machine`: QEMU's binary with accelerator, CPUs and memory, as for
    the other ways. Raises RuntimeError."""
    disk = folder / "stock.ext4"
    port = _free_port()
    start = time.monotonic()
    try:
        subprocess.run(["cp", "--sparse=always", str(stock.folder / "root.ext4"), str(disk)], check=True)
        copied = time.monotonic()
        with (folder / "stock.log").open("wb") as log:
            qemu = subprocess.Popen(
                _argv(stock, disk, port, machine), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        try:
            _answer(stock, port, qemu)
            answered = time.monotonic()
        finally:
            qemu.kill()
            qemu.wait()
    finally:
        disk.unlink(missing_ok=True)
    return Run((copied - start) * 1000, (answered - start) * 1000)


def _argv(stock: Stock, disk: Path, port: int, machine: Sequence[str]) -> list[str]:
    return [
        *machine, "-nographic", "-no-reboot",
        "-kernel", str(stock.folder / "vmlinuz"), "-initrd", str(stock.folder / "initrd.img"),
        "-append", "root=/dev/vda rw quiet console=ttyS0",
        "-drive", f"file={disk},format=raw,if=virtio",
        "-netdev", f"user,id=net0,hostfwd=tcp:127.0.0.1:{port}-:22", "-device", "virtio-net-pci,netdev=net0",
    ]  # fmt: skip


def _answer(stock: Stock, port: int, qemu: "subprocess.Popen[bytes]") -> None:
    argv = [
        "ssh", "-F", "none", "-q", "-i", str(stock.folder / "id"), "-p", str(port), "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "ConnectTimeout=1",
        "root@127.0.0.1", "true",
    ]  # fmt: skip
    deadline = time.monotonic() + PATIENCE_S
    while subprocess.run(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        if qemu.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the stock VM does not answer on ssh; its console is in stock.log")
        time.sleep(RETRY_S)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
