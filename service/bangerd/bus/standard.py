"""D-Bus's own interfaces on banger's objects: public facts, answered at once, nobody asked."""

from pathlib import Path
from typing import Any

from bangerd.bus import names
from bangerd.bus.errors import Refusal
from bangerd.bus.tree import Tree
from bangerd.bus.wire import Header

SIGNATURES = {
    (names.INTROSPECTABLE, "Introspect"): "",
    (names.PEER, "Ping"): "",
    (names.PEER, "GetMachineId"): "",
    (names.PROPERTIES, "Get"): "ss",
    (names.PROPERTIES, "GetAll"): "s",
    (names.PROPERTIES, "Set"): "ssv",
}


def answer(tree: Tree, header: Header, body: list[Any]) -> tuple[str, list[Any]]:
    """Signature and body of the reply to a call of SIGNATURES. Raises Refusal, BangerError."""
    match (header.interface, header.member):
        case (names.INTROSPECTABLE, "Introspect"):
            return "s", [tree.introspect(header.path)]
        case (names.PEER, "GetMachineId"):
            return "s", [_machine_id()]
        case (names.PROPERTIES, "GetAll"):
            return "a{sv}", [tree.properties(header.path, body[0])]
        case (names.PROPERTIES, "Get"):
            return "v", [_one(tree, header.path, body[0], body[1])]
        case (names.PROPERTIES, "Set"):
            _one(tree, header.path, body[0], body[1])
            raise Refusal("PropertyReadOnly", "properties of banger are changed by its methods only")
        case _:
            return "", []  # Ping


def _one(tree: Tree, path: str, interface: str, name: str) -> Any:
    values = tree.properties(path, interface)
    if name not in values:
        raise Refusal("UnknownProperty", f"{path} has no property {name[:256]}")
    return values[name]


def _machine_id() -> str:
    for file in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        if file.exists():
            return file.read_text().strip()
    raise Refusal("FileNotFound", "this machine has no machine id; `systemd-machine-id-setup` makes one")
