"""Supervises VMs as transient units of systemd, over its D-Bus interface."""

import asyncio
import logging
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from dbus_next.aio.message_bus import MessageBus
from dbus_next.constants import MessageFlag, MessageType
from dbus_next.errors import DBusError
from dbus_next.message import Message
from dbus_next.signature import Variant

from bangerd.core.ports import UnitSpec
from bangerd.host.unit import unit_name, unit_properties
from bangerd.model.errors import StepFailed
from bangerd.model.vm import Unit

log = logging.getLogger(__name__)

_NAME = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
_PATTERN = "banger-vm-*.service"
_UNIT_RE = re.compile(r"banger-vm-([0-9a-f]{8})\.service")
_UNIT_PATH_RE = re.compile(r"/org/freedesktop/systemd1/unit/banger_2dvm_2d([0-9a-f]{8})_2eservice")
_CHANGES = f"type='signal',sender='{_NAME}',interface='{_PROPERTIES}',member='PropertiesChanged',arg0='{_NAME}.Unit'"
_NARROW_RULES = 256

_CALL_S = 25.0
_JOB_S = 60.0  # of a stop: TimeoutStopUSec and the final kill are within

_STATES = {
    "active": Unit.ACTIVE,
    "reloading": Unit.ACTIVE,
    "activating": Unit.ACTIVATING,
    "deactivating": Unit.DEACTIVATING,
    "failed": Unit.FAILED,
}

_Job = tuple[str, str]  # object path, result


class SystemdSupervisor:
    """ports.Supervisor. The bus is the caller's: connected, able to pass descriptors, closed by the caller."""

    isolates_owners = True

    def __init__(self, bus: MessageBus, owner: str) -> None:
        self._bus = bus
        self._owner = owner  # systemd's unique name: a signal sent to us directly may come from anyone
        self._waiting: dict[str, list[asyncio.Queue[_Job]]] = {}  # by unit name
        self._changed: Callable[[str], None] = _ignore
        self._watched: set[str] = set()
        self._all_watched = False
        bus.add_message_handler(self._on_message)

    @classmethod
    async def connect(cls, bus: MessageBus) -> "SystemdSupervisor":
        """Raises StepFailed when systemd cannot be reached on this bus."""
        owner = (await _call(bus, _to_bus("GetNameOwner", _NAME)))[0]
        supervisor = cls(bus, owner)
        for rule in (
            f"sender='{_NAME}',interface='{_MANAGER}',member='JobRemoved'",
            f"sender='{_NAME}',interface='{_MANAGER}',member='UnitRemoved'",
            f"sender='{_BUS[0]}',member='NameOwnerChanged',arg0='{_NAME}'",
        ):
            await _call(bus, _to_bus("AddMatch", f"type='signal',{rule}"))
        with suppress(_AlreadySubscribed):
            await supervisor._manager("Subscribe")
        for sid in await supervisor.list_sids():
            await supervisor._watch_unit(sid)
        return supervisor

    async def start(self, spec: UnitSpec) -> None:
        """Return when the shim has been executed. Raises StepFailed that says what systemd made of it."""
        sid = spec.vm.sid
        name = unit_name(sid)
        properties = [[key, Variant(signature, value)] for key, signature, value in unit_properties(spec)]
        result = await self._job(
            name,
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
            [name, "fail", properties, []],
            fds=[] if spec.lifeline is None else [spec.lifeline],
        )
        if result != "done":
            why = await self._why(sid)
            raise StepFailed(f"systemd could not start {name}: {why}; `systemctl status {name}` says more")
        # Not before: the last run's UnitRemoved, which ends the watch, may arrive as late as the call's reply.
        # What happens in between is seen by whoever observes after the start.
        await self._watch_unit(sid)

    async def stop(self, sid: str) -> None:
        """Kill all of the unit and wait until it is gone. Raises StepFailed."""
        name = unit_name(sid)
        if await self.observe(sid) is Unit.ABSENT:
            return
        with suppress(_NoSuchUnit):
            await self._manager("KillUnit", "ssi", [name, "all", 9])
        with suppress(_NoSuchUnit):
            await self._job(name, "StopUnit", "ss", [name, "replace"])
        await self.forget(sid)

    async def forget(self, sid: str) -> None:
        """reset-failed: lets go of a failed unit, and of our interest in it."""
        with suppress(_NoSuchUnit):
            await self._manager("ResetFailedUnit", "s", [unit_name(sid)])

    async def observe(self, sid: str) -> Unit:
        return (await self._list([unit_name(sid)])).get(sid, Unit.ABSENT)

    async def list_sids(self) -> frozenset[str]:
        return frozenset(await self._list([_PATTERN]))

    def watch(self, changed: Callable[[str], None]) -> None:
        self._changed = changed

    async def close(self) -> None:
        """Stop listening; the units go on."""
        self._bus.remove_message_handler(self._on_message)
        self._changed = _ignore

    async def _list(self, patterns: list[str]) -> dict[str, Unit]:
        body = await self._manager("ListUnitsByPatterns", "asas", [[], patterns])
        found = {}
        for name, _description, _load, active, *_ in body[0]:
            match = _UNIT_RE.fullmatch(name)
            if match and active in _STATES:
                found[match[1]] = _STATES[active]
        return found

    async def _job(
        self, name: str, member: str, signature: str, body: list[Any], *, fds: list[int] | None = None
    ) -> str:
        """Queue a job and return its result. Listens before it asks: a job can be over before its reply is read."""
        queue: asyncio.Queue[_Job] = asyncio.Queue()
        self._waiting.setdefault(name, []).append(queue)
        try:
            path = (await self._manager(member, signature, body, fds=fds))[0]
            async with asyncio.timeout(_JOB_S):
                while True:
                    job, result = await queue.get()
                    if job == path:
                        return result
        except TimeoutError:
            raise StepFailed(f"systemd did not finish {member} of {name} within {_JOB_S:g} s") from None
        finally:
            self._waiting[name].remove(queue)
            if not self._waiting[name]:
                del self._waiting[name]

    async def _why(self, sid: str) -> str:
        """The unit's own words, as far as it still has them."""
        message = Message(
            _NAME, _unit_path(sid), _PROPERTIES, "GetAll", signature="s", body=[f"{_NAME}.Service"]
        )
        try:
            body = await _call(self._bus, message)
        except StepFailed as exc:
            return str(exc)
        values = {key: variant.value for key, variant in body[0].items()}
        return f"{values.get('Result', 'unknown')}, status {values.get('ExecMainStatus', 'unknown')}"

    async def _watch_unit(self, sid: str) -> None:
        """Ask for this unit's signals alone, as those of all units are many on a busy host.

        The bus allows 512 rules per connection: from some number of VMs on, one rule covers all units.
        """
        if self._all_watched or sid in self._watched:
            return
        if len(self._watched) < _NARROW_RULES:
            self._watched.add(sid)
            rule = _unit_rule(sid)
        else:
            self._all_watched = True
            rule = f"{_CHANGES},path_namespace='{_PATH}/unit'"
        await _call(self._bus, _to_bus("AddMatch", rule))

    def _unwatch_unit(self, sid: str) -> None:
        if sid in self._watched:
            self._watched.discard(sid)
            message = _to_bus("RemoveMatch", _unit_rule(sid))
            message.flags = MessageFlag.NO_REPLY_EXPECTED
            self._bus.send(message)

    def _on_message(self, message: Message) -> None:
        """Sort out signals; everything else is for others."""
        if message.message_type is not MessageType.SIGNAL:
            return
        key = (message.interface, message.member)
        if message.sender == _BUS[0]:
            if key == (_BUS[2], "NameOwnerChanged") and message.body[0] == _NAME:
                self._owner = message.body[2]  # systemd re-executed itself; it keeps its subscribers
            return
        if message.sender != self._owner:
            return
        if key == (_MANAGER, "JobRemoved"):
            _number, job, name, result = message.body
            for queue in self._waiting.get(name, ()):
                queue.put_nowait((job, result))
            self._notify(name)
        elif key == (_MANAGER, "UnitRemoved"):
            self._notify(message.body[0], removed=True)
        elif key == (_PROPERTIES, "PropertiesChanged"):
            self._notify(_name_of(message.path))

    def _notify(self, name: str, *, removed: bool = False) -> None:
        match = _UNIT_RE.fullmatch(name)
        if match:
            if removed:
                self._unwatch_unit(match[1])
            self._changed(match[1])

    async def _manager(
        self,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        fds: list[int] | None = None,
    ) -> list[Any]:
        message = Message(
            _NAME, _PATH, _MANAGER, member, signature=signature, body=body or [], unix_fds=fds or []
        )
        return await _call(self._bus, message)


