"""The command line's way in, and the one place that turns errors into messages and exit codes.

What follows `--` is the guest's command line and is never parsed.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from cyclopts import CycloptsError

from banger import render, terminal
from banger.cli.help import named
from banger.cli.help.shape import Group
from banger.cli.tree import build
from banger.errors import FAILED, OK, RUN_FAILED, Failure, UsageError
from banger.interrupt import Interrupted
from banger.trace import TRACE

_WITH_COMMAND = ("run", "exec", "ssh")
_OF_ALL = ("--json", "--quiet", "-q", "--verbose", "-v")


def main(argv: Sequence[str]) -> int:
    """Carry out `argv` (without the program's name) and return the exit status. Never raises."""
    if argv[:1] == ["__complete"]:
        return _complete(argv[1:])
    tokens, tail = _split(argv)
    tokens = _in_order(tokens)
    runs_command = tokens[:1] == ["vm"] and tokens[1:2] and tokens[1] in _WITH_COMMAND
    try:
        return _help(tokens) if _wants_help(tokens) else _dispatch(tokens, tail)
    except Failure as exc:
        render.failure(exc, json_wanted="--json" in tokens)
        return RUN_FAILED if runs_command and exc.status == FAILED else exc.status
    except Interrupted as exc:
        render.failure(exc.failure, json_wanted="--json" in tokens)
        return exc.failure.status
    except BrokenPipeError:
        return OK  # whoever read our output has seen enough


def _in_order(tokens: list[str]) -> list[str]:
    """Options of all commands may stand before the command, or in it: `tokens` with them behind its words."""
    words: list[str] = []
    early: list[str] = []
    for at, token in enumerate(tokens):
        if token in _OF_ALL:
            early.append(token)
        elif len(named([*words, token])) > len(words):
            words.append(token)
        else:
            return [*words, *early, *tokens[at:]]
    return [*words, *early]


def _wants_help(tokens: list[str]) -> bool:
    """Whether help is asked for; a group alone, without a command of it, asks for its own."""
    found = named(tokens)
    alone = bool(found) and isinstance(found[-1], Group) and set(tokens[len(found) :]).issubset(_OF_ALL)
    return alone or not {"--help", "-h"}.isdisjoint(tokens)


def _help(tokens: list[str]) -> int:
    from banger.cli.help import page, screen
    from banger.cli.misuse import no_command

    if (unknown := no_command(tokens)) is not None:
        raise unknown
    print("\n".join(screen.lines(page.find(tokens), terminal.size()[1])))
    return OK


def _complete(arguments: Sequence[str]) -> int:
    from banger.cli.answer import answer

    with contextlib.suppress(Exception):  # a shell's line is no place for errors
        answer(arguments)
    return OK


def _split(argv: Sequence[str]) -> tuple[list[str], list[str] | None]:
    words = list(argv)
    if "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _dispatch(tokens: list[str], tail: list[str] | None) -> int:
    app = build()
    flags = _take_ssh_flags(tokens)
    if not {"--verbose", "-v"}.isdisjoint(tokens):
        TRACE.start()
    try:
        command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as exc:
        from banger.cli import misuse

        raise misuse.told(exc, tokens) from None
    extra: dict[str, Any] = {}
    if "command" in ignored:
        if tail == []:
            raise UsageError("no command after '--'")
        extra["command"] = tuple(tail or ())
    elif tail is not None:
        raise UsageError("'--' and a command make sense for `vm run`, `vm exec` and `vm ssh` only")
    if "flags" in ignored:
        extra["flags"] = flags
    action: Callable[..., int | None] = command
    return action(*bound.args, **bound.kwargs, **extra) or OK


def _take_ssh_flags(tokens: list[str]) -> tuple[str, ...]:
    """Take out of `vm ssh NAME …` what is for ssh, which has no long options; the rest is ours."""
    name = next((at for at, word in enumerate(tokens) if at > 1 and not word.startswith("-")), None)
    if tokens[:2] != ["vm", "ssh"] or name is None:
        return ()
    after = tokens[name + 1 :]
    tokens[name + 1 :] = [word for word in after if word.startswith("--") or word == "-h"]
    return tuple(word for word in after if not word.startswith("--") and word != "-h")
