"""A command's or a group's help as data: what `--help` prints, and what the manual pages are made from."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from banger.cli import tree
from banger.cli.help import GROUPS, named
from banger.cli.help.shape import Command, Group, within

EXAMPLES = "Examples:\n"
_SHARED = ("--json", "--quiet", "--verbose")  # told once, on the root's page


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of a list: `label` is what is typed ("--memory SIZE", "NAME", "list"), `help` what it is for."""

    label: str
    help: str


@dataclass(frozen=True, slots=True)
class Page:
    """`words` are "banger vm run"; `text` is free text, `examples` lines with a command and a remark each."""

    words: tuple[str, ...]
    usage: str
    summary: str
    commands: tuple[Entry, ...] = ()
    arguments: tuple[Entry, ...] = ()
    options: tuple[Entry, ...] = ()
    shared: tuple[Entry, ...] = ()
    text: str = ""
    examples: str = ""


def find(tokens: list[str]) -> Page:
    """The page of the command or group that `tokens` begin with; the root's if they begin with none."""
    app: Any = tree.build()
    words: tuple[str, ...] = ("banger",)
    entry: Command | Group = _ROOT
    for one in named(tokens):
        entry, app, words = one, app[one.name], (*words, one.name)
    return _page(entry, app, words)


def every() -> Iterator[Page]:
    """All pages, the root's first, a group's before those of its commands."""
    yield from _below(_ROOT, tree.build(), ("banger",))


def _below(entry: Command | Group, app: Any, words: tuple[str, ...]) -> Iterator[Page]:
    yield _page(entry, app, words)
    for inner in _inner(entry):
        yield from _below(inner, app[inner.name], (*words, inner.name))


def _inner(entry: Command | Group) -> tuple[Command | Group, ...]:
    return () if isinstance(entry, Command) else within(entry.commands)


_ROOT = Group("banger", tree.SUMMARY, GROUPS, tree.EPILOGUE)


def _page(entry: Command | Group, app: Any, words: tuple[str, ...]) -> Page:
    text, _, examples = entry.epilogue.partition(EXAMPLES)
    typed = " ".join(words)
    if isinstance(entry, Group):
        commands = tuple(Entry(one.name, one.help) for one in _inner(entry))
        common = () if len(words) > 1 else _common()
        return Page(words, f"{typed} COMMAND", entry.help, commands, (), (), common, text.strip(), examples)
    known: list[Any] = [one for one in app.assemble_argument_collection(parse_docstring=False) if _told(one)]
    arguments = tuple(
        Entry(_position(one), one.parameter.help or "") for one in known if one.index is not None
    )
    own = [one for one in known if one.index is None and one.names[0] not in _SHARED]
    shared = [one for one in known if one.index is None and one.names[0] in _SHARED]
    usage = entry.usage or " ".join(_bracketed(one) for one in known if one.index is not None)
    options = "[OPTIONS] " if own or shared else ""
    return Page(
        words,
        f"{typed} {options}{usage}".strip(),
        entry.help,
        (),
        arguments,
        tuple(Entry(_flag(one), one.parameter.help or "") for one in own),
        tuple(Entry(_flag(one), one.parameter.help or "") for one in shared),
        text.strip(),
        examples,
    )


def _common() -> tuple[Entry, ...]:
    app = tree.build()["doctor"]
    found = app.assemble_argument_collection(parse_docstring=False)
    return tuple(Entry(_flag(one), one.parameter.help or "") for one in found if one.names[0] in _SHARED)


def _told(argument: Any) -> bool:
    return bool(argument.show) and bool(argument.parameter.parse is not False) and "*" not in argument.names


def _position(argument: Any) -> str:
    label = str(argument.names[0] if argument.names else argument.field_info.name).upper().lstrip("-")
    if choices := argument.get_choices():
        return "|".join(choices)
    return f"{label}..." if argument.is_var_positional() else label


def _bracketed(argument: Any) -> str:
    label = _position(argument)
    return label if argument.required else f"[{label}]"


def _flag(argument: Any) -> str:
    """--memory SIZE, --nat --no-nat, --env -e NAME=VALUE."""
    label = " ".join(argument.names)
    if argument.is_flag() or argument.negatives:
        return label
    choices = argument.get_choices()
    value = "|".join(choices) if choices else argument.parameter.metavar or _value(argument)
    return f"{label} {value}"


def _value(argument: Any) -> str:
    return "N" if argument.hint in (int, int | None) else str(argument.names[0]).strip("-").upper()
