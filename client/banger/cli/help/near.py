"""What somebody may have meant who typed a command that there is not."""

import difflib

from banger.cli.help import GROUPS, named
from banger.cli.help.shape import Command, Group

# What other programs call it.
_ELSEWHERE = {
    "ls": "list",
    "ps": "list",
    "rm": "delete",
    "remove": "delete",
    "destroy": "delete",
    "inspect": "show",
    "info": "show",
    "status": "show",
    "describe": "show",
    "up": "start",
    "boot": "start",
    "down": "stop",
    "halt": "stop",
    "poweroff": "stop",
    "reboot": "restart",
    "shell": "exec",
    "sh": "exec",
    "attach": "exec",
    "enter": "exec",
    "login": "ssh",
    "connect": "ssh",
    "copy": "cp",
    "scp": "cp",
    "new": "create",
    "make": "create",
    "suspend": "pause",
    "unpause": "resume",
    "log": "logs",
    "console": "logs",
    "download": "pull",
    "get": "pull",
    "edit": "edit",
    "check": "doctor",
}
_GROUPS = {
    "vms": "vm",
    "machine": "vm",
    "images": "image",
    "kernels": "kernel",
    "jobs": "job",
    "caches": "cache",
}


def commands() -> list[str]:
    """Every command in full, "vm run" first."""
    return list(_commands(GROUPS, ""))


def _commands(entries: tuple[Command | Group, ...], before: str) -> list[str]:
    found = []
    for entry in entries:
        words = f"{before} {entry.name}".strip()
        found += [words] if isinstance(entry, Command) else _commands(entry.commands, words)
    return found


def suggestion(words: list[str]) -> str:
    """The command that `words`, which begin with none, may mean; "" if nothing comes near."""
    known = commands()
    typed = [word for word in words if not word.startswith("-")][:3]
    for count in range(len(typed), 1 if named(words) else 0, -1):
        first, *rest = typed[:count]
        first = _GROUPS.get(first, first)
        rest = [_ELSEWHERE.get(word, word) for word in rest]
        if not rest and f"{first} list" in known and first != words[0]:
            return f"{first} list"
        if (whole := " ".join([first, *rest])) in known:
            return whole
        last = _ELSEWHERE.get(typed[count - 1], typed[count - 1])
        if count == 1 and (ending := [one for one in known if one.split()[-1] == last]):
            return ending[0]
        if near := difflib.get_close_matches(whole, known, n=1, cutoff=0.8):
            return near[0]
        if count == 1 and (near := difflib.get_close_matches(last, [one.split()[-1] for one in known], n=1)):
            return next(one for one in known if one.split()[-1] == near[0])
    return ""
