"""What can be typed where: names for the shell's completion. Quick, and none, in silence, when nobody can tell them.

A completer gets Cyclopts' context: `incomplete` is what stands before the cursor, context["name"] another argument.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from banger.errors import BusError, Failure
from banger.service import names

Completer = Callable[[Any], list[str]]


def _named(kind: str, suffix: str = "") -> Completer:
    def complete(context: Any) -> list[str]:
        try:
            return [name + suffix for name in names(kind, context.incomplete)]
        except BusError:
            return []

    return complete


vm = _named("vm")
image = _named("image")
kernel = _named("kernel")
cache = _named("cache")
cache_mount = _named("cache", ":")
"""For --cache NAME:/path."""


class _Paths:
    """Has the shell offer its own paths: it knows quotes and tildes better."""

    wanted = False

    def __call__(self, _context: Any) -> list[str]:
        self.wanted = True
        return []


path = _Paths()


def place(context: Any) -> list[str]:
    """One end of `vm cp`: `NAME:` of a VM, or a path here."""
    word = context.incomplete
    if ":" in word:
        return []  # a path in a guest
    path.wanted = True
    return [] if "/" in word or word.startswith((".", "~")) else _named("vm", ":")(context)


def branch(context: Any) -> list[str]:
    """Branches and tags of the repository that the command is about (`path`), or of the one we are in."""
    from banger.workspace.git import Git

    given = context.get("path")
    folder = Path((given.raw if given is not None else None) or ".")
    try:
        argv = ("for-each-ref", "--format=%(refname:strip=2)", "refs/heads", "refs/tags", "refs/remotes")
        status, found, _ = Git(folder.expanduser()).ask(*argv)
    except (Failure, RuntimeError):  # no git; no such user's home
        return []
    return found.decode("utf-8", "replace").splitlines() if status == 0 else []
