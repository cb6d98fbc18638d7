"""com.thaloco.Banger1.Manager"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from bangerd.bus import guards, image, job, kernel, names, options
from bangerd.bus.core import Core
from bangerd.bus.export import Call, Facts, Interface, Signal, args, exported, shown
from bangerd.bus.guards import inspect
from bangerd.bus.polkit import Authority, Verdict
from bangerd.core.images import not_in_catalog
from bangerd.core.jobs import Job
from bangerd.core.requests import CreateRequest
from bangerd.model import reference
from bangerd.model.cache import Cache, check_cache_name
from bangerd.model.errors import BangerError, InvalidSpec
from bangerd.model.vm import VM, check_name

OPTIONS = "options:a{sv}"

SPEC_OPTIONS = {
    "image": "s",
    "kernel": "s",
    "vcpu": "u",
    "memory": "t",
    "disk": "t",
    "nat": "b",
}
CREATE_OPTIONS = SPEC_OPTIONS | {
    "ssh_keys": "as",
    "labels": "a{ss}",
    "caches": "a{ss}",
    "start": "b",
    "entrypoint": "b",
    "ephemeral": "b",
    "lifeline": "h",
}
NAME_LIMIT = 255  # characters in the name of an image or a kernel
NAME_LISTS = ("vm", "image", "kernel", "cache")
NOBODY = -1  # owns no image
PAGE = 256  # VMs in one answer of ListVMs, at most


def _create_guard(manager: "Manager", call: Call, _target: None, body: list[Any]) -> Facts:
    request = _request(body[0], body[1])
    spec = manager.core.vms.resolve(request, call.uid)
    sizes = {key: int(str(spec[key])) for key in ("vcpu", "memory", "disk")}
    return guards.create_vm(request, call, _shown_image(manager, call, str(spec["image"])), sizes)


def _shown_image(manager: "Manager", call: Call, name: str) -> str:
    """The image's stored name. Raises NoSuchImage."""
    return manager.core.images.find_image(name, call.uid).name


def _pull_guard(manager: "Manager", call: Call, _target: None, body: list[Any]) -> Facts:
    name, catalog = body[0], manager.core.catalog()
    if not name or name in catalog:
        return guards.pull(name or "default")
    if "/" not in name:
        raise not_in_catalog(name[:NAME_LIMIT], catalog)
    return guards.pull_any(call, reference.parse(name))


def _import_guard(_manager: "Manager", call: Call, _target: None, body: list[Any]) -> Facts:
    return guards.import_image(call, reference.check_image_name(body[0]))


def _cache_owner(call: Call, given: dict[str, Any]) -> int:
    return int(options.read(given, {"owner": "u"}, "DeleteCache").get("owner", call.uid))


def _delete_cache_guard(manager: "Manager", call: Call, _target: None, body: list[Any]) -> Facts:
    owner = _cache_owner(call, body[1])
    return guards.manage_cache(call, check_cache_name(body[0]), owner, manager.core.user_name(owner))


def _spec(given: dict[str, Any], known: dict[str, str], where: str) -> dict[str, Any]:
    """Raises InvalidSpec."""
    values = options.read(given, known, where)
    for key in ("image", "kernel"):
        if len(values.get(key, "")) > NAME_LIMIT:
            raise InvalidSpec(f"option '{key}' has {len(values[key])} characters; {NAME_LIMIT} are possible")
    return values


def _request(name: str, given: dict[str, Any]) -> CreateRequest:
    """Raises InvalidSpec."""
    values = _spec(given, CREATE_OPTIONS, "CreateVM")
    values.pop("lifeline", None)
    values["ssh_keys"] = tuple(values.get("ssh_keys", ()))
    return CreateRequest(name=check_name(name) if name else "", **values)


