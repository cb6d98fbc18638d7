"""The Firecracker driver: its configuration file, and its API for what comes after the boot."""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bangerd.core.ports import Disks, Launch, Plan
from bangerd.host import firecracker_api, process
from bangerd.host.firecracker_config import (
    API,
    CONFIG,
    METRICS,
    VSOCK,
    Features,
    Rates,
    configuration,
    features,
    parse_version,
)
from bangerd.host.thread import in_thread
from bangerd.model.errors import HostNotReady, StepFailed
from bangerd.model.vm import MIB, VM

API_S = 10.0
SNAPSHOT_S = 300.0  # it writes the guest's whole memory
OVERHEAD = 48 * MIB  # the VMM, its threads and what the kernel accounts to it


class Firecracker:
    """Implements core.ports.VMM. Needs KVM."""

    name = "firecracker"
    accelerator = "kvm"

    def __init__(
        self, binary: Path, version: tuple[int, int, int], disks: Disks, rates: Rates, *, pci: bool = False
    ) -> None:
        """`pci`: devices on a PCI bus, where the release has one. Raises HostNotReady for one that is too old."""
        self._binary = binary
        self._disks = disks
        self._rates = rates
        self.version = version
        self.features: Features = features(version)
        self._pci = pci and self.features.pci
        more = {"free-page-reporting"} if self.features.free_page_reporting else set()
        self.capabilities = frozenset({"pause", "snapshot", "balloon", "metrics", "rate-limits", *more})

    async def plan(self, launch: Launch) -> Plan:
        if not launch.elf.exists():
            raise HostNotReady(
                f"the kernel of '{launch.vm.name}' was pulled by a banger that did not know Firecracker;"
                " `banger image pull` gets it again"
            )
        argv = [str(self._binary), "--id", launch.vm.sid, "--api-sock", API, "--config-file", CONFIG]
        if self._pci:
            argv.append("--enable-pci")
        written = json.dumps(configuration(launch, self.features, self._rates), indent=1)
        return Plan(
            argv=tuple(argv),
            devices=("/dev/net/tun", "/dev/kvm"),
            memory_overhead=OVERHEAD,
            channel=f"vsock:{VSOCK}",
            read_only=(launch.elf,),
            files=((CONFIG, written.encode()), (METRICS, b"")),
            sockets=(API,),
        )

    async def pause(self, vm: VM) -> None:
        await self._ask(vm, "PATCH", "/vm", {"state": "Paused"})

    async def resume(self, vm: VM) -> None:
        await self._ask(vm, "PATCH", "/vm", {"state": "Resumed"})

    async def paused(self, vm: VM) -> bool:
        return (await self._ask(vm, "GET", "/")).get("state") == "Paused"

    async def power_button(self, vm: VM) -> None:
        """Ctrl-Alt-Del on a keyboard of which Firecracker has just this: systemd reboots, which ends the VMM."""
        await self._ask(vm, "PUT", "/actions", {"action_type": "SendCtrlAltDel"})

    async def balloon(self, vm: VM, amount: int) -> None:
        """Take `amount` bytes of memory away from the guest, or give them back with less; 0: all is the guest's."""
        await self._ask(vm, "PATCH", "/balloon", {"amount_mib": amount // MIB})

    async def balloon_statistics(self, vm: VM) -> dict[str, int]:
        """Of the guest's memory, in bytes or pages as Firecracker's BalloonStats says."""
        found = await self._ask(vm, "GET", "/balloon/statistics")
        return {key[:64]: value for key, value in found.items() if isinstance(value, int)}

    async def metrics(self, vm: VM) -> dict[str, Any]:
        """Firecracker's own counters, of the time since they were last asked for."""
        await self._ask(vm, "PUT", "/actions", {"action_type": "FlushMetrics"})
        return await in_thread(_last_metrics, self._disks.run_dir(vm) / METRICS, vm.uid)

    async def limit(self, vm: VM, rates: Rates) -> None:
        """Other upper bounds for a VM that runs; 0 takes one away."""
        wide = {"bandwidth": {"size": 0, "refill_time": 0}}
        disk = {"bandwidth": {"size": rates.disk, "refill_time": 1000}} if rates.disk else wide
        net = {"bandwidth": {"size": rates.network, "refill_time": 1000}} if rates.network else wide
        both = {"rx_rate_limiter": net, "tx_rate_limiter": net}
        await self._ask(vm, "PATCH", "/network-interfaces/eth0", {"iface_id": "eth0", **both})
        await self._ask(vm, "PATCH", "/drives/data", {"drive_id": "data", "rate_limiter": disk})

    async def snapshot(self, vm: VM, state: str, memory: str) -> None:
        """Write a paused VM to two files in its run folder. Raises StepFailed when it is not paused."""
        body = {"snapshot_type": "Full", "snapshot_path": state, "mem_file_path": memory}
        await self._ask(vm, "PUT", "/snapshot/create", body, timeout_s=SNAPSHOT_S)

    async def restore(self, vm: VM, state: str, memory: str, *, resume: bool) -> None:
        """Load such files into a VMM that was started without a configuration, for a VM of the same tap and vsock."""
        body: dict[str, Any] = {
            "snapshot_path": state,
            "mem_backend": {"backend_type": "File", "backend_path": memory},
            "resume_vm": resume,
        }
        if self.features.clock_realtime:
            body["clock_realtime"] = True
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
            return await in_thread(
                firecracker_api.request,
                path,
                vm.uid,
                firecracker_api.Request(method, resource, body),
                API_S if timeout_s is None else timeout_s,
            )
        except StepFailed as exc:
            raise type(exc)(f"Firecracker of '{vm.name}': {exc}") from exc


async def read_version(binary: Path) -> tuple[int, int, int]:
    """Asked once, when the service starts. Raises HostNotReady."""
    try:
        done = await process.run([str(binary), "--version"], timeout_s=10, max_output=4096)
    except StepFailed as exc:
        raise HostNotReady(f"{binary} cannot be run: {exc}") from exc
    return parse_version(done.stdout.decode("utf-8", "replace"))


def check_binary(path: Path) -> None:
    """Only root may be able to change what the service runs. Raises HostNotReady."""
    resolved = path.resolve()
    for part in (resolved, *resolved.parents):
        try:
            seen = part.stat()
        except OSError as exc:
            raise HostNotReady(f"{path} cannot be used: {exc.strerror}") from exc
        open_to_others = seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not seen.st_mode & stat.S_ISVTX
        if seen.st_uid != 0 or open_to_others:
            raise HostNotReady(
                f"{path} is not used: others than root can change {part}; chown root:root and chmod go-w it"
            )
    if not stat.S_ISREG(resolved.stat().st_mode) or not os.access(resolved, os.X_OK):
        raise HostNotReady(f"{path} is no program")


def _last_metrics(path: Path, uid: int) -> dict[str, Any]:
    """The last whole line of a file that the VMM writes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        seen = os.fstat(descriptor)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid != uid:
            raise StepFailed(f"{path.name} is not the VM's own file")
        file.seek(max(0, seen.st_size - firecracker_api.LIMIT))
        lines = file.read(firecracker_api.LIMIT).splitlines()
    for line in reversed(lines):
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            return found
    raise StepFailed(f"there is nothing in {path.name}")
