"""Tells the bus what happens: to everybody a path and a state, about a job only those who wait for it."""

from collections.abc import Callable
from typing import Any

from dbus_next.constants import MessageType
from dbus_next.message import Message
from dbus_next.signature import Variant

from bangerd.bus import names
from bangerd.bus.core import Core
from bangerd.bus.wire import message
from bangerd.core.jobs import Job
from bangerd.model.vm import VM


class Signals:
    """Relays events of the core."""

    def __init__(self, core: Core, send: Callable[[Message], object]) -> None:
        self._core = core
        self._send = send
        self._open = True
        core.vms.subscribe(self._vm)
        core.jobs.subscribe(self._job)

    def close(self) -> None:
        """Send nothing more."""
        self._open = False

    def _vm(self, vm: VM, event: str) -> None:
        path = names.vm_path(vm.sid)
        match event:
            case "added":
                self._emit("", names.ROOT, f"{names.MANAGER_INTERFACE}.VMAdded", [path], "o")
            case "removed":
                self._emit("", names.ROOT, f"{names.MANAGER_INTERFACE}.VMRemoved", [path], "o")
            case "state":
                self._changed("", path, names.VM_INTERFACE, self._core.vms.state(vm).value)
            case _:
                pass

    def _job(self, job: Job, event: str) -> None:
        if event != "ended":
            return
        path = names.job_path(job.number)
        for client in sorted({job.client, *job.followers}):
            self._changed(client, path, names.JOB_INTERFACE, job.state.value)
            self._emit(
                client, names.ROOT, f"{names.MANAGER_INTERFACE}.JobRemoved", [path, job.state.value], "os"
            )

    def _changed(self, client: str, path: str, interface: str, state: str) -> None:
        body = [interface, {"State": Variant("s", state)}, []]
        self._emit(client, path, f"{names.PROPERTIES}.PropertiesChanged", body, "sa{sv}as")

    def _emit(self, client: str, path: str, signal: str, body: list[Any], signature: str) -> None:
        """`client` empty: to everybody."""
        if not self._open:
            return
        interface, _, member = signal.rpartition(".")
        self._send(
            message(
                MessageType.SIGNAL,
                destination=client,
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=body,
            )
        )
