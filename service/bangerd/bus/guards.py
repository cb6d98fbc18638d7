"""Which polkit action each kind of act needs, and the facts that polkit is given about it."""

from dataclasses import dataclass
from typing import Protocol

from bangerd.bus.export import Call, Facts
from bangerd.bus.polkit import PREFIX
from bangerd.core.jobs import Job
from bangerd.core.requests import CreateRequest
from bangerd.model.image import Image, Kernel
from bangerd.model.reference import Reference
from bangerd.model.vm import VM

INSPECT = PREFIX + "inspect"
INSPECT_OTHERS = PREFIX + "inspect-others"
VM_CREATE = PREFIX + "vm.create"
VM_MANAGE_OWN = PREFIX + "vm.manage-own"
VM_MANAGE_OTHERS = PREFIX + "vm.manage-others"
VM_ACCESS_OWN = PREFIX + "vm.access-own"
VM_ACCESS_OTHERS = PREFIX + "vm.access-others"
IMAGE_PULL = PREFIX + "image.pull"
IMAGE_PULL_ANY = PREFIX + "image.pull-any"
IMAGE_MANAGE_OWN = PREFIX + "image.manage-own"
IMAGE_MANAGE_OTHERS = PREFIX + "image.manage-others"
CACHE_MANAGE_OWN = PREFIX + "cache.manage-own"
CACHE_MANAGE_OTHERS = PREFIX + "cache.manage-others"
JOB_MANAGE_OWN = PREFIX + "job.manage-own"
JOB_MANAGE_OTHERS = PREFIX + "job.manage-others"

ALL = (
    INSPECT,
    INSPECT_OTHERS,
    VM_CREATE,
    VM_MANAGE_OWN,
    VM_MANAGE_OTHERS,
    VM_ACCESS_OWN,
    VM_ACCESS_OTHERS,
    IMAGE_PULL,
    IMAGE_PULL_ANY,
    IMAGE_MANAGE_OWN,
    IMAGE_MANAGE_OTHERS,
    CACHE_MANAGE_OWN,
    CACHE_MANAGE_OTHERS,
    JOB_MANAGE_OWN,
    JOB_MANAGE_OTHERS,
)


def inspect(_interface: object, _call: Call, _target: object, _body: object) -> Facts:
    """Reading what everybody may read, or what is the caller's own."""
    return Facts(INSPECT, "looking at banger's VMs, images and jobs")


@dataclass(frozen=True, slots=True)
class _Act:
    """One kind of act: its action and how a refusal speaks of it, for what is one's own and for others' things."""

    own: str
    own_why: str
    others: str
    others_why: str


_MANAGE = _Act(VM_MANAGE_OWN, "managing it", VM_MANAGE_OTHERS, "managing other users' VMs")
_ACCESS = _Act(VM_ACCESS_OWN, "getting into it", VM_ACCESS_OTHERS, "getting into other users' VMs")
_LOOK = _Act(INSPECT, "looking at it", INSPECT_OTHERS, "looking at other users' VMs")


class _Images(Protocol):
    def image_name(self, vm: VM) -> str: ...


def _vm(images: _Images, call: Call, vm: VM, act: _Act) -> Facts:
    details = {"vm": vm.name, "owner": vm.owner_name, "image": images.image_name(vm)}
    identity = (vm.id, vm.owner_uid)
    if call.uid == vm.owner_uid:
        return Facts(act.own, f"VM '{vm.name}' is yours; {act.own_why}", details, identity)
    return Facts(
        act.others, f"VM '{vm.name}' belongs to {vm.owner_name}; {act.others_why}", details, identity
    )


def manage_vm(interface: _Images, call: Call, vm: VM, _body: object) -> Facts:
    """Starting, stopping, pausing, deleting."""
    return _vm(interface, call, vm, _MANAGE)


def access_vm(interface: _Images, call: Call, vm: VM, _body: object) -> Facts:
    """Running commands in it, reading its console."""
    return _vm(interface, call, vm, _ACCESS)


