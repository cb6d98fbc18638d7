"""com.thaloco.Banger1.VM"""

from collections.abc import Iterable
from typing import Any

from bangerd.bus import names, options
from bangerd.bus.core import Core
from bangerd.bus.export import Call, Interface, exported, shown
from bangerd.bus.guards import access_vm, inspect_vm, manage_vm
from bangerd.core.jobs import Job
from bangerd.model.vm import VM

OPTIONS = "options:a{sv}"
JOB = "job:o"


class VMInterface(Interface):
    """One VM each, at …/vm/<short id>."""

    name = names.VM_INTERFACE

    def __init__(self, core: Core) -> None:
        self._core = core

    def get(self, leaf: str) -> VM:
        return self._core.vms.get(leaf)

    def leaves(self) -> Iterable[str]:
        return (vm.sid for vm in self._core.vms.all())

    def image_name(self, vm: VM) -> str:
        """Of the image that it was made from, as people know it."""
        images = self._core.images.images()
        return next((image.name for image in images if image.id == vm.spec.image), vm.spec.image)

    @shown("s")
    def Name(self, vm: VM) -> str:
        return vm.name

    @shown("s", emits="true")
    def State(self, vm: VM) -> str:
        return self._core.vms.state(vm).value

    @shown("u")
    def Owner(self, vm: VM) -> int:
        return vm.owner_uid

    @exported(manage_vm, OPTIONS, JOB)
    async def Start(self, call: Call, vm: VM, given: dict[str, Any]) -> str:
        options.read(given, {}, "Start")
        return _path(self._core.vms.start(vm, call.caller))

    @exported(manage_vm, OPTIONS, JOB)
    async def Stop(self, call: Call, vm: VM, given: dict[str, Any]) -> str:
        options.read(given, {}, "Stop")
        return _path(self._core.vms.stop(vm, call.caller))

    @exported(manage_vm, OPTIONS, JOB)
    async def Restart(self, call: Call, vm: VM, given: dict[str, Any]) -> str:
        options.read(given, {}, "Restart")
        return _path(self._core.vms.restart(vm, call.caller))

    @exported(manage_vm, OPTIONS, JOB)
    async def Kill(self, call: Call, vm: VM, given: dict[str, Any]) -> str:
        options.read(given, {}, "Kill")
        return _path(self._core.vms.kill(vm, call.caller))

    @exported(manage_vm, OPTIONS, JOB)
    async def Pause(self, call: Call, vm: VM, given: dict[str, Any]) -> str:
        options.read(given, {}, "Pause")
        return _path(self._core.vms.pause(vm, call.caller))

    @exported(manage_vm, OPTIONS, JOB)
    async def Resume(self, call: Call, vm: VM, given: dict[str, Any]) -> str:
        options.read(given, {}, "Resume")
        return _path(self._core.vms.resume(vm, call.caller))

    @exported(manage_vm, OPTIONS, JOB)
    async def Delete(self, call: Call, vm: VM, given: dict[str, Any]) -> str:
        options.read(given, {}, "Delete")
        return _path(self._core.vms.delete(vm, call.caller))

    @exported(manage_vm, "labels:a{ss} options:a{sv}")
    async def SetLabels(self, _call: Call, vm: VM, labels: dict[str, str], given: dict[str, Any]) -> None:
        options.read(given, {}, "SetLabels")
        await self._core.vms.set_labels(vm, labels)

    @exported(inspect_vm, OPTIONS, "vm:a{sv}")
    async def Describe(self, _call: Call, vm: VM, given: dict[str, Any]) -> dict[str, Any]:
        options.read(given, {}, "Describe")
        return options.write(
            {"path": options.Path(names.vm_path(vm.sid)), **await self._core.vms.describe(vm)}
        )

    @exported(access_vm, OPTIONS, "session:h")
    async def Exec(self, _call: Call, vm: VM, given: dict[str, Any]) -> int:
        options.read(given, {}, "Exec")
        return await self._core.vms.open_session(vm)

    @exported(access_vm, OPTIONS, "log:h")
    async def OpenLog(self, _call: Call, vm: VM, given: dict[str, Any]) -> int:
        options.read(given, {}, "OpenLog")
        return self._core.vms.open_log(vm)


def _path(job: Job) -> str:
    return names.job_path(job.number)
