"""The connection to the system bus. The only importer of pydbus and gi, both slow to import, so only when needed.

pydbus's proxies cost a round trip of introspection, cannot pass descriptors and never set the flag that lets polkit
ask the user; hence calls go through the Gio connection that pydbus holds.
"""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from banger.errors import DBUS_ERRORS, BusError
from banger.trace import TRACE

NAME = "com.thaloco.Banger1"
ROOT = "/com/thaloco/Banger1"
MANAGER = f"{NAME}.Manager"

CALL_TIMEOUT_S = 60.0  # includes starting the service
PROMPT_TIMEOUT_S = 300.0  # a person types a password
_NEEDS_PROMPT = f"{DBUS_ERRORS}InteractiveAuthorizationRequired"

# Options of a call, a{sv}: each value with its D-Bus type.
Options = Mapping[str, tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Call:
    """One method call: `arguments` fit `signature`; a{sv} among them is an Options, `h` an index into `fds`."""

    path: str
    interface: str
    member: str
    signature: str = ""
    arguments: tuple[Any, ...] = ()
    fds: tuple[int, ...] = ()
    timeout_s: float = CALL_TIMEOUT_S
    start_service: bool = True
    prompt: bool = True  # whether a person may be asked to consent

    @property
    def shown(self) -> str:
        """For --verbose: member, object and plain arguments; options by name alone, as a value may be a secret."""
        told = [
            f"{{{', '.join(one)}}}" if isinstance(one, Mapping) else repr(one)[:80] for one in self.arguments
        ]
        return f"{self.interface.rpartition('.')[2]}.{self.member}({', '.join(told)}) of {self.path}"


@dataclass(frozen=True, slots=True)
class Reply:
    """A call's result. `fds` belong to the receiver."""

    values: tuple[Any, ...]
    fds: tuple[int, ...] = ()


class Bus:
    """A connection to the system bus (DBUS_SYSTEM_BUS_ADDRESS), with a main loop for what takes time.

    `prompt` is called once, when the service first says that a person must consent; it answers whether asking makes
    sense (and may start an agent that asks). Raises BusError from every method.
    """

    def __init__(self, prompt: Callable[[], bool] = lambda: False) -> None:
        import pydbus
        from gi.repository import Gio, GLib

        self._gio, self._glib = Gio, GLib
        self._prompt = prompt
        self._may_prompt: bool | None = None
        self._loop: Any = None
        try:
            self._con = pydbus.SystemBus().con
        except GLib.Error as exc:
            raise BusError("NoBus", exc.message) from None
        # GLib's default is to end the process when the bus goes away, without a word.
        self._con.set_exit_on_close(False)
        TRACE.say(f"connected to the system bus as {self._con.get_unique_name()}")

    # Calls

    def call(self, call: Call) -> Reply:
        """Call and wait. Ctrl-C ends the process meanwhile: for long work there is `start`."""
        try:
            return self._call(call, interactive=call.prompt and bool(self._may_prompt))
        except BusError as exc:
            if not call.prompt or not self._prompt_helps(exc):
                raise
        return self._call(call, interactive=True)

    def start(self, call: Call, done: Callable[[Reply | BusError], None]) -> None:
        """Call, and have the main loop tell `done` the outcome."""

        def finished(outcome: Reply | BusError) -> None:
            if isinstance(outcome, BusError) and self._prompt_helps(outcome):
                self._start(call, done, interactive=True)
            else:
                done(outcome)

        self._start(call, finished, interactive=bool(self._may_prompt))

    def get_property(self, path: str, interface: str, name: str) -> Any:
        properties = "org.freedesktop.DBus.Properties"
        return self.call(Call(path, properties, "Get", "ss", (interface, name))).values[0]

    def _call(self, call: Call, *, interactive: bool) -> Reply:
        ended = TRACE.begin(call.shown)
        try:
            reply, fds = self._con.call_with_unix_fd_list_sync(
                *self._arguments(call, interactive=interactive), None
            )
        except self._glib.Error as exc:
            error = self._error(exc)
            ended(error.name)
            raise error from None
        ended("done")
        return _reply(reply, fds)

    def _start(self, call: Call, done: Callable[[Reply | BusError], None], *, interactive: bool) -> None:
        ended = (
            TRACE.begin(call.shown) if call.member != "Describe" else _unsaid
        )  # a job's, four times a second

        def finished(connection: Any, result: Any) -> None:
            try:
                reply, fds = connection.call_with_unix_fd_list_finish(result)
            except self._glib.Error as exc:
                error = self._error(exc)
                ended(error.name)
                done(error)
            else:
                ended("done")
                done(_reply(reply, fds))

        self._con.call_with_unix_fd_list(*self._arguments(call, interactive=interactive), None, finished)

    def _arguments(self, call: Call, *, interactive: bool) -> tuple[Any, ...]:
        flags = self._gio.DBusCallFlags
        flag = flags.NONE if call.start_service else flags.NO_AUTO_START
        if interactive:
            flag |= flags.ALLOW_INTERACTIVE_AUTHORIZATION
        body = None
        if call.signature:
            body = self._glib.Variant(f"({call.signature})", tuple(map(self._wrap, call.arguments)))
        fd_list = None
        if call.fds:
            fd_list = self._gio.UnixFDList.new()
            for fd in call.fds:
                fd_list.append(fd)  # a copy
        timeout_s = PROMPT_TIMEOUT_S if interactive else call.timeout_s
        return (
            NAME,
            call.path,
            call.interface,
            call.member,
            body,
            None,
            flag,
            int(timeout_s * 1000),
            fd_list,
        )

    def _wrap(self, argument: Any) -> Any:
        if isinstance(argument, Mapping):
            variant = self._glib.Variant
            return {key: variant(*of) if isinstance(of, tuple) else of for key, of in argument.items()}
        return argument

    def _prompt_helps(self, error: BusError) -> bool:
        if error.name != _NEEDS_PROMPT or self._may_prompt is not None:
            return False
        self._may_prompt = self._prompt()
        return self._may_prompt

    def _error(self, exc: Any) -> BusError:
        name = self._gio.DBusError.get_remote_error(exc)
        if name:
            return BusError(name, exc.message.removeprefix(f"GDBus.Error:{name}: "))
        if exc.matches(self._gio.io_error_quark(), self._gio.IOErrorEnum.TIMED_OUT):
            return BusError(f"{DBUS_ERRORS}NoReply", exc.message)
        if exc.matches(self._gio.io_error_quark(), self._gio.IOErrorEnum.CLOSED):
            return BusError(f"{DBUS_ERRORS}Disconnected", exc.message)
        return BusError("Failed", exc.message)

    # Signals and the main loop

    def subscribe(self, member: str, handler: Callable[[str, tuple[Any, ...]], None]) -> Callable[[], None]:
        """Have the main loop tell `handler` the sender's unique name and the arguments of each such signal of the
        Manager; return how to end that. The sender is for the handler to judge: anyone can send a signal to us."""
        none = self._gio.DBusSignalFlags.NONE

        def received(_con: Any, sender: str, _path: str, _iface: str, _signal: str, body: Any) -> None:
            handler(sender, body.unpack())

        subscription = self._con.signal_subscribe(None, MANAGER, member, ROOT, None, none, received)
        return lambda: self._con.signal_unsubscribe(subscription)

    def watch_owner(self, changed: Callable[[str], None]) -> Callable[[], None]:
        """Have the main loop tell `changed` the service's unique name, now and at each change; '' means none."""
        dbus = "org.freedesktop.DBus"

        def received(_con: Any, _sender: str, _path: str, _iface: str, _signal: str, body: Any) -> None:
            changed(body.unpack()[2])

        def answered(connection: Any, result: Any) -> None:
            try:
                changed(connection.call_finish(result).unpack()[0])
            except self._glib.Error:
                changed("")

        none = self._gio.DBusSignalFlags.NONE
        subscription = self._con.signal_subscribe(
            dbus, dbus, "NameOwnerChanged", "/org/freedesktop/DBus", NAME, none, received
        )
        question = self._glib.Variant("(s)", (NAME,))
        flags = self._gio.DBusCallFlags.NONE
        self._con.call(
            dbus, "/org/freedesktop/DBus", dbus, "GetNameOwner", question, None, flags, -1, None, answered
        )
        return lambda: self._con.signal_unsubscribe(subscription)

    def every(self, interval_ms: int, tick: Callable[[], None]) -> Callable[[], None]:
        """Have the main loop call `tick` again and again; return how to end that."""

        def run() -> bool:
            tick()
            return True

        source = self._glib.timeout_add(interval_ms, run)
        return lambda: self._glib.source_remove(source)

    @staticmethod
    def on_signal(signum: int, handler: Callable[[], None]) -> Callable[[], None]:
        """Have `handler` called at each Unix signal `signum`, also within the main loop; return how to end that."""
        # PyGObject's loop lets Python's handlers run; GLib.unix_signal_add moves between its versions.
        before = signal.signal(signum, lambda *_: handler())

        def end() -> None:
            signal.signal(signum, before)

        return end

    def run_loop(self) -> None:
        """Deliver what was asked for above until `quit_loop`."""
        self._loop = self._glib.MainLoop()
        self._loop.run()

    def quit_loop(self) -> None:
        self._loop.quit()

    @property
    def closed(self) -> bool:
        return bool(self._con.is_closed())


def _unsaid(_how: str) -> None:
    return


def _reply(body: Any, fd_list: Any) -> Reply:
    fds = tuple(fd_list.get(i) for i in range(fd_list.get_length())) if fd_list is not None else ()
    return Reply(body.unpack(), fds)


def fd_of(reply: Reply, index: int) -> int:
    """The descriptor that an `h` in `reply` means; the others are closed. Raises BusError if there is none."""
    for i, fd in enumerate(reply.fds):
        if i != index:
            os.close(fd)
    if not 0 <= index < len(reply.fds):
        raise BusError("Failed", "the service's answer lacks its descriptor")
    return reply.fds[index]
