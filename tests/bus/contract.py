"""The introspection contract as data."""

import xml.etree.ElementTree as ET
from pathlib import Path

TOP = Path(__file__).parents[2]
CONTRACT = TOP / "packaging/dbus/com.thaloco.Banger1.xml"
EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"
OURS = "com.thaloco.Banger1."
Members = dict[str, str]  # "com.thaloco.Banger1.VM.Start" -> "method (options:a{sv}) -> (job:o)"


def members(text: str) -> Members:
    """All members of banger's own interfaces in an introspection document."""
    found = {}
    for interface in ET.fromstring(text).iter("interface"):
        name = interface.get("name", "")
        if name.startswith(OURS):
            of_it = [member for member in interface if member.tag != "annotation"]
            found |= {f"{name}.{member.get('name')}": _shape(member) for member in of_it}
    return found


def _shape(member: ET.Element) -> str:
    if member.tag == "property":
        (emits,) = [note.get("value") for note in member.iter("annotation") if note.get("name") == EMITS]
        return f"property {member.get('type')} {member.get('access')} changes={emits}"
    takes = _args(member, "in")
    if member.tag == "signal":
        return f"signal {_args(member, None)}"
    return f"method {takes} -> {_args(member, 'out')}"


def _args(member: ET.Element, direction: str | None) -> str:
    args = [arg for arg in member.iter("arg") if arg.get("direction") == direction]
    return "(" + " ".join(f"{arg.get('name')}:{arg.get('type')}" for arg in args) + ")"
