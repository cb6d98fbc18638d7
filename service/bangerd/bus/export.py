"""The one door: every method of banger's interfaces comes in through `exported`, is judged, and then runs."""

import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from bangerd.bus.errors import Refusal
from bangerd.bus.wire import Header
from bangerd.core.jobs import Caller
from bangerd.model.errors import WrongState


@dataclass(frozen=True, slots=True)
class Arg:
    name: str
    type: str


@dataclass(slots=True, eq=False)
class Call:
    """One call in progress. Whoever does not `take` a descriptor has it closed when the call ends."""

    header: Header
    caller: Caller
    fds: list[int | None] = field(default_factory=list)
    asking: bool = False  # waits for polkit, and nothing has been done yet

    @property
    def uid(self) -> int:
        return self.caller.uid

    def take(self, index: int) -> int:
        """Make a received descriptor the callee's own. Raises Refusal if there is none of this index, or no more."""
        fd = self.fds[index] if 0 <= index < len(self.fds) else None
        if fd is None:
            raise Refusal("InvalidArgs", f"the message has no descriptor {index}")
        self.fds[index] = None
        return fd

    def close(self) -> None:
        while self.fds:
            fd = self.fds.pop()
            if fd is not None:
                os.close(fd)


@dataclass(frozen=True, slots=True)
class Facts:
    """What polkit judges, made of what is stored and checked, never copied from a caller's options.

    `why` goes before "needs <action>" in a refusal. `identity` must be the same after a prompt as before it.
    """

    action: str
    why: str
    details: dict[str, str] = field(default_factory=dict)
    identity: tuple[object, ...] = ()


class Judge(Protocol):
    """Says whether a call may go on."""

    async def check(self, call: Call, facts: Facts) -> None:
        """Raises AccessDenied, Refusal."""


Guard = Callable[[Any, Call, Any, list[Any]], Facts]


@dataclass(frozen=True, slots=True)
class Method:
    """One exported method."""

    name: str
    takes: tuple[Arg, ...]
    returns: tuple[Arg, ...]
    guard: Guard
    run: Callable[..., Awaitable[Any]]
    descriptors: int  # at most so many may come with a call

    @property
    def signature(self) -> str:
        return "".join(arg.type for arg in self.takes)

    @property
    def reply_signature(self) -> str:
        return "".join(arg.type for arg in self.returns)


@dataclass(frozen=True, slots=True)
class Property:
    """A read-only property: only what every user of the machine may see."""

    name: str
    type: str
    emits: str  # "true", "const", "false", as EmitsChangedSignal says
    read: Callable[[Any, Any], Any]


@dataclass(frozen=True, slots=True)
class Signal:
    name: str
    args: tuple[Arg, ...]


class Interface:
    """One interface, serving all objects of its kind. `leaf` is the last part of an object's path."""

    name: ClassVar[str]
    methods: ClassVar[dict[str, Method]]
    properties: ClassVar[dict[str, Property]]
    signals: ClassVar[tuple[Signal, ...]] = ()

    def __init_subclass__(cls) -> None:
        members = vars(cls).values()
        cls.methods = {m.name: m for m in members if isinstance(m, Method)}
        cls.properties = {m.name: m for m in members if isinstance(m, Property)}

    def get(self, leaf: str) -> Any:
        """The object, as the core has it now. Raises a BangerError if there is none."""
        raise NotImplementedError

    def leaves(self) -> Iterable[str]:
        """Of all objects that there are."""
        raise NotImplementedError


def args(spec: str) -> tuple[Arg, ...]:
    """Read "name:s options:a{sv}"."""
    return tuple(Arg(*part.split(":", 1)) for part in spec.split())


def exported(
    guard: Guard, takes: str = "", returns: str = "", *, descriptors: int = 0
) -> Callable[..., Method]:
    """Make a method callable from the bus, by those whom `guard`'s facts let in.

    The body is `async def Name(self, call, target, *args)`, returns one value, or a tuple for several, and may raise
    BangerError. What is not exported cannot be called.
    """

    def decorate(fn: Callable[..., Awaitable[Any]]) -> Method:
        return Method(fn.__name__, args(takes), args(returns), guard, fn, descriptors)

    return decorate


def shown(type_: str, *, emits: str = "const") -> Callable[[Callable[[Any, Any], Any]], Property]:
    """Make a property of `def Name(self, target)`. Whoever can reach the bus can read it, and nobody is asked."""

    def decorate(fn: Callable[[Any, Any], Any]) -> Property:
        return Property(fn.__name__, type_, emits, fn)

    return decorate


@dataclass(frozen=True, slots=True)
class Place:
    """A method of an object that may or may not exist."""

    interface: Interface
    leaf: str
    method: Method


Turn = Callable[[], AbstractAsyncContextManager[None]]


async def enter(judge: Judge, turn: Turn, place: Place, call: Call, body: list[Any]) -> Any:
    """Find the object, ask, find it again, run. Raises BangerError and Refusal; anything else is a bug."""
    interface, method = place.interface, place.method
    facts = method.guard(interface, call, interface.get(place.leaf), body)
    await judge.check(call, facts)
    async with turn():
        return await _run(place, call, body, facts)


async def _run(place: Place, call: Call, body: list[Any], facts: Facts) -> Any:
    interface, method = place.interface, place.method
    # A prompt can take minutes: is it still the same object of the same owner?
    target = interface.get(place.leaf)
    now = method.guard(interface, call, target, body)
    if (now.identity, now.action) != (facts.identity, facts.action):
        raise WrongState("it changed while permission was asked for; call again")
    return await method.run(interface, call, target, *body)