class Manager(Interface):
    """The service itself, at /com/thaloco/Banger1."""

    name = names.MANAGER_INTERFACE
    signals = (
        Signal("VMAdded", args("vm:o")),
        Signal("VMRemoved", args("vm:o")),
        Signal("JobRemoved", args("job:o result:s")),
    )

    def __init__(self, core: Core, authority: Authority) -> None:
        self.core = core
        self._authority = authority

    def get(self, leaf: str) -> None:
        return None

    def leaves(self) -> Iterable[str]:
        return ()

    @shown("s")
    def Version(self, _target: None) -> str:
        return self.core.version

    @shown("as", emits="const")
    def Capabilities(self, _target: None) -> list[str]:
        return list(self.core.capabilities)

    @shown("a{sv}", emits="false")
    def Defaults(self, _target: None) -> dict[str, Any]:
        try:
            return options.write(self.core.vms.resolve(CreateRequest(), NOBODY))
        except BangerError:
            return {}  # Doctor says what is wrong with them

    @exported(_create_guard, "name:s options:a{sv}", "vm:o job:o", descriptors=1)
    async def CreateVM(self, call: Call, _target: None, name: str, given: dict[str, Any]) -> tuple[str, str]:
        request = _request(name, given)
        if "lifeline" in given and not request.ephemeral:
            raise InvalidSpec("option 'lifeline' goes with 'ephemeral' only: closing it deletes the VM")
        lifeline = call.take(given["lifeline"].value) if "lifeline" in given else None
        vm, started = await self.core.vms.create(request, call.caller, lifeline)
        return names.vm_path(vm.sid), names.job_path(started.number)

    @exported(inspect, "name:s", "vm:o")
    async def FindVM(self, _call: Call, _target: None, name: str) -> str:
        return names.vm_path(self.core.vms.find(name[:64]).sid)

    @exported(inspect, OPTIONS, "vms:aa{sv} next:s")
    async def ListVMs(
        self, call: Call, _target: None, given: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], str]:
        values = options.read(given, {"owner": "u", "after": "s", "limit": "u"}, "ListVMs")
        limit = min(values.get("limit", PAGE), PAGE) or PAGE
        wanted = [
            vm
            for vm in self.core.vms.all()
            if vm.name > values.get("after", "") and vm.owner_uid == values.get("owner", vm.owner_uid)
        ]
        page, more = wanted[:limit], len(wanted) > limit
        all_of_it = any(vm.owner_uid != call.uid for vm in page) and await self._sees_others(call)
        rows = [self._row(vm, whole=all_of_it or vm.owner_uid == call.uid) for vm in page]
        return options.write_all(rows), page[-1].name if more else ""

    @exported(inspect, "kind:s options:a{sv}", "names:as")
    async def ListNames(self, call: Call, _target: None, kind: str, given: dict[str, Any]) -> list[str]:
        prefix = options.read(given, {"prefix": "s"}, "ListNames").get("prefix", "")
        match kind:
            case "vm":
                names = [vm.name for vm in self.core.vms.all() if vm.owner_uid == call.uid]
            case "image":
                names = [one.name for one in self.core.images.images() if one.owner_uid in (0, call.uid)]
            case "kernel":
                names = [one.name for one in self.core.images.kernels()]
            case "cache":
                names = [one.name for one in self.core.vms.caches.all() if one.owner_uid == call.uid]
            case _:
                raise InvalidSpec(f"ListNames knows no {kind[:64]!a}; there are {', '.join(NAME_LISTS)}")
        return sorted({name for name in names if name.startswith(prefix)})

    def _row(self, vm: VM, *, whole: bool) -> dict[str, Any]:
        row: dict[str, Any] = {
            "path": options.Path(names.vm_path(vm.sid)),
            "name": vm.name,
            "state": self.core.vms.state(vm).value,
            "owner": vm.owner_uid,
            "owner_name": vm.owner_name,
        }
        if whole:
            spec = vm.spec
            row |= {"image": spec.image, "image_name": self.core.vms.image_name(vm)}
            row |= {"vcpu": spec.vcpu, "memory": spec.memory, "disk": spec.disk}
            row |= {"address": vm.address, "created_at": vm.created_at, "error": vm.last_error}
            row |= {"labels": dict(spec.labels), "ephemeral": vm.ephemeral}
        return row

    async def _sees_others(self, call: Call) -> bool:
        facts = Facts(guards.INSPECT_OTHERS, "looking at other users' VMs")
        return await self._authority.verdict(call, facts) is Verdict.YES

    @exported(inspect, OPTIONS, "images:aa{sv}")
    async def ListImages(self, call: Call, _target: None, given: dict[str, Any]) -> list[dict[str, Any]]:
        options.read(given, {}, "ListImages")
        images = self.core.images.images()
        foreign = any(one.owner_uid not in (0, call.uid) for one in images)
        all_of_it = foreign and await self._sees_others(call)
        return options.write_all(
            [
                image.describe(one) if all_of_it or one.owner_uid in (0, call.uid) else image.summary(one)
                for one in images
            ]
        )

    @exported(_pull_guard, "name:s options:a{sv}", "job:o")
    async def PullImage(self, call: Call, _target: None, name: str, given: dict[str, Any]) -> str:
        values = options.read(given, {"as": "s"}, "PullImage")
        return self._followed(self.core.images.pull(name, call.caller, values.get("as", "")), call)

    @exported(_import_guard, "name:s archive:h options:a{sv}", "job:o", descriptors=1)
    async def ImportImage(
        self, call: Call, _target: None, name: str, archive: int, given: dict[str, Any]
    ) -> str:
        options.read(given, {}, "ImportImage")
        started = self.core.images.import_image(name, call.take(archive), call.caller)
        return names.job_path(started.number)

    def _followed(self, started: Job, call: Call) -> str:
        """A pull that is under way already is joined: then its end is told to both."""
        if started.client != call.caller.client:
            started.followers.add(call.caller.client)
        return names.job_path(started.number)

    @exported(inspect, OPTIONS, "kernels:aa{sv}")
    async def ListKernels(self, _call: Call, _target: None, given: dict[str, Any]) -> list[dict[str, Any]]:
        options.read(given, {}, "ListKernels")
        return options.write_all([kernel.describe(one) for one in self.core.images.kernels()])

    @exported(inspect, OPTIONS, "caches:aa{sv}")
    async def ListCaches(self, call: Call, _target: None, given: dict[str, Any]) -> list[dict[str, Any]]:
        owner = options.read(given, {"owner": "u"}, "ListCaches").get("owner")
        caches = [one for one in self.core.vms.caches.all() if owner in (None, one.owner_uid)]
        all_of_it = any(one.owner_uid != call.uid for one in caches) and await self._sees_others(call)
        return options.write_all(
            [self._cache(one) for one in caches if all_of_it or one.owner_uid == call.uid]
        )

    def _cache(self, cache: Cache) -> dict[str, Any]:
        return {
            "name": cache.name,
            "owner": cache.owner_uid,
            "owner_name": self.core.user_name(cache.owner_uid),
            "size": cache.size,
            "used": cache.used,
            "vm": self.core.vms.caches.user(cache),
            "created_at": cache.created_at,
        }

    @exported(_delete_cache_guard, "name:s options:a{sv}")
    async def DeleteCache(self, call: Call, _target: None, name: str, given: dict[str, Any]) -> None:
        await self.core.vms.caches.delete(_cache_owner(call, given), name)

    @exported(inspect, OPTIONS, "jobs:aa{sv}")
    async def ListJobs(self, call: Call, _target: None, given: dict[str, Any]) -> list[dict[str, Any]]:
        options.read(given, {}, "ListJobs")
        jobs = self.core.jobs.all()
        all_of_it = any(one.owner_uid != call.uid for one in jobs) and await self._sees_others(call)
        return options.write_all(
            [job.describe(one) for one in jobs if all_of_it or one.owner_uid == call.uid]
        )

    @exported(inspect, OPTIONS, "spec:a{sv}")
    async def ResolveSpec(self, call: Call, _target: None, given: dict[str, Any]) -> dict[str, Any]:
        values = _spec(given, SPEC_OPTIONS, "ResolveSpec")
        return options.write(self.core.vms.resolve(CreateRequest(**values), call.uid))

    @exported(inspect, OPTIONS, "checks:aa{sv}")
    async def Doctor(self, _call: Call, _target: None, given: dict[str, Any]) -> list[dict[str, Any]]:
        options.read(given, {}, "Doctor")
        return options.write_all([dataclasses.asdict(check) for check in await self.core.doctor.checks()])

    @exported(inspect, OPTIONS, "permissions:a{ss}")
    async def GetPermissions(self, call: Call, _target: None, given: dict[str, Any]) -> dict[str, str]:
        options.read(given, {}, "GetPermissions")
        return {
            action: (await self._authority.verdict(call, Facts(action, "asking what you may do"))).value
            for action in guards.ALL
        }

    @exported(inspect)
    async def Ping(self, _call: Call, _target: None) -> None:
        """Proves that the bus, polkit and the service answer."""
