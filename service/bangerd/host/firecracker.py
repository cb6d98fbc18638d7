"""The Firecracker driver: its configuration file, and its API for what comes after the boot."""

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any

from bangerd.core.ports import Disks
from bangerd.core.vmm import Capability, Launch, Plan, Rates, disk_roles
from bangerd.host import firecracker_api, process
from bangerd.host.elf import needs_libraries
from bangerd.host.firecracker_config import (
    API,
    CONFIG,
    METRICS,
    VSOCK,
    configuration,
    drive_id,
    features,
    limiter,
    parse_version,
)
from bangerd.host.program import check_program
from bangerd.host.thread import in_thread
from bangerd.model.errors import HostNotReady, StepFailed
from bangerd.model.vm import MIB, VM

API_S = 10.0
SNAPSHOT_S = 300.0  # it writes the guest's whole memory
PIPE = 1024 * 1024  # the most that a pipe holds
LINES = 4  # of it are looked at: the last may be cut off, and what comes before is old
MAX_LINKS = 40  # as many as the kernel follows
THREADS = 15  # its own two, what KVM adds, and room
OVERHEAD = 48 * MIB  # the VMM, its threads and what the kernel accounts to it
CAPABILITIES = frozenset(Capability) - {Capability.FREE_PAGE_REPORTING}
NEED_RESUME = {Capability.PAUSE, Capability.SNAPSHOT}
# Firecracker's FcExitCode (src/vmm/src/lib.rs), where it says more than the words that come with it.
_STATUS = {
    148: "its filter stopped it at a system call that it may not make",
    149: "SIGBUS: the host had no memory for it, or one of its files was cut short",
    150: "it crashed with SIGSEGV",
    151: "SIGXFSZ: a file of its had reached its limit",
    152: "it refused its configuration",
    153: "it refused its command line",
    154: "SIGXCPU: it had used up its CPU time",
    157: "it crashed with SIGILL",
}


