"""What callers are told of a VM, and of one that they think of making."""

from collections.abc import Callable

from bangerd.config import Config
from bangerd.core.effects import Ports
from bangerd.core.launch import Launcher
from bangerd.core.machine import Machine
from bangerd.core.requests import CreateRequest
from bangerd.model.errors import BangerError, GuestFailed
from bangerd.model.sizing import HostSize, Origin, Sizes, Wish, resolve
from bangerd.model.vm import VM, Unit

Value = str | int | bool | list[str] | dict[str, str] | dict[str, int]


class Describer:
    """Reads, changes nothing."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._launcher = Launcher(ports)

    async def describe(self, machine: Machine) -> dict[str, Value]:
        """Everything the owner may know, sizes in bytes, times in unix seconds."""
        vm = machine.vm
        spec = vm.spec
        driver = self._ports.vmm.of(vm)
        facts: dict[str, Value] = {
            "id": vm.id,
            "short_id": vm.sid,
            "name": vm.name,
            "state": machine.state.value,
            "desired": vm.desired.value,
            "owner": vm.owner_uid,
            "owner_name": vm.owner_name,
            "image": spec.image,
            "image_name": self.image_name(spec.image),
            "kernel": spec.kernel,
            "kernel_name": next((k.name for k in self._ports.library.kernels() if k.id == spec.kernel), ""),
            "vcpu": spec.vcpu,
            "memory": spec.memory,
            "disk": spec.disk,
            "nat": spec.nat,
            "labels": dict(spec.labels),
            "caches": dict(spec.caches),
            "ssh_keys": list(spec.ssh_keys),
            "host_keys": [vm.host_public] if vm.host_public else [],
            "address": vm.address,
            "ephemeral": vm.ephemeral,
            "created_at": vm.created_at,
            "error": vm.last_error,
            "end_reason": machine.seen.exit.reason.value if machine.seen.exit is not None else "",
            "vmm": driver.name,
            "accelerator": driver.accelerator,
            "capabilities": sorted(map(str, driver.capabilities)),
            "vmm_reason": self._ports.vmm.reason if driver.name == self._ports.vmm.name else "",
        }
        if machine.seen.unit is Unit.ACTIVE:
            facts.update(await self._guest_facts(vm))
        return facts

    def image_name(self, identity: str) -> str:
        """ "" when the image is gone."""
        return next((image.name for image in self._ports.library.images() if image.id == identity), "")

    async def _guest_facts(self, vm: VM) -> dict[str, Value]:
        try:
            status = await self._ports.shims.status(vm)
        except GuestFailed:
            return {}
        return {
            "sessions": status.sessions,
            "memory_total": status.memory_total,
            "memory_available": status.memory_available,
            "listening": [str(port) for port in status.ports],
            "timings_ms": dict(status.timings_ms),
        }

    def sizes(self, request: CreateRequest) -> Sizes:
        """The effective sizes and where they came from. Raises InvalidSpec."""
        host = self._ports.host
        size = HostSize(host.cpus(), host.memory(), self._ports.disks.total_bytes())
        asked = Wish(request.vcpu, request.memory, request.disk)
        return resolve(asked, self._ports.config.vm_defaults.wish(), size)

    def resolve(self, request: CreateRequest, uid: int) -> dict[str, Value]:
        """A user's effective spec, shown before anything is made; `<key>_origin` says where a value came from."""
        sizes = self.sizes(request)
        config = self._ports.config
        facts: dict[str, Value] = {
            "image": request.image or config.default_image_name,
            "image_origin": _origin(request.image, config, "default_image_name"),
            "kernel": request.kernel or config.default_kernel_name,
            "kernel_origin": _origin(request.kernel, config, "default_kernel_name"),
            "nat": request.nat,
            "vmm": self._ports.vmm.name,
            "accelerator": self._ports.vmm.accelerator,
        }
        for key in ("vcpu", "memory", "disk"):
            sized = getattr(sizes, key)
            facts[key] = sized.value
            facts[f"{key}_origin"] = sized.origin
        facts["image_present"] = _present(lambda: self._launcher.usable_image(str(facts["image"]), uid))
        facts["kernel_present"] = _present(lambda: self._launcher.kernel(str(facts["kernel"])))
        return facts


def _origin(asked: str, config: Config, key: str) -> Origin:
    if asked:
        return "request"
    return "built-in" if getattr(config, key) == getattr(Config(), key) else "config"


def _present(find: Callable[[], object]) -> bool:
    try:
        find()
    except BangerError:
        return False
    return True
