#!/usr/bin/env python3
"""Writes banger's manual pages to a folder: from the commands' own help, the configs' schemas and the D-Bus contract.

usage: manpages.py FOLDER
"""

import json
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from banger import __version__
from banger.cli.help import page as help_page
from banger.config.schema import json_schema as user_schema
from bangerd.app import command_line
from bangerd.config import json_schema as admin_schema
from roff import Page

TOP = Path(__file__).resolve().parent.parent
CONTRACT = TOP / "packaging/dbus/com.thaloco.Banger1.xml"
_DOC = "org.freedesktop.DBus.DocString"
_SINCE = "com.thaloco.Since"

ENVIRONMENT = {
    "NO_COLOR": "If it is set, no colours are shown and no line is redrawn.",
    "VISUAL, EDITOR": "The editor of `banger config edit`.",
    "XDG_CONFIG_HOME, XDG_STATE_HOME": "Where config.toml and banger's own ssh key are, in place of ~/.config and "
    "~/.local/state.",
    "DBUS_SYSTEM_BUS_ADDRESS": "The system bus, if it is not the usual one.",
}
FILES = {
    "~/.config/banger/config.toml": "Your config, see banger.toml(5).",
    "/etc/banger/banger.toml": "The admin's, which the service reads.",
    "~/.local/state/banger/ssh": "The key pair that guests know you by, unless your config names another.",
    "/var/lib/banger": "Images, kernels, VMs' disks and the database; root's alone.",
}


def pages() -> Iterator[Page]:
    """All of them."""
    every = list(help_page.every())
    groups = [one for one in every if one.commands and len(one.words) == 2]
    yield _root(every, groups)
    for group in groups:
        yield _group(
            group, [one for one in every if one.words[:2] == group.words and one is not group], groups
        )
    yield _config()
    yield _service()
    yield _contract()


def _page(name: str, section: int, summary: str) -> Page:
    changelog = (TOP / "CHANGELOG.md").read_text(encoding="utf-8")
    date = re.search(r"\d{4}-\d{2}-\d{2}", changelog)
    told = summary[0].lower() + summary[1:].rstrip(".")
    return Page(name, section, told, __version__, date[0] if date else "")


def _root(every: list[help_page.Page], groups: list[help_page.Page]) -> Page:
    root = every[0]
    page = _page("banger", 1, root.summary)
    page.section("Synopsis")
    page.synopsis([f"{root.usage} [ARGUMENTS]", "banger COMMAND --help"])
    page.section("Description")
    page.paragraphs(
        "banger makes microVMs for users who are not root, and runs commands in them. It is an ordinary program: "
        "what needs root does bangerd(8), which asks polkit(8) about every call."
    )
    page.section("Commands")
    for group in groups:
        page.item(" ".join(group.words), f"{group.summary} See {_name(group)}(1).")
    for one in every:
        if len(one.words) == 2 and not one.commands:
            _command(page, one)
    page.section("Options of all commands")
    for entry in root.shared:
        page.item(entry.label, entry.help)
    page.section("Exit status")
    page.paragraphs(root.text.removeprefix("Exit status: "))
    page.section("Environment")
    for name, what in ENVIRONMENT.items():
        page.item(name, what)
    page.section("Files")
    for name, what in FILES.items():
        page.item(name, what)
    _see_also(
        page,
        [
            *(f"{_name(group)}(1)" for group in groups),
            "banger.toml(5)",
            "com.thaloco.Banger1(5)",
            "bangerd(8)",
        ],
    )
    return page


def _name(one: help_page.Page) -> str:
    return "-".join(one.words)


def _group(group: help_page.Page, inner: list[help_page.Page], groups: list[help_page.Page]) -> Page:
    page = _page(_name(group), 1, group.summary)
    page.section("Synopsis")
    page.synopsis(one.usage for one in inner if not one.commands)
    page.section("Description")
    page.paragraphs(group.text or group.summary)
    page.section("Commands")
    for one in inner:
        if not one.commands:
            _command(page, one)
    if group.examples:
        page.section("Examples")
        page.literal(_dedented(group.examples))
    others = [f"{_name(one)}(1)" for one in groups if one is not group]
    _see_also(page, ["banger(1)", *others, "banger.toml(5)"])
    return page


def _command(page: Page, one: help_page.Page) -> None:
    page.subsection(one.usage)
    page.paragraphs(one.summary)
    if one.text:
        page.paragraphs("\n" + one.text)
    for entry in (*one.arguments, *one.options):
        page.item(entry.label, entry.help)
    if one.examples:
        page.paragraphs("\nExamples:\n\n" + one.examples)


def _dedented(lines: str) -> str:
    return "\n".join(line.removeprefix("  ") for line in lines.splitlines())


def _see_also(page: Page, names: list[str]) -> None:
    page.section("See also")
    page.paragraphs(", ".join(names))


