"""Stored VMs: records to model and back."""

import json
from dataclasses import asdict, fields

import peewee

from bangerd.model.errors import LimitReached, NoSuchVM, VMExists
from bangerd.model.vm import VM, Desired, VMSpec
from bangerd.store.database import Database
from bangerd.store.records import Counter, VMRecord


class VMRows:
    """Implements core.ports.VMStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load(self) -> tuple[VM, ...]:
        return await self._database.run(lambda: tuple(_vm(row) for row in VMRecord.select()))

    async def insert(self, vm: VM) -> None:
        """Raises VMExists."""
        try:
            await self._database.transaction(lambda: VMRecord.insert(_fields(vm)).execute())
        except peewee.IntegrityError as exc:
            raise VMExists(vm.name) from exc

    async def save(self, vm: VM) -> None:
        """Raises NoSuchVM: what was deleted does not come back."""

        def update() -> int:
            return int(VMRecord.update(_fields(vm)).where(VMRecord.sid == vm.sid).execute())

        if not await self._database.transaction(update):
            raise NoSuchVM(vm.name)

    async def delete(self, vm: VM) -> None:
        await self._database.transaction(lambda: VMRecord.delete_by_id(vm.sid))

    async def lease_uid(self, first: int, count: int, in_use: frozenset[int]) -> int:
        """The next uid of the range in turn that is neither stored nor `in_use`. Raises LimitReached."""

        def pick() -> int:
            taken = in_use | {row.uid for row in VMRecord.select(VMRecord.uid)}
            last = Counter.get_or_none(Counter.name == "uid")
            start = last.value + 1 if last is not None and first <= last.value < first + count - 1 else first
            for offset in range(count):
                uid = first + (start - first + offset) % count
                if uid not in taken:
                    Counter.replace(name="uid", value=uid).execute()
                    return uid
            raise LimitReached(f"all {count} uids for VMs are in use; delete a VM, or raise uid_count")

        return await self._database.transaction(pick)


FIELDS = tuple(field.name for field in fields(VM))


def _fields(vm: VM) -> dict[str, object]:
    return {name: getattr(vm, name) for name in FIELDS} | {
        "spec": json.dumps(asdict(vm.spec)),
        "desired": vm.desired.value,
    }


def _vm(row: VMRecord) -> VM:
    found = {name: getattr(row, name) for name in FIELDS}
    spec = json.loads(row.spec)
    spec["ssh_keys"] = tuple(spec["ssh_keys"])
    return VM(**found | {"spec": VMSpec(**spec), "desired": Desired(row.desired)})
