"""Which object is where, looked up when asked: nothing is registered, so nothing can be left behind or go stale."""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

from dbus_next.signature import Variant

from bangerd.bus import names
from bangerd.bus.errors import Refusal
from bangerd.bus.export import Arg, Interface, Place
from bangerd.model.errors import BangerError

DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    '"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
_IN, _OUT = "in", "out"
_EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"
_STANDARD = f"""<node>
  <interface name="{names.INTROSPECTABLE}">
    <method name="Introspect"><arg name="data" type="s" direction="out"/></method>
  </interface>
  <interface name="{names.PEER}">
    <method name="Ping"/>
    <method name="GetMachineId"><arg name="machine_uuid" type="s" direction="out"/></method>
  </interface>
  <interface name="{names.PROPERTIES}">
    <method name="Get">
      <arg name="interface" type="s" direction="in"/>
      <arg name="property" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface" type="s" direction="in"/>
      <arg name="property" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <method name="GetAll">
      <arg name="interface" type="s" direction="in"/>
      <arg name="properties" type="a{{sv}}" direction="out"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface" type="s"/>
      <arg name="changed_properties" type="a{{sv}}"/>
      <arg name="invalidated_properties" type="as"/>
    </signal>
  </interface>
</node>"""


class Tree:
    """`folders` maps the part of the path below the root to the interface of the objects in it."""

    def __init__(self, manager: Interface, folders: Mapping[str, Interface]) -> None:
        self._manager = manager
        self._folders = dict(folders)

    def at(self, path: str) -> tuple[Interface, str] | None:
        """Interface and leaf of an object with this path, whether it exists or not; None where no object can be."""
        if path == names.ROOT:
            return self._manager, ""
        head, _, rest = path.removeprefix(names.ROOT + "/").partition("/")
        if not path.startswith(names.ROOT + "/") or head not in self._folders or not rest or "/" in rest:
            return None
        return self._folders[head], rest

    def method(self, path: str, interface: str, member: str) -> Place:
        """Raises Refusal if no object can have such a method there."""
        place = self.at(path)
        if place is None:
            raise Refusal("UnknownObject", f"there is no object {path[:256]}")
        if place[0].name != interface:
            raise Refusal(
                "UnknownInterface",
                f"{path} has no interface {interface or 'of no name'}, but {place[0].name}",
            )
        if member not in place[0].methods:
            raise Refusal("UnknownMethod", f"{interface} has no method {member}")
        return Place(*place, place[0].methods[member])

    def properties(self, path: str, interface: str) -> dict[str, Variant]:
        """All properties of one interface of an object. Raises Refusal, BangerError."""
        place = self.at(path)
        if place is None:
            raise Refusal("UnknownObject", f"there is no object {path[:256]}")
        kind, leaf = place
        target = kind.get(leaf)
        if interface in (names.PROPERTIES, names.INTROSPECTABLE, names.PEER):
            return {}
        if interface not in (kind.name, ""):
            raise Refusal("UnknownInterface", f"{path} has no interface {interface[:256]}, but {kind.name}")
        return {one.name: Variant(one.type, one.read(kind, target)) for one in kind.properties.values()}

    def introspect(self, path: str) -> str:
        """The XML of what is at a path and of what is directly below. Raises Refusal."""
        node = ET.Element("node")
        place = self.at(path)
        if place is not None:
            self._exists(path, *place)
            node.extend(ET.fromstring(_STANDARD))  # noqa: S314  # our own text
            node.append(_describe(place[0]))
        children = self._children(path)
        if place is None and children is None:
            raise Refusal("UnknownObject", f"there is no object {path[:256]}")
        for child in children or ():
            ET.SubElement(node, "node", name=child)
        ET.indent(node)
        return DOCTYPE + ET.tostring(node, encoding="unicode")

    def _exists(self, path: str, kind: Interface, leaf: str) -> None:
        try:
            kind.get(leaf)
        except BangerError:
            raise Refusal("UnknownObject", f"there is no object {path[:256]}") from None

    def _children(self, path: str) -> list[str] | None:
        """Names of what is directly below; None for a path that leads nowhere."""
        base = path.rstrip("/") + "/"
        if names.ROOT.startswith(base):
            return [names.ROOT.removeprefix(base).split("/")[0]]
        if path == names.ROOT:
            return sorted(self._folders)
        folder = self._folders.get(path.removeprefix(names.ROOT + "/"))
        return sorted(folder.leaves()) if folder is not None and path.startswith(names.ROOT) else None


def _describe(kind: Interface) -> ET.Element:
    top = ET.Element("interface", name=kind.name)
    for method in kind.methods.values():
        element = ET.SubElement(top, "method", name=method.name)
        _args(element, method.takes, _IN)
        _args(element, method.returns, _OUT)
    for one in kind.properties.values():
        element = ET.SubElement(top, "property", name=one.name, type=one.type, access="read")
        ET.SubElement(element, "annotation", name=_EMITS, value=one.emits)
    for signal in kind.signals:
        _args(ET.SubElement(top, "signal", name=signal.name), signal.args, "")
    return top


def _args(element: ET.Element, args: tuple[Arg, ...], direction: str) -> None:
    for arg in args:
        attributes: dict[str, Any] = {"name": arg.name, "type": arg.type}
        if direction:
            attributes["direction"] = direction
        ET.SubElement(element, "arg", attributes)
