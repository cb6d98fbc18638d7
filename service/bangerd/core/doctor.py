"""Is this machine fit? One check a line, each with the next step to take."""

from dataclasses import dataclass
from typing import Literal

from bangerd.core.describe import Describer
from bangerd.core.effects import Ports
from bangerd.core.requests import CreateRequest
from bangerd.model.errors import BangerError, HostNotReady
from bangerd.model.sizing import Sized, shown
from bangerd.model.vm import GIB

_LIMITS_HINT = (
    "use another VMM, or take it out of /etc/banger/banger.toml; docs/vmm.md says what each can do"
)


@dataclass(frozen=True, slots=True)
class Check:
    """`hint` says what to do; empty when all is well."""

    name: str
    state: Literal["ok", "warning", "failed"]
    text: str
    hint: str = ""


class Doctor:
    """Reads the host, changes nothing."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self._describer = Describer(ports)

    async def checks(self) -> list[Check]:
        ports = self._ports
        return [
            await self._vmm(),
            *[Check("limits", "warning", text, _LIMITS_HINT) for text in self._ports.vmm.missing],
            self._sizes(),
            self._disk(),
            Check("supervisor", *self._isolation()),
            *[Check("network", "warning", text) for text in await ports.network.problems()],
            self._library(),
        ]

    async def _vmm(self) -> Check:
        works, why = self._ports.host.kvm()
        vmm = self._ports.vmm
        try:
            await vmm.check()
        except HostNotReady as exc:
            text = f"{exc} ({vmm.reason})" if vmm.reason else str(exc)
            return Check("vmm", "failed", text, "no VM can be started; docs/vmm.md says what is needed")
        reason = vmm.reason if why in vmm.reason else f"{vmm.reason}; {why}"
        text = f"{vmm.name} with {vmm.accelerator}: {reason}"
        if works:
            return Check("vmm", "ok", text)
        if vmm.accelerator == "kvm":
            return Check(
                "vmm",
                "failed",
                f"{vmm.name} with kvm, but KVM does not work any more: {why}",
                "no VM can be started; mend that, or `systemctl restart banger` to have the VMM chosen anew",
            )
        return Check("vmm", "warning", text, "guests run, but slowly; enable virtualization in the firmware")

    def _sizes(self) -> Check:
        try:
            sizes = self._describer.sizes(CreateRequest())
        except BangerError as exc:
            return Check("defaults", "failed", str(exc), "mend vm_defaults in /etc/banger/banger.toml")
        vcpu, memory, disk = sizes.vcpu, sizes.memory, sizes.disk
        return Check(
            "defaults",
            "ok",
            f"{vcpu.value} vCPU ({_who(vcpu)}), {shown(memory.value)} memory ({_who(memory)}),"
            f" {shown(disk.value)} disk ({_who(disk)})",
        )

    def _disk(self) -> Check:
        free = self._ports.disks.free_bytes()
        text = f"{free // GIB} GiB free for images and disks"
        if free < 4 * GIB:
            return Check("disk", "warning", text, "make room in the state folder")
        return Check("disk", "ok", text)

    def _isolation(self) -> tuple[Literal["ok", "warning"], str, str]:
        if self._ports.supervisor.isolates_owners:
            return "ok", "each VM runs in a systemd unit of its own", ""
        return (
            "warning",
            "systemd is not PID 1: VMs are plain processes, of one owner at a time",
            "boot the machine with systemd",
        )

    def _library(self) -> Check:
        images = ", ".join(sorted({image.name for image in self._ports.library.images()}))
        if images:
            return Check("images", "ok", images)
        return Check("images", "warning", "no image yet", "`banger image pull` makes the default one")


def _who(sized: Sized) -> str:
    return "admin" if sized.origin == "config" else sized.origin
