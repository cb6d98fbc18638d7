"""The service as typed functions: what the CLI can ask for. No decisions here, these are the service's.

What Describe and the List methods tell is passed on as plain dictionaries with the contract's keys
(packaging/dbus/com.thaloco.Banger1.xml): sizes in bytes, times in unix seconds.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from banger import bus as dbus
from banger import jobs, terminal
from banger.bus import Bus, Call, Options, Reply
from banger.errors import BusError, Failure, describe
from banger.progress import Progress

Record = dict[str, Any]
T = TypeVar("T")

_VM = f"{dbus.NAME}.VM"
_IMAGE = f"{dbus.NAME}.Image"
_JOB = f"{dbus.NAME}.Job"
_COMPLETION_TIMEOUT_S = 1.0
_OWN: dict[str, tuple[str, Any]] = {"owner": ("u", os.getuid())}

# The verbs of VM that start a job, and what is said when they fail.
VM_VERBS = {
    "start": "Start",
    "stop": "Stop",
    "restart": "Restart",
    "kill": "Kill",
    "pause": "Pause",
    "resume": "Resume",
    "delete": "Delete",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new VM shall be; None or "" is the service's default. Memory and disk in bytes."""

    name: str = ""
    image: str = ""
    kernel: str = ""
    vcpu: int | None = None
    memory: int | None = None
    disk: int | None = None
    nat: bool | None = None
    ssh_keys: tuple[str, ...] = ()  # lines of .pub files
    labels: Mapping[str, str] = field(default_factory=dict)
    caches: Mapping[str, str] = field(default_factory=dict)  # path in the guest -> name
    entrypoint: bool = True  # whether the command of an image without init runs
    by_config: frozenset[str] = frozenset()  # which of these the user's config said, not a flag

    def creation(self) -> dict[str, tuple[str, Any]]:
        """CreateVM's options."""
        more = {
            "ssh_keys": ("as", list(self.ssh_keys)),
            "labels": ("a{ss}", dict(self.labels)),
            "caches": ("a{ss}", dict(self.caches)),
        }
        given = self.options() | {key: (kind, value) for key, (kind, value) in more.items() if value}
        return given if self.entrypoint else given | {"entrypoint": ("b", False)}

    def options(self) -> dict[str, tuple[str, Any]]:
        """ResolveSpec's options, which are the first of CreateVM's."""
        typed = {
            "image": ("s", self.image or None),
            "kernel": ("s", self.kernel or None),
            "vcpu": ("u", self.vcpu),
            "memory": ("t", self.memory),
            "disk": ("t", self.disk),
            "nat": ("b", self.nat),
        }
        return {key: (kind, value) for key, (kind, value) in typed.items() if value is not None}


