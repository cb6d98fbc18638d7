"""What the tree of commands is made of: data that help, completion and manual pages are made from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """`target` is "module:function" below banger.cli; `usage` what follows the options."""

    name: str
    target: str
    help: str
    epilogue: str = ""
    usage: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """A word and the commands and groups behind it; without a name, commands of one word."""

    name: str
    help: str
    commands: tuple["Command | Group", ...]
    epilogue: str = ""


def within(entries: tuple[Command | Group, ...]) -> tuple[Command | Group, ...]:
    """`entries` with the commands of groups without a name, which are no words, in these groups' places."""
    return tuple(
        one
        for entry in entries
        for one in (entry.commands if isinstance(entry, Group) and not entry.name else (entry,))
    )