def inspect_vm(interface: _Images, call: Call, vm: VM, _body: object) -> Facts:
    return _vm(interface, call, vm, _LOOK)


def create_vm(request: CreateRequest, call: Call, image: str, sizes: dict[str, int]) -> Facts:
    """`image` and `sizes` as they will be, after defaults and checks."""
    details = {"vm": request.name, "owner": call.caller.name, "image": image}
    details.update({key: str(value) for key, value in sizes.items()})
    return Facts(VM_CREATE, "creating a VM", details)


def pull(name: str) -> Facts:
    """Of the catalog."""
    return Facts(IMAGE_PULL, f"getting image '{name}' of the catalog", {"image": name})


def pull_any(call: Call, wanted: Reference) -> Facts:
    details = {"image": str(wanted), "registry": wanted.registry, "owner": call.caller.name}
    return Facts(IMAGE_PULL_ANY, f"getting an image from registry '{wanted.registry}'", details)


def import_image(call: Call, name: str) -> Facts:
    details = {"image": name, "owner": call.caller.name}
    return Facts(IMAGE_MANAGE_OWN, f"making image '{name}' of a file", details)


def inspect_image(_interface: object, call: Call, image: Image, _body: object) -> Facts:
    identity = (image.id, image.owner_uid)
    if image.owner_uid in (0, call.uid):
        return Facts(INSPECT, f"looking at image '{image.name}'", {"image": image.name}, identity)
    why = f"image '{image.name}' belongs to another user; looking at it"
    return Facts(INSPECT_OTHERS, why, {"image": image.name}, identity)


def manage_image(_interface: object, call: Call, image: Image, _body: object) -> Facts:
    details, identity = {"image": image.name}, (image.id, image.owner_uid)
    if call.uid == image.owner_uid:
        return Facts(IMAGE_MANAGE_OWN, f"image '{image.name}' is yours; removing it", details, identity)
    whose = "is shared by all users" if image.owner_uid == 0 else "belongs to another user"
    return Facts(IMAGE_MANAGE_OTHERS, f"image '{image.name}' {whose}; removing it", details, identity)


def manage_kernel(_interface: object, _call: Call, kernel: Kernel, _body: object) -> Facts:
    why = f"kernel '{kernel.name}' is shared by all users; removing it"
    return Facts(IMAGE_MANAGE_OTHERS, why, {"kernel": kernel.name}, (kernel.id,))


def manage_cache(call: Call, name: str, owner_uid: int, owner: str) -> Facts:
    """Deleting it."""
    details, identity = {"cache": name, "owner": owner}, (name, owner_uid)
    if call.uid == owner_uid:
        return Facts(CACHE_MANAGE_OWN, f"cache '{name}' is yours; deleting it", details, identity)
    return Facts(CACHE_MANAGE_OTHERS, f"cache '{name}' belongs to {owner}; deleting it", details, identity)


def _job(call: Call, job: Job, own: str, others: str, act: str) -> Facts:
    details = {"job": str(job.number), "type": job.type, "owner": job.by.name}
    identity = (job.number, job.owner_uid)
    if call.uid == job.owner_uid:
        return Facts(own, f"job {job.number} is yours; {act} it", details, identity)
    return Facts(others, f"job {job.number} belongs to {job.by.name}; {act} it", details, identity)


def manage_job(_interface: object, call: Call, job: Job, _body: object) -> Facts:
    return _job(call, job, JOB_MANAGE_OWN, JOB_MANAGE_OTHERS, "canceling")


def inspect_job(_interface: object, call: Call, job: Job, _body: object) -> Facts:
    """Who joined another user's pull may follow it."""
    if call.caller.client in job.followers:
        return Facts(
            INSPECT, f"looking at job {job.number}", {"job": str(job.number)}, (job.number, job.owner_uid)
        )
    return _job(call, job, INSPECT, INSPECT_OTHERS, "looking at")