class Service:
    """The banger service on the system bus. Every method raises Failure, in words for the user."""

    def __init__(self) -> None:
        try:
            self._bus = Bus(prompt=terminal.start_agent)
        except BusError as exc:
            hint = "start it, or set DBUS_SYSTEM_BUS_ADDRESS"
            raise Failure("NoBus", "cannot reach the system bus", why=exc.text, hint=hint) from None

    # VMs

    def find_vm(self, name: str) -> str:
        """The object path of the VM called `name`."""
        return str(self._manager("FindVM", "s", name).values[0])

    def list_vms(self, *, everyone: bool = False) -> list[Record]:
        """Your VMs by name; with `everyone`, also what all users may see of the others'."""
        vms: list[Record] = []
        options: dict[str, tuple[str, Any]] = {} if everyone else _OWN.copy()
        while True:
            page, following = self._manager("ListVMs", "a{sv}", options).values
            vms += page
            if not following:
                return vms
            options["after"] = ("s", following)

    def describe_vm(self, path: str) -> Record:
        return dict(self._call(path, _VM, "Describe", "a{sv}", {}).values[0])

    def resolve_spec(self, wanted: Wanted) -> Record:
        """The spec a VM would get, each value with its `<key>_origin`, and `image_present`, `kernel_present`."""
        return dict(self._manager("ResolveSpec", "a{sv}", wanted.options()).values[0])

    def create_vm(
        self, wanted: Wanted, progress: Progress, *, start: bool, lifeline: int | None = None
    ) -> str:
        """Make a VM, wait until it is ready; return its path. With `lifeline` it lives while the other end is open."""
        options = wanted.creation()
        fds: tuple[int, ...] = ()
        if not start:
            options["start"] = ("b", False)
        if lifeline is not None:
            options |= {"ephemeral": ("b", True), "lifeline": ("h", 0)}
            fds = (lifeline,)
        call = Call(dbus.ROOT, dbus.MANAGER, "CreateVM", "sa{sv}", (wanted.name, options), fds)
        doing = f"cannot create VM '{wanted.name}'" if wanted.name else "cannot create the VM"
        return str(self._follow(call, progress, doing).values[0])

    def vm_name(self, path: str) -> str:
        return str(self._property(path, _VM, "Name"))

    def vm_state(self, path: str) -> str:
        return str(self._property(path, _VM, "State"))

    def change_vm(self, verb: str, name: str, progress: Progress, *, path: str = "") -> None:
        """Have a VM do one of VM_VERBS, and wait for it."""
        call = Call(path or self.find_vm(name), _VM, VM_VERBS[verb], "a{sv}", ({},))
        self._follow(call, progress, f"cannot {verb} VM '{name}'")

    def set_labels(self, path: str, labels: Mapping[str, str]) -> None:
        """Set these labels of the VM at `path`; an empty value removes one."""
        self._call(path, _VM, "SetLabels", "a{ss}a{sv}", dict(labels), {})

    def open_session(self, path: str) -> int:
        """A descriptor for one session with the guest of the VM at `path`."""
        return self._session(Call(path, _VM, "Exec", "a{sv}", ({},)))

    def open_side_session(self, path: str, timeout_s: float) -> int:
        """The same for what nobody waits for: nobody is asked for a password, and a slow answer is a failure."""
        return self._session(Call(path, _VM, "Exec", "a{sv}", ({},), timeout_s=timeout_s, prompt=False))

    def _session(self, call: Call) -> int:
        reply = self._guarded(lambda: self._bus.call(call))
        return self._guarded(lambda: dbus.fd_of(reply, reply.values[0]))

    def open_log(self, path: str) -> int:
        """A descriptor for reading the console's log of the VM at `path`."""
        reply = self._call(path, _VM, "OpenLog", "a{sv}", {})
        return self._guarded(lambda: dbus.fd_of(reply, reply.values[0]))

    # Images and kernels

    def list_images(self) -> list[Record]:
        return list(self._manager("ListImages", "a{sv}", {}).values[0])

    def list_kernels(self) -> list[Record]:
        return list(self._manager("ListKernels", "a{sv}", {}).values[0])

    def pull_image(self, name: str, progress: Progress, own_name: str = "") -> None:
        """Get an image, and the default kernel with it; "" is the default image. `own_name`: of a registry's image."""
        options = {"as": ("s", own_name)} if own_name else {}
        call = Call(dbus.ROOT, dbus.MANAGER, "PullImage", "sa{sv}", (name, options))
        self._follow(
            call, progress, f"cannot pull image '{name}'" if name else "cannot pull the default image"
        )

    def import_image(self, name: str, archive: int, progress: Progress) -> None:
        """Make an image of yours of what can be read from the descriptor `archive`."""
        call = Call(dbus.ROOT, dbus.MANAGER, "ImportImage", "sha{sv}", (name, 0, {}), (archive,))
        self._follow(call, progress, f"cannot import image '{name}'")

    def find_image(self, name: str) -> Record:
        """What is known of the image with this name or id; yours go first, then those that all share."""
        found = [image for image in self.list_images() if name in (image.get("name"), image.get("id"))]
        for owner in (os.getuid(), 0):
            for image in found:
                if image.get("owner") == owner:
                    return image
        if found:
            return found[0]
        raise Failure("NoSuchImage", f"no image named '{name}' here", hint="`banger image list` shows them")

    def delete_image(self, name: str, progress: Progress) -> None:
        call = Call(str(self.find_image(name)["path"]), _IMAGE, "Delete", "a{sv}", ({},))
        self._follow(call, progress, f"cannot delete image '{name}'")

    # Caches

    def list_caches(self, *, everyone: bool = False) -> list[Record]:
        """Your cache disks by name; with `everyone`, also what you may see of the others'."""
        options: dict[str, tuple[str, Any]] = {} if everyone else _OWN.copy()
        return list(self._manager("ListCaches", "a{sv}", options).values[0])

    def delete_cache(self, name: str, owner_uid: int | None = None) -> None:
        """`owner_uid`: whose it is, if not yours."""
        options = {} if owner_uid is None else {"owner": ("u", owner_uid)}
        self._manager("DeleteCache", "sa{sv}", name, options)

    # Jobs and the service itself

    def list_jobs(self) -> list[Record]:
        return list(self._manager("ListJobs", "a{sv}", {}).values[0])

    def cancel_job(self, number: int) -> None:
        self._call(f"{dbus.ROOT}/job/{number}", _JOB, "Cancel", "a{sv}", {})

    def doctor(self) -> list[Record]:
        return list(self._manager("Doctor", "a{sv}", {}).values[0])

    def version(self) -> str:
        return str(self._property(dbus.ROOT, dbus.MANAGER, "Version"))

    # How

    def _manager(self, member: str, signature: str, *arguments: str | Options) -> Reply:
        return self._call(dbus.ROOT, dbus.MANAGER, member, signature, *arguments)

    def _call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str,
        *arguments: str | Options | Mapping[str, str],
    ) -> Reply:
        return self._guarded(lambda: self._bus.call(Call(path, interface, member, signature, arguments)))

    def _property(self, path: str, interface: str, name: str) -> Any:
        return self._guarded(lambda: self._bus.get_property(path, interface, name))

    def _follow(self, call: Call, progress: Progress, doing: str) -> Reply:
        return jobs.follow(self._bus, call, progress, doing)

    @staticmethod
    def _guarded(action: Callable[[], T]) -> T:
        try:
            return action()
        except BusError as exc:
            raise describe(exc) from None


def names(kind: str, prefix: str) -> list[str]:
    """Names of "vm", "cache" (your own), "image" or "kernel" that begin with `prefix`, for the shell's completion.

    Quick, never starts the service. Raises BusError.
    """
    options: Options = {"prefix": ("s", prefix)}
    call = Call(
        dbus.ROOT,
        dbus.MANAGER,
        "ListNames",
        "sa{sv}",
        (kind, options),
        timeout_s=_COMPLETION_TIMEOUT_S,
        start_service=False,
    )
    return list(Bus().call(call).values[0])