class _NoSuchUnit(StepFailed):
    """It has ended and been collected meanwhile."""


class _AlreadySubscribed(StepFailed):
    """This connection has asked for signals before."""


_KINDS = {f"{_NAME}.NoSuchUnit": _NoSuchUnit, f"{_NAME}.AlreadySubscribed": _AlreadySubscribed}


async def _call(bus: MessageBus, message: Message) -> list[Any]:
    """One method call. Raises StepFailed with the error's own text; dbus-next itself knows no deadline."""
    what = f"{message.member} of {message.destination}"
    try:
        async with asyncio.timeout(_CALL_S):
            reply = await bus.call(message)
    except TimeoutError:
        raise StepFailed(f"{what} was not answered within {_CALL_S:g} s") from None
    except (DBusError, OSError, EOFError) as exc:
        raise StepFailed(f"the system bus failed during {what}: {exc}") from exc
    if reply is None:
        raise StepFailed(f"the system bus gave no answer to {what}")
    if reply.message_type is MessageType.ERROR:
        text = reply.body[0] if reply.body and isinstance(reply.body[0], str) else reply.error_name
        raise _KINDS.get(reply.error_name, StepFailed)(f"{what} was refused: {text}")
    return list(reply.body)


def _to_bus(member: str, argument: str) -> Message:
    return Message(*_BUS, member, signature="s", body=[argument])


def _ignore(_sid: str) -> None:
    """Nobody watches yet."""


def _unit_path(sid: str) -> str:
    # systemd escapes '-' and '.' in object paths as '_' and their hexadecimal code.
    return f"{_PATH}/unit/banger_2dvm_2d{sid}_2eservice"


def _name_of(path: str) -> str:
    match = _UNIT_PATH_RE.fullmatch(path)
    return unit_name(match[1]) if match else ""


def _unit_rule(sid: str) -> str:
    return f"{_CHANGES},path='{_unit_path(sid)}'"
