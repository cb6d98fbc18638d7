"""The VMs of this machine, and what callers may ask for: a command stores what is wanted and wakes the reconciler."""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from bangerd.core.caches import Caches
from bangerd.core.creation import Creator
from bangerd.core.describe import Describer, Value
from bangerd.core.effects import Effects, Ports
from bangerd.core.jobs import Body, Caller, Job, Jobs, Undo
from bangerd.core.launch import Launcher
from bangerd.core.machine import Machine, Watchers
from bangerd.core.ports import Progress
from bangerd.core.requests import CreateRequest, check_labels
from bangerd.model.errors import (
    BangerError,
    NoSuchVM,
    WrongState,
)
from bangerd.model.lifecycle import Step
from bangerd.model.network import Lease, lease
from bangerd.model.vm import VM, Desired, Unit, VMState

log = logging.getLogger(__name__)

SESSIONS = 1  # the guest program's port for sessions

Event = str  # "added", "state", "removed"


class VMs:
    """`begin()` before use. Methods are to be called from the event loop only."""

    def __init__(self, ports: Ports, jobs: Jobs) -> None:
        self._ports = ports
        self._jobs = jobs
        self._machines: dict[str, Machine] = {}
        self._names: dict[str, str] = {}  # name -> sid, those being created included
        self._effects = Effects(ports, lambda: [m.vm for m in self._machines.values()])
        self._describer = Describer(ports)
        self._launcher = Launcher(ports)
        self.caches = Caches(ports.caches, ports.config, self.all)
        self._creator = Creator(ports, self._describer, self.caches)
        self._listeners: list[Callable[[VM, Event], None]] = []
        self._creating = asyncio.Lock()

    # life of the service

    async def begin(self) -> None:
        """Take up all stored VMs, remove what belongs to none, and bring the network to what is wanted."""
        stored = await self._ports.store.load()
        for vm in stored:
            self._adopt(vm)
        await self._drop_strays(stored)
        self._ports.supervisor.watch(self._wake)
        self._ports.shims.watch(self._wake)
        for machine in self._machines.values():
            await self._end_orphan(machine)
        await self._restore_network([vm for vm in self.all() if vm.wanted_up and vm.address])
        await asyncio.gather(
            *(machine.look() for machine in self._machines.values() if machine.vm.wanted_up)
        )
        for machine in self._machines.values():
            machine.begin()

    async def close(self) -> None:
        """Let go of all VMs; those that run go on."""
        for machine in list(self._machines.values()):
            await machine.close()

    async def _restore_network(self, up: list[VM]) -> None:
        """Guests that run go on without their rules, which only open; someone has to be there to say what is wrong."""
        try:
            await self._ports.network.apply(up)
        except BangerError as exc:
            log.warning("the VMs' network is not as it should be: %s", exc)

    async def _end_orphan(self, machine: Machine) -> None:
        """`vm run --rm` whose descriptor was lost before the shim had it: nobody is waiting for it any more."""
        vm = machine.vm
        if vm.ephemeral and await self._ports.supervisor.observe(vm.sid) is Unit.ABSENT:
            await machine.store(desired=Desired.ABSENT)

    async def _drop_strays(self, stored: Sequence[VM]) -> None:
        ports = self._ports
        known = frozenset(vm.sid for vm in stored)
        for sid in await ports.supervisor.list_sids() - known:
            log.warning("ending unit of unknown VM %s", sid)
            await ports.supervisor.stop(sid)
            await ports.supervisor.forget(sid)
        for sid in await ports.network.list_sids() - known:
            log.warning("removing tap of unknown VM %s", sid)
            await ports.network.remove_tap(sid)
        for sid in ports.disks.list_sids() - known:
            log.warning("removing files of unknown VM %s", sid)
            await ports.disks.remove_stray(sid)
        await ports.caches.reclaim(stored)

    def _wake(self, sid: str) -> None:
        machine = self._machines.get(sid)
        if machine is not None:
            machine.wake()

    def _adopt(self, vm: VM) -> Machine:
        machine = Machine(vm, self._effects, Watchers(self._changed, self._gone))
        self._machines[vm.sid] = machine
        self._names[vm.name] = vm.sid
        return machine

    def _changed(self, machine: Machine) -> None:
        self._tell(machine.vm, "state")

    def _gone(self, machine: Machine) -> None:
        del self._machines[machine.vm.sid]
        del self._names[machine.vm.name]
        self._tell(machine.vm, "removed")

    # what there is

    def subscribe(self, listener: Callable[[VM, Event], None]) -> None:
        self._listeners.append(listener)

    def _tell(self, vm: VM, event: Event) -> None:
        for listener in self._listeners:
            listener(vm, event)

    def all(self) -> tuple[VM, ...]:
        """By name."""
        return tuple(sorted((m.vm for m in self._machines.values()), key=lambda vm: vm.name))

    def summary(self) -> str:
        """One line for `systemctl status`."""
        states = [machine.state for machine in self._machines.values()]
        running = states.count(VMState.RUNNING)
        failed = states.count(VMState.FAILED)
        text = f"{len(states)} VM{'' if len(states) == 1 else 's'}, {running} running"
        return text + (f", {failed} failed" if failed else "")

    def find(self, name: str) -> VM:
        """Raises NoSuchVM."""
        return self.get(self._names.get(name, ""), shown=name)

    def get(self, sid: str, *, shown: str = "") -> VM:
        """Raises NoSuchVM."""
        return self._machine(sid, shown=shown).vm

    def _machine(self, sid: str, *, shown: str = "") -> Machine:
        try:
            return self._machines[sid]
        except KeyError:
            raise NoSuchVM(shown or sid) from None

    def state(self, vm: VM) -> VMState:
        return self._machine(vm.sid, shown=vm.name).state

    async def describe(self, vm: VM) -> dict[str, Value]:
        """Everything the owner may know, sizes in bytes, times in unix seconds."""
        return await self._describer.describe(self._machine(vm.sid, shown=vm.name))

    def image_name(self, vm: VM) -> str:
        """The name of its image, for people."""
        return self._describer.image_name(vm.spec.image)

    def resolve(self, request: CreateRequest, uid: int) -> dict[str, Value]:
        """A user's effective spec, for showing before anything is made. Raises InvalidSpec."""
        return self._describer.resolve(request, uid)

    # what there shall be

    async def create(
        self, request: CreateRequest, by: Caller, lifeline: int | None = None
    ) -> tuple[VM, Job]:
        """Store a new VM and start making it. The descriptor `lifeline` becomes ours, also when this raises.

        Raises InvalidSpec, VMExists, NoSuchImage, NoSuchKernel, CacheInUse, LimitReached, HostNotReady.
        """
        try:
            async with self._creating:
                vm = await self._creator.insert(request, by, self.all())
        except BaseException:
            if lifeline is not None:
                os.close(lifeline)
            raise
        machine = self._adopt(vm)
        machine.lifeline = lifeline
        self._tell(vm, "added")
        machine.begin()
        desired = Desired.RUNNING if request.start else Desired.STOPPED
        body = self._creation(machine, desired)
        job = self._job("create", vm, by, body, undo=machine.undo(Desired.ABSENT))
        job.result.update({"vm": vm.sid, "name": vm.name})
        return vm, job

    def _creation(self, machine: Machine, desired: Desired) -> Body:
        async def body(job: Job) -> None:
            job.report(Progress(Step.ENSURE_DISK.value))
            try:
                await self._effects.take(Step.ENSURE_DISK, machine.vm)
            except BangerError:
                # No room and the like: nothing was made, so nothing is kept.
                await machine.reach(Desired.ABSENT, _reporter(job))
                raise
            try:
                changes = await self._claim(machine) if desired is Desired.RUNNING else {}
            except BangerError:
                if machine.vm.ephemeral:  # nobody would start it later
                    await machine.reach(Desired.ABSENT, _reporter(job))
                raise
            await machine.reach(desired, _reporter(job), **changes)

        return body

    async def _up(self, machine: Machine, job: Job) -> None:
        await machine.reach(Desired.RUNNING, _reporter(job), **await self._claim(machine))

    async def _claim(self, machine: Machine) -> dict[str, Any]:
        """What the record gains for a start. Raises CacheInUse, LimitReached when it cannot have all that it needs."""
        self._check_caches(machine.vm)
        others = [m.vm for m in self._machines.values() if m is not machine and m.vm.address]
        leases = [Lease(vm.address, vm.sid, running=vm.wanted_up, since=vm.created_at) for vm in others]
        address = lease(self._ports.network.pool, machine.vm.sid, machine.vm.address, leases)
        victim = next((vm for vm in others if vm.address == address), None)
        if victim is not None:
            await self._machines[victim.sid].store(address="")
        # started_boot = "": the exit record of an earlier run is of no interest from here on.
        changes: dict[str, Any] = {"address": address, "started_boot": "", "last_error": ""}
        if not machine.vm.host_key:  # made by banger 0.1
            changes["host_key"], changes["host_public"] = self._ports.host.new_host_key()
        return changes

    def _check_caches(self, vm: VM) -> None:
        names = tuple(vm.spec.caches.values())
        self.caches.check_free(vm.owner_uid, names, sid=vm.sid)
        self.caches.check_count(vm.owner_uid, names)

    def start(self, vm: VM, by: Caller) -> Job:
        """A VM that runs is left alone; one that is paused goes on.

        Raises VMBusy, CacheInUse, LimitReached.
        """
        machine = self._machine(vm.sid, shown=vm.name)
        self._check_caches(machine.vm)

        async def body(job: Job) -> None:
            if machine.state not in (VMState.RUNNING, VMState.PAUSED, VMState.STARTING):
                await self._launcher.check_vmm()
            if machine.vm.desired is Desired.RUNNING:
                await machine.reach(Desired.RUNNING, _reporter(job))
            else:
                await self._up(machine, job)

        return self._job("start", vm, by, body, undo=machine.undo(vm.desired))

    def stop(self, vm: VM, by: Caller) -> Job:
        """Ask the guest to power off; end it when it does not within `stop_timeout_s`."""
        return self._job("stop", vm, by, self._down(vm, hurry=False), replace=True)

    def kill(self, vm: VM, by: Caller) -> Job:
        """End the VMM at once."""
        return self._job("kill", vm, by, self._down(vm, hurry=True), replace=True)

    def _down(self, vm: VM, *, hurry: bool) -> Body:
        machine = self._machine(vm.sid, shown=vm.name)

        async def body(job: Job) -> None:
            if machine.vm.desired is Desired.ABSENT:
                raise WrongState(f"VM '{vm.name}' is being deleted")
            after = Desired.ABSENT if vm.ephemeral else Desired.STOPPED
            await machine.reach(after, _reporter(job), hurry=hurry, last_error="")

        return body

    def restart(self, vm: VM, by: Caller) -> Job:
        """Stop, then start. Raises VMBusy."""
        machine = self._machine(vm.sid, shown=vm.name)

        async def body(job: Job) -> None:
            await self._launcher.check_vmm()
            await machine.reach(Desired.STOPPED, _reporter(job), last_error="")
            await self._up(machine, job)

        return self._job("restart", vm, by, body)

    def pause(self, vm: VM, by: Caller) -> Job:
        return self._freeze("pause", vm, by, Desired.PAUSED)

    def resume(self, vm: VM, by: Caller) -> Job:
        return self._freeze("resume", vm, by, Desired.RUNNING)

    def _freeze(self, type_: str, vm: VM, by: Caller, desired: Desired) -> Job:
        machine = self._machine(vm.sid, shown=vm.name)
        if machine.state not in (VMState.RUNNING, VMState.PAUSED):
            raise WrongState(
                f"VM '{vm.name}' is {machine.state}, only one that runs can be paused or resumed"
            )

        async def body(job: Job) -> None:
            await machine.reach(desired, _reporter(job))

        return self._job(type_, vm, by, body)

    async def set_labels(self, vm: VM, labels: dict[str, str]) -> None:
        """Set these labels; one with an empty value is removed, others stay. Raises InvalidSpec."""
        machine = self._machine(vm.sid, shown=vm.name)

        def labelled(now: VM) -> VM:
            merged = {name: value for name, value in (now.spec.labels | labels).items() if value}
            check_labels(labels)
            check_labels(merged)
            return replace(now, spec=replace(now.spec, labels=merged))

        await machine.change(labelled)

    def delete(self, vm: VM, by: Caller) -> Job:
        """End the VM and remove all that belongs to it: at once, unless its guest has caches to write to."""
        machine = self._machine(vm.sid, shown=vm.name)

        async def body(job: Job) -> None:
            with suppress(NoSuchVM):  # somebody else's delete was done first: it is gone, as wanted
                await machine.reach(Desired.ABSENT, _reporter(job))

        return self._job("delete", vm, by, body, replace=True)

    def _job(
        self,
        type_: str,
        vm: VM,
        by: Caller,
        body: Body,
        *,
        undo: Undo | None = None,
        replace: bool = False,
    ) -> Job:
        return self._jobs.start(type_, f"vm/{vm.sid}", by, body, undo=undo, shown=vm.name, replace=replace)

    async def open_session(self, vm: VM) -> int:
        """A connected descriptor to the guest program; the caller closes it. Raises WrongState, GuestFailed."""
        machine = self._machine(vm.sid, shown=vm.name)
        if machine.state is not VMState.RUNNING:
            what = (
                f"`banger vm resume {vm.name}` lets it go on"
                if machine.state is VMState.PAUSED
                else f"`banger vm start {vm.name}` starts it"
            )
            is_ = (
                f"has failed: {_first(machine.vm.last_error)}"
                if machine.vm.last_error
                else f"is {machine.state}"
            )
            raise WrongState(f"VM '{vm.name}' {is_}; {what}")
        return await self._ports.shims.open_session(vm, SESSIONS)

    def open_log(self, vm: VM) -> int:
        """The console log's descriptor, for reading. Raises WrongState when the VM was never started."""
        self._machine(vm.sid, shown=vm.name)
        return self._ports.shims.open_log(vm)


def _first(error: str) -> str:
    """What it says, without what to do and the last words of those concerned."""
    return error.partition("; ")[0]


def _reporter(job: Job) -> Callable[[Step], None]:
    return lambda step: job.report(Progress(step.value))
