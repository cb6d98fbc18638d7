"""What each step does, by way of the ports; and the one place that looks at the host."""

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bangerd.config import Config
from bangerd.core.caches import Caches
from bangerd.core.launch import Launcher
from bangerd.core.ports import CacheDisks, Disks, Hook, Host, Library, Network, Shims, Supervisor, VMStore
from bangerd.core.vmm import VMM
from bangerd.model.errors import BangerError, GuestFailed, StepFailed
from bangerd.model.lifecycle import Ending, Step
from bangerd.model.vm import VM, ExitReason, ExitRecord, Observed, Unit

log = logging.getLogger(__name__)

CONSOLE_LINES, VMM_LINES = 6, 4
PANIC = "Kernel panic - not syncing"
SAID = "; it said"
UNIT_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Ports:
    """All that the core needs from outside."""

    config: Config
    host: Host
    store: VMStore
    disks: Disks
    caches: CacheDisks
    network: Network
    supervisor: Supervisor
    shims: Shims
    library: Library
    vmm: VMM
    shim: Path  # the shim's binary
    hook: Hook


class Effects:
    """`peers` gives all stored VMs, of which the network rules are made."""

    def __init__(self, ports: Ports, peers: Callable[[], Sequence[VM]]) -> None:
        self._ports = ports
        self._peers = peers
        self._launcher = Launcher(ports)
        self._caches = Caches(ports.caches, ports.config, peers)
        self.boot_id = ports.host.boot_id()
        self._acts: dict[Step, Callable[[VM], Awaitable[None]]] = {
            Step.ENSURE_DISK: ports.disks.ensure_disk,
            Step.ENSURE_RUN_DIR: self._write_seed,
            Step.LEND_CACHES: self._caches.lend,
            Step.RETURN_CACHES: ports.caches.give_back,
            Step.ENSURE_TAP: ports.network.ensure_tap,
            Step.RESET_UNIT: lambda vm: ports.supervisor.forget(vm.sid),
            Step.PAUSE: lambda vm: ports.vmm.of(vm).pause(vm),
            Step.RESUME: self._resume,
            Step.STOP_GUEST: self._ask_to_stop,
            Step.KILL_UNIT: lambda vm: ports.supervisor.stop(vm.sid),
            Step.REMOVE_TAP: self._disconnect,
            Step.REMOVE_RUN_DIR: ports.disks.remove_run_dir,
            Step.REMOVE_DISK: ports.disks.remove_disk,
            Step.FORGET: ports.store.delete,
        }

    async def save(self, vm: VM) -> None:
        await self._ports.store.save(vm)

    async def reached(self, point: str) -> None:
        await self._ports.hook(point)

    async def observe(self, vm: VM) -> Observed:
        """What next_step wants to know, read from the host now; but is_paused(), which only the VMM can say."""
        ports = self._ports
        unit = await ports.supervisor.observe(vm.sid)
        active = unit is Unit.ACTIVE
        ready = active and await self._is_ready(vm)
        lent = ports.caches.lent_to(vm)
        return Observed(
            unit=unit,
            disk=ports.disks.has_disk(vm),
            tap=vm.sid in await ports.network.list_sids(),
            run_dir=ports.disks.has_run_dir(vm),
            fresh=ports.disks.is_fresh(vm),
            caches_lent=bool(lent),
            caches_missing=not lent.issuperset(vm.spec.caches.values()),
            ready=ready,
            exit=await self._exit(vm, unit),
        )

    async def _exit(self, vm: VM, unit: Unit) -> ExitRecord | None:
        if unit not in (Unit.ABSENT, Unit.FAILED):
            return None
        record = self._ports.shims.read_exit(vm)
        if record is None or unit is Unit.ABSENT or not record.killed:
            return record
        return replace(record, memory_killed=await self._ports.supervisor.lacked_memory(vm.sid))

    async def is_paused(self, vm: VM) -> bool:
        """Raises StepFailed when the VMM does not say."""
        return await self._ports.vmm.of(vm).paused(vm)

    async def _is_ready(self, vm: VM) -> bool:
        self._ports.shims.attach(vm)
        try:
            return (await self._ports.shims.status(vm)).ready
        except GuestFailed:
            return False  # it is just ending: the next look at the unit will show that

    async def start_unit(self, vm: VM, lifeline: int | None) -> None:
        """Start the VMM, and meanwhile load the rules: until then the tap is down, and a guest takes longer to boot."""
        unit = await self._launcher.unit(vm, lifeline)
        await self._ports.disks.write_files(vm, unit.files)
        results = await asyncio.gather(
            self._ports.supervisor.start(unit),
            self._ports.network.apply(self._connected()),
            return_exceptions=True,  # neither is broken off when the other fails
        )
        for result in results:
            if result is not None:
                raise result
        self._ports.shims.attach(vm)

    async def do(self, step: Step, vm: VM) -> None:
        """Take a step that is neither a start nor a wait. Raises StepFailed or a more precise error."""
        try:
            await self._acts[step](vm)
        except OSError as exc:
            hint = "; make room in the state folder" if exc.errno == errno.ENOSPC else ""
            raise StepFailed(f"{step.value} of '{vm.name}' failed: {exc.strerror or exc}{hint}") from exc

    async def take(self, step: Step, vm: VM) -> None:
        """do(), between the points at which crash tests end the service."""
        await self.reached(step.name.lower())
        await self.do(step, vm)
        await self.reached(step.name.lower() + "_done")

    async def _write_seed(self, vm: VM) -> None:
        await self._ports.disks.ensure_run_dir(vm, self._launcher.seed(vm))

    async def _disconnect(self, vm: VM) -> None:
        await self._ports.network.remove_tap(vm.sid)
        await self._ports.network.apply([peer for peer in self._connected() if peer.sid != vm.sid])

    async def _resume(self, vm: VM) -> None:
        await self._ports.vmm.of(vm).resume(vm)
        try:
            await self._ports.shims.set_clock(vm)  # it stood still
        except GuestFailed as exc:  # it runs, as was wanted
            log.warning("the clock of '%s' is behind: %s", vm.name, exc)

    async def _ask_to_stop(self, vm: VM) -> None:
        await self._ports.shims.stop(vm, self._ports.config.stop_timeout_s)

    async def press_power_button(self, vm: VM) -> None:
        """For a guest whose agent does nothing. What comes next ends the VM, so a VMM that refuses is no error."""
        log.info("%s: the guest does not stop; its power button is pressed", vm.name)
        try:
            await self._ports.vmm.of(vm).power_button(vm)
        except BangerError as exc:
            log.warning("%s: %s", vm.name, exc)

    def _connected(self) -> list[VM]:
        """The VMs that have an address in use: those that are up or on their way."""
        return [vm for vm in self._peers() if vm.address and vm.wanted_up]

    @property
    def agent_patience_s(self) -> float:
        """After this the guest is asked to stop in another way: what is left until its end is for that."""
        return self._ports.config.stop_timeout_s / 2

    def patience_s(self, step: Step) -> float:
        match step:
            case Step.AWAIT_READY:
                return self._ports.config.boot_timeout_s
            case Step.STOP_GUEST:
                # Since the button: the shim ends the VMM stop_timeout_s after it was asked, this is for its unit.
                return self._ports.config.stop_timeout_s / 2 + 5
            case _:
                return UNIT_PATIENCE_S

    def too_slow(self, vm: VM, step: Step) -> BangerError:
        if step is Step.AWAIT_READY:
            limit = self._ports.config.boot_timeout_s
            return GuestFailed(f"the guest did not answer within {limit:g} s" + self._both(vm))
        return StepFailed(f"the unit of '{vm.name}' neither started nor ended within {UNIT_PATIENCE_S:g} s")

    def told(self, vm: VM, end: Ending, *, stays: bool) -> str:
        """Why a run has ended, with the last words of who knows most: the VMM, or the guest's console.

        `stays`: whether the VM will be there to be looked at.
        """
        if not end.error or end.record is None:
            return end.error
        text, shims = end.error, self._ports.shims
        if end.record.killed:  # what it said before was of something else
            return text
        if end.record.reason is ExitReason.VMM_FAILED:
            meaning = "" if end.record.signal else self._ports.vmm.of(vm).meaning(end.record.status)
            text += f" ({meaning})" if meaning else ""
            return text + _quoted(SAID, shims.vmm_tail(vm)[-VMM_LINES:])
        if end.record.reason is not ExitReason.PANIC:
            return text + self._console(vm, stays=stays)
        lines = shims.console_tail(vm)
        at = next((n for n in reversed(range(len(lines))) if PANIC in lines[n]), len(lines) - 1)
        reason = lines[at].partition(PANIC)[2].strip(": ") if lines else ""
        text += f": {reason}" if reason else ""
        return text + self._console(vm, lines[: at + 1], stays=stays)

    def _console(self, vm: VM, lines: Sequence[str] | None = None, *, stays: bool = True) -> str:
        lines = self._ports.shims.console_tail(vm) if lines is None else lines
        hint = f"; `banger vm logs {vm.name}` shows its console" if stays else ""
        return hint + _quoted("; at the end of its console", lines[-CONSOLE_LINES:])

    def _both(self, vm: VM) -> str:
        words = self._ports.shims.vmm_tail(vm)[-VMM_LINES:]
        if not words:
            return self._console(vm)
        title = (
            f"; `banger vm logs {vm.name}` shows its console; the last words of its VMM and of its console"
        )
        return _quoted(title, (*words, *self._ports.shims.console_tail(vm)[-CONSOLE_LINES:]))


def _quoted(title: str, lines: Sequence[str]) -> str:
    return "".join((title, ":", *(f"\n  | {line}" for line in lines))) if lines else ""
