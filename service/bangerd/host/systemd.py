"""Supervises VMs as transient units of systemd, over its D-Bus interface."""

import asyncio
import logging
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from dbus_next.errors import DBusError
from dbus_next.signature import Variant

from bangerd.core.ports import UnitSpec
from bangerd.host.unit import unit_name, unit_properties
from bangerd.model.errors import StepFailed
from bangerd.model.vm import Unit

log = logging.getLogger(__name__)

SYSTEMD = "org.freedesktop.systemd1"
_PATH = "/org/freedesktop/systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_UNIT_RE = re.compile(r"banger-vm-([0-9a-f]{8})\.service")
_UNIT_PATH_RE = re.compile(r"/org/freedesktop/systemd1/unit/banger_2dvm_2d([0-9a-f]{8})_2eservice")
_CHANGES = f"sender='{SYSTEMD}',interface='{_PROPERTIES}',member='PropertiesChanged',arg0='{SYSTEMD}.Unit'"
_NARROW_RULES = 256

_JOB_S = 60.0  # of a stop: TimeoutStopUSec and the final kill are within

_STATES = {
    "active": Unit.ACTIVE,
    "reloading": Unit.ACTIVE,
    "activating": Unit.ACTIVATING,
    "deactivating": Unit.DEACTIVATING,
    "failed": Unit.FAILED,
}

_Job = tuple[str, str]  # object path, result


class Bus(Protocol):
    """A connection to systemd alone: bus/link.py. Signals of nobody else reach the listener it was opened with."""

    async def call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: Sequence[Any] = (),
        *,
        fds: Sequence[int] = (),
    ) -> list[Any]:
        """Raises DBusError, ConnectionError, TimeoutError."""

    async def add_match(self, rule: str) -> None: ...
    def remove_match(self, rule: str) -> None: ...


