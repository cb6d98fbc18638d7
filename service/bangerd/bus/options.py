"""`a{sv}` both ways: options read strictly, facts written with stable types."""

import difflib
from collections.abc import Mapping
from typing import Any

from dbus_next.signature import Variant

from bangerd.model.errors import InvalidSpec

# What a key's value looks like on the bus, whatever size it happens to have. Other integers are "x".
_TYPES = {
    "owner": "u",
    "vcpu": "u",
    "memory": "t",
    "disk": "t",
    "size": "t",
    "used": "t",
    "memory_total": "t",
    "memory_available": "t",
    "sessions": "u",
    "number": "t",
    "done": "t",
    "total": "t",
    "labels": "a{ss}",
    "caches": "a{ss}",
    "packages": "aa{ss}",
    "timings_ms": "a{sx}",
}


def read(options: dict[str, Variant], known: Mapping[str, str], where: str) -> dict[str, Any]:
    """The options as plain values; a descriptor stays an index.

    Raises InvalidSpec for an unknown key or a wrong type.
    """
    for key, value in options.items():
        if key not in known:
            raise InvalidSpec(f"{where} has no option {key[:64]!a}; {_hint(key, known)}")
        if value.signature != known[key]:
            raise InvalidSpec(
                f"option '{key}' of {where} is of type '{known[key]}', not '{value.signature}'; {_listing(known)}"
            )
    return {key: value.value for key, value in options.items()}


def _hint(key: str, known: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(key[:64], known, n=1)
    return f"did you mean '{near[0]}'? {_listing(known)}" if near else _listing(known)


def _listing(known: Mapping[str, str]) -> str:
    if not known:
        return "it takes none"
    return "it takes " + ", ".join(f"{key} ({type_})" for key, type_ in sorted(known.items()))


def write(facts: Mapping[str, Any]) -> dict[str, Variant]:
    """Facts as `a{sv}`."""
    return {key: Variant(_TYPES.get(key) or _type_of(value), value) for key, value in facts.items()}


def write_all(rows: list[dict[str, Any]]) -> list[dict[str, Variant]]:
    return [write(row) for row in rows]


class Path(str):
    """A string that goes out as an object path."""

    __slots__ = ()


def _type_of(value: Any) -> str:
    match value:
        case bool():
            return "b"
        case int():
            return "x"
        case float():
            return "d"
        case Path():
            return "o"
        case str():
            return "s"
        case list() if all(isinstance(item, str) for item in value):
            return "as"
        case dict() if value and all(isinstance(item, int) for item in value.values()):
            return "a{sx}"
        case dict() if all(isinstance(item, str) for item in value.values()):
            return "a{ss}"
    raise TypeError(f"{value!r} has no form on the bus")
