"""Every command with its help, one module a group; nothing here imports what carries the commands out."""

from collections.abc import Sequence

from banger.cli.help.cache import CACHE
from banger.cli.help.config import CONFIG
from banger.cli.help.image import IMAGE, KERNEL
from banger.cli.help.shape import Command, Group, within
from banger.cli.help.system import JOB, WORDS
from banger.cli.help.vm import VM

GROUPS = (VM, IMAGE, KERNEL, CACHE, JOB, CONFIG, WORDS)


def named(tokens: Sequence[str]) -> list[Command | Group]:
    """The groups and the command whose words `tokens` begin with, outermost first."""
    found: list[Command | Group] = []
    inner = within(GROUPS)
    for token in tokens:
        entry = next((one for one in inner if one.name == token), None)
        if entry is None:
            break
        found.append(entry)
        inner = within(entry.commands) if isinstance(entry, Group) else ()
    return found