class SystemdSupervisor:
    """ports.Supervisor. The bus is the caller's, who closes it and passes systemd's signals to `on_signal`."""

    isolates_owners = True

    def __init__(self, empty: Path) -> None:
        """`empty`: a folder of root's, on which each unit's root is put together, in a namespace of its own."""
        self._empty = empty
        self._bus: Bus | None = None
        self._waiting: dict[str, list[asyncio.Queue[_Job]]] = {}  # by unit name
        self._changed: Callable[[str], None] = _ignore
        self._watched: set[str] = set()
        self._all_watched = False

    async def open(self, bus: Bus) -> None:
        """Begin. Raises StepFailed when systemd does not answer."""
        self._bus = bus
        try:
            for member in ("JobRemoved", "UnitRemoved"):
                await bus.add_match(f"sender='{SYSTEMD}',interface='{_MANAGER}',member='{member}'")
            with suppress(_AlreadySubscribed):
                await self._manager("Subscribe")
            for sid in await self.list_sids():
                await self._watch_unit(sid)
        except (DBusError, OSError) as exc:
            raise StepFailed(f"systemd cannot be reached: {exc}") from exc

    async def start(self, spec: UnitSpec) -> None:
        """Return when the shim has been executed. Raises StepFailed that says what systemd made of it."""
        sid = spec.vm.sid
        name = unit_name(sid)
        properties = [
            [key, Variant(signature, value)] for key, signature, value in unit_properties(spec, self._empty)
        ]
        result = await self._job(
            name,
            "StartTransientUnit",
            "ssa(sv)a(sa(sv))",
            [name, "fail", properties, []],
            fds=() if spec.lifeline is None else (spec.lifeline,),
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

    async def lacked_memory(self, sid: str) -> bool:
        return (await self._why(sid)).startswith("oom-kill")

    async def observe(self, sid: str) -> Unit:
        return (await self._list(unit_name(sid))).get(sid, Unit.ABSENT)

    async def list_sids(self) -> frozenset[str]:
        found: dict[str, Unit] = {}
        # In sixteen parts, as the answer for a thousand units is longer than any that we read.
        for digit in "0123456789abcdef":
            found |= await self._list(unit_name(f"{digit}*"))
        return frozenset(found)

    def watch(self, changed: Callable[[str], None]) -> None:
        self._changed = changed

    async def close(self) -> None:
        """Stop telling; the units go on."""
        self._changed = _ignore

    async def _list(self, pattern: str) -> dict[str, Unit]:
        body = await self._manager("ListUnitsByPatterns", "asas", [[], [pattern]])
        found = {}
        for name, _description, _load, active, *_ in body[0]:
            match = _UNIT_RE.fullmatch(name)
            if match and active in _STATES:
                found[match[1]] = _STATES[active]
        return found

    async def _job(
        self, name: str, member: str, signature: str, body: list[Any], *, fds: Sequence[int] = ()
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
        try:
            body = await self._call(_unit_path(sid), _PROPERTIES, "GetAll", "s", [f"{SYSTEMD}.Service"])
        except StepFailed as exc:
            return str(exc)
        values = {key: variant.value for key, variant in body[0].items()}
        return f"{values.get('Result', 'unknown')}, status {values.get('ExecMainStatus', 'unknown')}"

    async def _watch_unit(self, sid: str) -> None:
        """Ask for this unit's signals alone, as those of all units are many on a busy host.

        The bus allows 512 rules per connection: from some number of VMs on, one rule covers all units.
        """
        if self._all_watched or sid in self._watched or self._bus is None:
            return
        if len(self._watched) < _NARROW_RULES:
            self._watched.add(sid)
            rule = _unit_rule(sid)
        else:
            self._all_watched = True
            rule = f"{_CHANGES},path_namespace='{_PATH}/unit'"
        try:
            await self._bus.add_match(rule)
        except (DBusError, OSError) as exc:  # the unit is none the worse; its end is seen later
            log.warning("the end of %s will not be told at once: %s", unit_name(sid), exc)

    def on_signal(self, path: str, interface: str, member: str, body: list[Any]) -> None:
        """One signal of systemd's."""
        if (interface, member) == (_MANAGER, "JobRemoved"):
            _number, job, name, result = body
            for queue in self._waiting.get(name, ()):
                queue.put_nowait((job, result))
            self._notify(name)
        elif (interface, member) == (_MANAGER, "UnitRemoved"):
            self._notify(body[0], removed=True)
        elif (interface, member) == (_PROPERTIES, "PropertiesChanged"):
            self._notify(_name_of(path))

    def _notify(self, name: str, *, removed: bool = False) -> None:
        match = _UNIT_RE.fullmatch(name)
        if not match:
            return
        sid = match[1]
        if removed and sid in self._watched and self._bus is not None:
            self._watched.discard(sid)
            self._bus.remove_match(_unit_rule(sid))
        self._changed(sid)

    async def _manager(
        self, member: str, signature: str = "", body: Sequence[Any] = (), *, fds: Sequence[int] = ()
    ) -> list[Any]:
        return await self._call(_PATH, _MANAGER, member, signature, body, fds=fds)

    async def _call(
        self,
        path: str,
        interface: str,
        member: str,
        signature: str,
        body: Sequence[Any],
        *,
        fds: Sequence[int] = (),
    ) -> list[Any]:
        """Raises StepFailed with systemd's own text."""
        if self._bus is None:
            raise StepFailed(f"systemd was not asked for {member}: there is no connection to it")
        try:
            return await self._bus.call(path, interface, member, signature, body, fds=fds)
        except DBusError as exc:
            raise _KINDS.get(exc.type, StepFailed)(f"systemd refused {member}: {exc.text}") from exc
        except TimeoutError:
            raise StepFailed(f"systemd did not answer {member} in time") from None
        except ConnectionError as exc:
            raise StepFailed(f"the system bus failed during {member}: {exc}") from exc


class _NoSuchUnit(StepFailed):
    """It has ended and been collected meanwhile."""


class _AlreadySubscribed(StepFailed):
    """This connection has asked for signals before."""


_KINDS = {f"{SYSTEMD}.NoSuchUnit": _NoSuchUnit, f"{SYSTEMD}.AlreadySubscribed": _AlreadySubscribed}


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