def _config() -> Page:
    page = _page("banger.toml", 5, "configuration of banger")
    page.section("Synopsis")
    page.synopsis(["~/.config/banger/config.toml", "/etc/banger/banger.toml"])
    page.section("Description")
    page.paragraphs(
        "Both files are TOML and may be missing, as may every key. The first is a user's own: the banger command reads "
        "it. The second is the admin's: bangerd reads it when it starts. A key that is not known, or a value of "
        "another kind, is an error with its line and column. `banger config edit` opens the first with every key as "
        "a comment, `banger config show` tells where each value comes from."
    )
    for title, schema in (
        ("A user's config.toml", user_schema()),
        ("The admin's banger.toml", admin_schema()),
    ):
        page.section(title)
        for key, what in keys(schema):
            page.item(key, what)
    _see_also(page, ["banger-config(1)", "bangerd(8)"])
    return page


def keys(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every key of a config's schema, in dots, with what it is."""
    known = schema["$defs"]

    def below(table: dict[str, Any], before: str) -> Iterator[tuple[str, str]]:
        for key, one in table["properties"].items():
            name = f"{before}{key}"
            inner = one.get("items", one).get("$ref", "").rpartition("/")[2]
            yield (f"[[{name}]]" if "items" in one and inner else name), _told(one)
            if inner:
                yield from below(known[inner], f"{name}.")

    yield from below(known["Config"], "")


def _told(one: dict[str, Any]) -> str:
    said = [str(one.get("description", ""))]
    if kind := one.get("type"):
        said.append(f"A {kind}." if kind[0] not in "aeio" else f"An {kind}.")
    if "examples" in one:
        said.append(f"Such as {json.dumps(one['examples'][0])}.")
    if one.get("default") not in (None, "", [], ()):
        said.append(f"Default: {json.dumps(one['default'])}.")
    return " ".join(said)


def _service() -> Page:
    page = _page("bangerd", 8, "the root service of banger")
    page.section("Synopsis")
    page.synopsis(["bangerd [OPTIONS]"])
    page.section("Description")
    page.paragraphs(
        "bangerd serves com.thaloco.Banger1(5) on the system bus, and asks polkit(8) about every call of it. It is "
        "banger.service where systemd(1) runs; elsewhere the bus starts it on the first call. It makes VMs' disks, "
        "networks and processes, parses no byte that a guest or a registry wrote, and opens no file of a user. VMs do "
        "not depend on it: it can be restarted, or killed, while they run."
    )
    page.section("Options")
    for action in command_line()._actions:  # noqa: SLF001 - argparse has no other way to tell
        value = "" if action.nargs == 0 else f" {'|'.join(action.choices or [action.dest.upper()])}"
        default = f" Default: {action.default}." if value and action.default else ""
        help_text = (action.help or "").removesuffix(".")
        page.item(
            f"{', '.join(action.option_strings)}{value}", f"{help_text[:1].upper()}{help_text[1:]}.{default}"
        )
    page.section("Files")
    for name in ("/etc/banger/banger.toml", "/var/lib/banger"):
        page.item(name, FILES[name])
    page.item("/run/banger", "Sockets of VMs that run.")
    page.section("Exit status")
    page.paragraphs("0 after SIGTERM or SIGINT, 1 if it could not start: its last line says why.")
    _see_also(page, ["banger(1)", "banger.toml(5)", "com.thaloco.Banger1(5)", "polkit(8)"])
    return page


def _contract() -> Page:
    page = _page("com.thaloco.Banger1", 5, "the D-Bus interface of banger")
    root = ET.parse(CONTRACT).getroot()
    page.section("Description")
    page.paragraphs(
        "The bus name is com.thaloco.Banger1, the first object /com/thaloco/Banger1. Options are a{sv}; one that is "
        "not named here is refused. An error is called com.thaloco.Banger1.Error.Something, and its message is a "
        "sentence. Members are only ever added."
    )
    for interface in root.findall("interface"):
        page.section(interface.get("name", ""))
        page.paragraphs(_annotation(interface, _DOC))
        for member in interface:
            if member.tag != "annotation":
                page.item(
                    signature(member), f"{_annotation(member, _DOC)} Since {_annotation(member, _SINCE)}."
                )
    _see_also(page, ["banger(1)", "bangerd(8)", "busctl(1)"])
    return page


def signature(member: ET.Element) -> str:
    """Start(a{sv} options) -> o job; for a property its type."""
    name = member.get("name", "")
    if member.tag == "property":
        return f"{member.get('type')} {name} (property)"

    def arguments(direction: str) -> str:
        found = [arg for arg in member.findall("arg") if arg.get("direction", "in") == direction]
        return ", ".join(f"{arg.get('type')} {arg.get('name')}" for arg in found)

    back = arguments("out")
    kind = " (signal)" if member.tag == "signal" else ""
    return f"{name}({arguments('in')}){f' -> {back}' if back else ''}{kind}"


def _annotation(element: ET.Element, name: str) -> str:
    return next(
        (one.get("value", "") for one in element.findall("annotation") if one.get("name") == name), ""
    )


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.[1-8]"):
        old.unlink()
    for page in pages():
        (folder / page.file).write_text(str(page), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