class Firecracker:
    """Implements core.vmm.Driver. Needs KVM."""

    name = "firecracker"
    accelerator = "kvm"

    def __init__(
        self, binary: Path, version: tuple[int, int, int], disks: Disks, rates: Rates, *, pci: bool = False
    ) -> None:
        """`binary` was checked, and is `version`. `pci`: devices on a PCI bus, where the release has one.

        Raises HostNotReady for a release that is too old.
        """
        self._binary = binary
        self._program = binary.resolve()  # what a link led to when it was checked
        self._disks = disks
        self._rates = rates
        self._pci = pci
        self._seen = fingerprint(binary)
        self._be(version)

    def _be(self, version: tuple[int, int, int]) -> None:
        self.features = features(version)
        self.version = ".".join(map(str, version))
        more = {Capability.FREE_PAGE_REPORTING} if self.features.free_page_reporting else set()
        deaf = set() if self.features.resumes else NEED_RESUME
        self.capabilities = (CAPABILITIES | more) - deaf

    async def plan(self, launch: Launch) -> Plan:
        await self.check()
        kernel = launch.elf  # preferred: it need not be unpacked at each boot
        if not kernel.exists():
            if not self.features.bzimage:
                raise HostNotReady(
                    f"the kernel of '{launch.vm.name}' was pulled by a banger that did not know Firecracker;"
                    " `banger image pull` gets it again"
                )
            kernel = launch.kernel
        argv = [str(self._program), "--id", launch.vm.sid, "--api-sock", API, "--config-file", CONFIG]
        if self._pci and self.features.pci:
            argv.append("--enable-pci")
        written = json.dumps(configuration(launch, kernel, self.features, self._rates), indent=1)
        return Plan(
            argv=tuple(argv),
            devices=("/dev/net/tun", "/dev/kvm"),
            memory_overhead=OVERHEAD,
            channel=f"vsock:{VSOCK}",
            read_only=(kernel,),
            files=((CONFIG, written.encode()), (METRICS, None)),
            sockets=(API,),
            threads=THREADS,
            needs_libraries=await in_thread(needs_libraries, self._program),
        )

    async def check(self) -> None:
        """Looks at the binary anew when it is another file than before: an upgrade does not wait for the service."""
        seen = fingerprint(self._binary)
        if seen is not None and seen == self._seen:
            return
        program = await in_thread(check_binary, self._binary)
        self._be(await read_version(program))
        self._program, self._seen = program, seen

    def meaning(self, status: int) -> str:
        return _STATUS.get(status, "")

    async def pause(self, vm: VM) -> None:
        await self._check_resumes(vm)
        await self._ask(vm, "PATCH", "/vm", {"state": "Paused"})

    async def _check_resumes(self, vm: VM) -> None:
        """Of the program that the VM was started with: the file may have been replaced since. Raises HostNotReady."""
        runs = str((await self._ask(vm, "GET", "/")).get("vmm_version"))[:60]
        try:
            resumes = features(parse_version(f"Firecracker v{runs}")).resumes
        except HostNotReady as exc:
            raise StepFailed(f"Firecracker of '{vm.name}' says {runs!a} for its version") from exc
        if not resumes:
            raise HostNotReady(
                f"it is run by Firecracker {runs}, whose guests hear nothing of their host after a pause; 1.15 and"
                ' 1.16.2 do better, and so does vmm = "qemu" in the admin\'s config (docs/vmm.md)'
            )

    async def resume(self, vm: VM) -> None:
        await self._ask(vm, "PATCH", "/vm", {"state": "Resumed"})

    async def paused(self, vm: VM) -> bool:
        return (await self._ask(vm, "GET", "/")).get("state") == "Paused"

    async def power_button(self, vm: VM) -> None:
        """On a keyboard of which Firecracker has just these keys."""
        await self._ask(vm, "PUT", "/actions", {"action_type": "SendCtrlAltDel"})

    async def balloon(self, vm: VM, amount: int) -> None:
        await self._ask(vm, "PATCH", "/balloon", {"amount_mib": amount // MIB})

    async def metrics(self, vm: VM) -> dict[str, object]:
        """Counted since Firecracker wrote them last: for a minute at most."""
        try:
            pipe = await in_thread(_open_pipe, self._disks.run_dir(vm) / METRICS, vm.uid)
        except OSError as exc:
            raise StepFailed(f"Firecracker's metrics of '{vm.name}' cannot be read: {exc.strerror}") from exc
        with pipe:
            pipe.read(PIPE)  # of earlier minutes; when it is full, there is no room for this one
            await self._ask(vm, "PUT", "/actions", {"action_type": "FlushMetrics"})
            return _last_object(pipe.read(PIPE) or b"")

    async def limit(self, vm: VM, rates: Rates) -> None:
        both = {f"{way}_rate_limiter": limiter(rates.network) for way in ("rx", "tx")}
        await self._ask(vm, "PATCH", "/network-interfaces/eth0", {"iface_id": "eth0", **both})
        for drive in map(drive_id, disk_roles(vm)):
            body = {"drive_id": drive, "rate_limiter": limiter(rates.disk)}
            await self._ask(vm, "PATCH", f"/drives/{drive}", body)

    async def snapshot(self, vm: VM, state: str, memory: str) -> None:
        await self._check_resumes(vm)
        body = {"snapshot_type": "Full", "snapshot_path": state, "mem_file_path": memory}
        await self._ask(vm, "PUT", "/snapshot/create", body, timeout_s=SNAPSHOT_S)

    async def restore(self, vm: VM, state: str, memory: str, *, resume: bool) -> None:
        await self._check_resumes(vm)
        # Without its own clock_realtime, since 1.16: KVM has no master clock for it on a host that is a VM itself.
        body: dict[str, Any] = {
            "snapshot_path": state,
            "mem_backend": {"backend_type": "File", "backend_path": memory},
            "resume_vm": resume,
        }
        await self._ask(vm, "PUT", "/snapshot/load", body, timeout_s=SNAPSHOT_S)

    async def _ask(
        self,
        vm: VM,
        method: str,
        resource: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        path = self._disks.run_dir(vm) / API
        try:
            return await firecracker_api.request(
                path,
                vm.uid,
                firecracker_api.Request(method, resource, body),
                API_S if timeout_s is None else timeout_s,
            )
        except StepFailed as exc:
            raise type(exc)(f"Firecracker of '{vm.name}': {exc}") from exc


async def read_version(binary: Path) -> tuple[int, int, int]:
    """Asked when the service starts, and when the file is another one. Raises HostNotReady."""
    try:
        done = await process.run([str(binary), "--version"], timeout_s=10, max_output=4096)
    except StepFailed as exc:
        raise HostNotReady(f"{binary} cannot be run: {exc}") from exc
    return parse_version(done.stdout.decode("utf-8", "replace"))


def fingerprint(path: Path) -> tuple[int, ...] | None:
    """Differs when the program was replaced; None when it is not there."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def check_binary(path: Path) -> Path:
    """The program itself, links followed. Nobody but root may be able to change it. Raises HostNotReady."""
    resolved = path
    try:
        for part in _way(path):
            resolved, seen = part, part.lstat()
            # In a folder like /tmp others may make files, but not change those of root.
            shared = stat.S_ISDIR(seen.st_mode) and seen.st_mode & stat.S_ISVTX
            closed = shared or stat.S_ISLNK(seen.st_mode)
            open_to_others = seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not closed
            if seen.st_uid != 0 or open_to_others:
                mend = (
                    "chown -h root:root it"
                    if stat.S_ISLNK(seen.st_mode)
                    else "chown root:root and chmod go-w it"
                )
                raise HostNotReady(f"{path} is not used: others than root can change {part}; {mend}")
    except OSError as exc:
        raise HostNotReady(f"{path} cannot be used: {exc.strerror}") from exc
    check_program(str(path))
    return resolved


def _way(path: Path) -> Iterator[Path]:
    """Every folder and link that decides what `path` is, and at last the file itself. Raises OSError."""
    at, left, links = Path("/"), list(reversed(path.absolute().parts[1:])), 0
    yield at
    while left:
        step = at / left.pop()
        if step.name == "..":
            at = at.parent
            continue
        yield step
        if not step.is_symlink():
            at = step
            continue
        links += 1
        if links > MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = step.readlink()
        absolute = target.is_absolute()
        at = Path("/") if absolute else at
        left += reversed(target.parts[1:] if absolute else target.parts)


def _open_pipe(path: Path, uid: int) -> FileIO:
    """To read from without waiting. Raises StepFailed when it is no pipe of the VM's own."""
    pipe = FileIO(
        path,
        opener=lambda name, _: os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC),
    )
    seen = os.fstat(pipe.fileno())
    if not stat.S_ISFIFO(seen.st_mode) or seen.st_uid != uid:
        pipe.close()
        raise StepFailed(f"{path.name} is not the VM's own pipe")
    return pipe


def _last_object(text: bytes) -> dict[str, object]:
    for line in reversed(text.splitlines()[-LINES:]):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue  # cut off
        if isinstance(found, dict):
            return found
    raise StepFailed("Firecracker wrote no metrics")
