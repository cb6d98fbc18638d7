"""A VMM with nothing of ours around it: no bus, no unit, no shim, no network. The floor of what is started anew.

Seed, disks, kernel, initrd and command line are those that the service makes (`Ground`); what the shim does
otherwise, to reach the guest program and run `true` there, this process does.
"""

import asyncio
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bangerd.core.ports import UnitSpec
from bangerd.core.vmm import Driver, Rates
from bangerd.host.firecracker import Firecracker, read_version
from bangerd.host.firecracker_config import CONFIG, VSOCK
from bangerd.host.qemu import CHANNEL_FD
from tests.bench.cpu import used_ms
from tests.bench.floor import Ground, qemu, without_network
from tests.bench.guest import inside
from tests.bench.link import Link, dial

PATIENCE_S = 120.0
DIAL_S = 0.005


@dataclass(frozen=True, slots=True)
class Boot:
    """One cold boot, seconds since the epoch, and milliseconds inside the guest as its program tells them."""

    start: float
    configured: float  # the VMM has read its configuration
    ready: float  # the guest program has answered
    answered: float  # `true` has run
    guest: dict[str, float]
    cpu: float  # the VMM's until `true` had run, milliseconds


def ground(name: str, folder: Path, state: Path, binary: str) -> Ground:
    """For the VMM called `name`; `binary` is Firecracker's."""
    return Ground(folder, state, _firecracker(Path(binary)) if name == Firecracker.name else qemu)


def _firecracker(binary: Path) -> Callable[[Ground], Driver]:
    version = asyncio.run(read_version(binary))
    return lambda ground: Firecracker(binary, version, ground.disks, Rates())


def boot(ground: Ground) -> Boot:
    """Start it, run `true`, kill it. Raises RuntimeError."""
    unit = ground.unit()
    with ground.prepared() as folder:
        files = [
            (name, _without_interfaces(content) if name == CONFIG else content)
            for name, content in unit.files
        ]
        asyncio.run(ground.disks.write_files(ground.vm, files))
        return (
            _Microvm(folder).boot(unit) if ground.vmm.name == Firecracker.name else _Qemu(folder).boot(unit)
        )


def _without_interfaces(config: bytes | None) -> bytes:
    assert config is not None
    return json.dumps({k: v for k, v in json.loads(config).items() if k != "network-interfaces"}).encode()


class _Direct:
    """One VMM in its run folder."""

    made = ""  # the socket that it makes when it has read its configuration

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes]

    def boot(self, unit: UnitSpec) -> Boot:
        argv = list(unit.argv[unit.argv.index("--") + 1 :])
        console = self.folder / "console"
        with console.open("wb") as out:
            start = time.time()
            sock = self.spawn(argv, out.fileno())
            try:
                link = Link(sock or self.connect())
                link.hello()
                ready = time.time()
                link.run("true")
                answered = time.time()
                cpu = used_ms(self.process.pid)
            except (RuntimeError, OSError) as exc:
                raise RuntimeError(f"{argv[0]}: {exc}; its console: {console.read_text()[-2000:]}") from exc
            finally:
                self.process.kill()
                self.process.wait()
        link.close()
        configured = (self.folder / self.made).lstat().st_ctime
        return Boot(start, configured, ready, answered, inside(console.read_text(errors="replace")), cpu)

    def spawn(self, argv: list[str], out: int) -> socket.socket | None:
        raise NotImplementedError

    def connect(self) -> socket.socket:
        raise NotImplementedError

    def popen(self, argv: list[str], out: int, *descriptors: int) -> None:
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.folder, pass_fds=descriptors
        )


class _Microvm(_Direct):
    made = VSOCK

    def spawn(self, argv: list[str], out: int) -> None:
        self.popen(argv, out)

    def connect(self) -> socket.socket:
        deadline = time.monotonic() + PATIENCE_S
        folder = os.open(
            self.folder, os.O_PATH | os.O_CLOEXEC
        )  # the path may be too long for a socket's address
        try:
            while (sock := dial(f"/proc/self/fd/{folder}/{VSOCK}", PATIENCE_S)) is None:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the guest does not answer")
                time.sleep(DIAL_S)
        finally:
            os.close(folder)
        return sock


class _Qemu(_Direct):
    made = "qmp.sock"

    def spawn(self, argv: list[str], out: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE_S)
        with theirs:
            words = [
                re.sub(rf"\bfd={CHANNEL_FD}$", f"fd={theirs.fileno()}", word)
                for word in without_network(argv)
            ]
            self.popen(words, out, theirs.fileno())
        return ours
