"""A new VM's record: everything that was asked for checked, before anything is made."""

import time
import uuid
from collections.abc import Sequence

from bangerd.core.caches import Caches
from bangerd.core.describe import Describer
from bangerd.core.effects import Ports
from bangerd.core.jobs import Caller
from bangerd.core.launch import Launcher
from bangerd.core.requests import CreateRequest, check_request
from bangerd.model.errors import HostNotReady, LimitReached, VMExists
from bangerd.model.names import generate
from bangerd.model.vm import VM, Desired, VMSpec, check_name


class Creator:
    """Stores new VMs, one at a time."""

    def __init__(self, ports: Ports, describer: Describer, caches: Caches) -> None:
        self._ports = ports
        self._describer = describer
        self._caches = caches
        self._launcher = Launcher(ports)

    async def insert(self, request: CreateRequest, by: Caller, vms: Sequence[VM]) -> VM:
        """`vms` are all that there are.

        Raises InvalidSpec, VMExists, NoSuchImage, NoSuchKernel, CacheInUse, LimitReached, HostNotReady.
        """
        config, ports = self._ports.config, self._ports
        check_request(request)
        names = {vm.name: vm.owner_uid for vm in vms}
        name = check_name(request.name) if request.name else generate(names)
        if name in names:
            raise VMExists(name, own=names[name] == by.uid)
        if sum(vm.owner_uid == by.uid for vm in vms) >= config.max_vms_per_user:
            raise LimitReached(
                f"you have {config.max_vms_per_user} VMs, as many as this machine allows each user; delete one"
            )
        self._check_isolation(by, vms)
        self._check_caches(request, by)
        if request.start:
            await self._launcher.check_vmm()
        spec = self._spec(request, by)
        in_use = ports.host.uids_in_use(config.uid_first, config.uid_count)
        uid = await ports.store.lease_uid(config.uid_first, config.uid_count, in_use)
        identity = _new_id({vm.sid for vm in vms})
        host_key, host_public = ports.host.new_host_key()
        vm = VM(
            id=str(identity),
            sid=identity.hex[:8],
            name=name,
            owner_uid=by.uid,
            owner_name=by.name,
            spec=spec,
            desired=Desired.STOPPED,
            uid=uid,
            ephemeral=request.ephemeral,
            created_at=int(time.time()),
            host_key=host_key,
            host_public=host_public,
        )
        await ports.store.insert(vm)
        return vm

    def _spec(self, request: CreateRequest, by: Caller) -> VMSpec:
        config = self._ports.config
        sizes = self._describer.sizes(request)
        return VMSpec(
            image=self._launcher.usable_image(request.image or config.default_image_name, by.uid).id,
            kernel=self._launcher.kernel(request.kernel or config.default_kernel_name).id,
            vcpu=sizes.vcpu.value,
            memory=sizes.memory.value,
            disk=sizes.disk.value,
            nat=request.nat,
            ssh_keys=request.ssh_keys,
            labels=dict(request.labels),
            entrypoint=request.entrypoint,
            caches=dict(request.caches),
        )

    def _check_caches(self, request: CreateRequest, by: Caller) -> None:
        names = tuple(request.caches.values())
        self._caches.check_count(by.uid, names)
        if request.start:
            self._caches.check_free(by.uid, names)

    def _check_isolation(self, by: Caller, vms: Sequence[VM]) -> None:
        if self._ports.supervisor.isolates_owners or self._ports.config.allow_shared_host:
            return
        other = next((vm for vm in vms if vm.owner_uid != by.uid), None)
        if other is not None:
            raise HostNotReady(
                f"{other.owner_name} has VMs on this machine, and without systemd nothing keeps VMs of two users"
                " apart; run banger under systemd, or have the admin set allow_shared_host = true"
            )


def _new_id(taken: set[str]) -> uuid.UUID:
    while (identity := uuid.uuid4()).hex[:8] in taken:
        pass
    return identity
