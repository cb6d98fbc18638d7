"""A VMM under its shim and nothing else: no bus, no unit, no bridge. For what the driver says to a real VMM."""

import asyncio
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from banger import messages, transfer
from bangerd.core.launch import CMDLINE
from bangerd.core.vmm import Disk, Driver, Launch, Plan
from bangerd.host.devices import device_groups
from bangerd.host.disk import DiskFiles
from bangerd.host.shims import ShimClients
from bangerd.model.errors import GuestFailed
from bangerd.model.seed import Seed
from bangerd.model.vm import GIB, MIB, VM, Desired, VMSpec
from tests.patience import patience

SHIM = Path(__file__).parents[2] / "service/native/build/banger-shim"
SID = "5eed0001"
SESSION_PORT = 1


@dataclass
class VMMAlone:
    """One VM, in a network namespace (`within`: the words that enter it) of its own."""

    driver: Driver
    disks: DiskFiles
    library: Path
    within: Sequence[str]
    uid: int
    shim: "subprocess.Popen[bytes] | None" = None
    plan: Plan | None = None

    def __post_init__(self) -> None:
        self.shims = ShimClients(self.disks)
        self.vm = VM(
            id=f"{SID}-0000-4000-8000-000000000000",
            sid=SID,
            name="alone",
            owner_uid=0,
            owner_name="root",
            spec=VMSpec("image", "kernel", vcpu=1, memory=384 * MIB, disk=GIB),
            desired=Desired.RUNNING,
            uid=self.uid,
        )
        self.run_dir = self.disks.run_dir(self.vm)

    async def prepare(self) -> None:
        """Its files and its tap are there afterwards, and what to start is known."""
        (kernel,) = (self.library / "kernels").iterdir()
        (image,) = (self.library / "images").iterdir()
        seed = Seed(hostname="alone", disks=("image", "modules", "data"), init="/sbin/init").encode()
        await self.disks.ensure_disk(self.vm)
        await self.disks.ensure_run_dir(self.vm, seed)
        disks = (
            Disk(self.run_dir / "seed.img", "seed", read_only=True),
            Disk(image / "rootfs.squashfs", "image", read_only=True),
            Disk(kernel / "modules.squashfs", "modules", read_only=True),
            Disk(self.disks.disk_path(self.vm), "data", read_only=False),
        )
        launch = Launch(
            self.vm, self.run_dir, kernel / "vmlinuz", kernel / "vmlinux", kernel / "initrd", CMDLINE, disks, kvm=True
        )  # fmt: skip
        self.plan = await self.driver.plan(launch)
        await self.disks.write_files(self.vm, self.plan.files)
        own = ("user", str(self.uid), "group", str(self.uid))
        self._enter("ip", "tuntap", "add", "dev", self.vm.tap, "mode", "tap", *own)
        self._enter("ip", "link", "set", self.vm.tap, "up")

    def start(self, *, configured: bool = True) -> None:
        """Not `configured`: Firecracker waits to be told by its API what to run."""
        plan = self.plan
        assert plan is not None
        argv = plan.argv if configured else plan.argv[: plan.argv.index("--config-file")]
        for name in plan.sockets:
            (self.run_dir / name).unlink(missing_ok=True)  # so that `listens` sees the new one
        groups = ",".join(str(gid) for gid in device_groups(plan.devices))
        who = ("setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--no-new-privs")
        belongs = (f"--groups={groups}",) if groups else ("--clear-groups",)
        unlinked = [word for name in plan.sockets for word in ("--unlink", name)]
        options = ("--dir", str(self.run_dir), "--channel", plan.channel, *unlinked)
        self.shim = subprocess.Popen(
            [*self.within, *who, *belongs, str(SHIM), *options, "--", *argv],
            stdin=subprocess.DEVNULL,
        )

    async def ready(self) -> None:
        """Wait until the guest program has answered."""
        deadline = time.monotonic() + patience(60)
        while True:
            try:
                if (await self.shims.status(self.vm)).ready:
                    return
            except GuestFailed:
                assert self.shim is not None
                assert self.shim.poll() is None, self.said()
            assert time.monotonic() < deadline, self.said()
            await asyncio.sleep(0.05)

    async def listens(self, name: str) -> None:
        """Wait until the VMM has made this socket."""
        deadline = time.monotonic() + patience(60)
        while not (self.run_dir / name).is_socket():
            assert time.monotonic() < deadline, self.said()
            await asyncio.sleep(0.02)

    async def sh(self, script: str, begun: asyncio.Event | None = None) -> str:
        """The output of a shell script in the guest; it has to succeed. `begun` is set with its first output."""
        said = bytearray()
        loop = asyncio.get_running_loop()

        def take(data: memoryview) -> None:
            said.extend(data)
            if begun is not None:
                loop.call_soon_threadsafe(begun.set)

        session = await self.shims.open_session(self.vm, SESSION_PORT)
        command = messages.Command(("sh", "-ec", script))
        outcome = await asyncio.to_thread(transfer.run, session, command, sink=take)
        assert outcome.status == 0, outcome.stderr
        return said.decode()

    def kill(self) -> None:
        """The shim takes its VMM along."""
        if self.shim is not None and self.shim.poll() is None:
            self.shim.kill()
            self.shim.wait()

    async def close(self) -> None:
        self.kill()
        await self.shims.close()
        subprocess.run([*self.within, "ip", "link", "delete", self.vm.tap], check=False)

    def said(self) -> str:
        return "\n".join(self.shims.log_tail(self.vm, 40))

    def keep(self, folder: Path, names: Sequence[str]) -> None:
        """Copies of files in the run folder and of the disk."""
        folder.mkdir()
        for name in names:
            shutil.copyfile(self.run_dir / name, folder / name)
        shutil.copyfile(self.disks.disk_path(self.vm), folder / "disk")

    def put_back(self, folder: Path) -> None:
        """What `keep` kept, as the VM's own files."""
        shutil.copyfile(folder / "disk", self.disks.disk_path(self.vm))
        for path in folder.iterdir():
            if path.name != "disk":
                shutil.copyfile(path, self.run_dir / path.name)
                os.chown(self.run_dir / path.name, self.uid, self.uid)

    def _enter(self, *argv: str) -> None:
        subprocess.run([*self.within, *argv], check=True, capture_output=True)
