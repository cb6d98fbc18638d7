"""The command line's way in, and the one place that turns errors into messages and exit codes.

What follows `--` is the guest's command line and is never parsed.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cyclopts import CycloptsError, UnknownCommandError, UnusedCliTokensError

from banger import render
from banger.cli.tree import build
from banger.errors import FAILED, OK, RUN_FAILED, Failure, UsageError
from banger.interrupt import Interrupted

COMPLETION_WORDS = "CYCLOPTS_COMPLETION_WORDS"  # how shells' scripts hand over the line, see cli/shells
_WITH_COMMAND = ("run", "exec")


def run(argv: Sequence[str]) -> int:
    """Carry out `argv` (without the program's name) and return the exit status. Never raises."""
    if argv[:1] == ["__complete"] and _in_guests_words(argv):
        return OK
    tokens, tail = _split(argv)
    runs_command = tokens[:1] == ["vm"] and tokens[1:2] and tokens[1] in _WITH_COMMAND
    try:
        return _dispatch(tokens, tail)
    except Failure as exc:
        render.failure(exc, json_wanted="--json" in tokens)
        return RUN_FAILED if runs_command and exc.status == FAILED else exc.status
    except Interrupted as exc:
        render.failure(exc.failure, json_wanted="--json" in tokens)
        return exc.failure.status
    except BrokenPipeError:
        return OK  # whoever read our output has seen enough


def _in_guests_words(argv: Sequence[str]) -> bool:
    """Whether what is to be completed stands after `--`: a guest's program and its files, which are not known here."""
    words = os.environ.get(COMPLETION_WORDS)
    return "--" in (argv[1:-1] if words is None else words.split("\x1f")[:-2])


def _split(argv: Sequence[str]) -> tuple[list[str], list[str] | None]:
    words = list(argv)
    if words[:1] == ["__complete"] or "--" not in words:
        return words, None
    at = words.index("--")
    return words[:at], words[at + 1 :]


def _dispatch(tokens: list[str], tail: list[str] | None) -> int:
    app = build()
    try:
        command, bound, ignored = app.parse_args(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as exc:
        raise _usage(exc, tokens, app) from None
    extra: dict[str, Any] = {}
    if "command" in ignored:
        if tail == []:
            raise UsageError("no command after '--'")
        extra["command"] = tuple(tail or ())
    elif tail is not None:
        raise UsageError("'--' and a command make sense for `vm run` and `vm exec` only")
    action: Callable[..., int | None] = command
    return action(*bound.args, **bound.kwargs, **extra) or OK


def _usage(error: CycloptsError, tokens: list[str], commands: Iterable[str]) -> UsageError:
    words = tokens[:1] if isinstance(error, UnknownCommandError) and len(tokens) > 1 else tokens[:2]
    command = " ".join(word for word in words if word.isalpha())
    hint = f"`banger {command} --help`" if command else "`banger --help`"
    if tokens[:2] == ["vm", "run"] and isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        # The word before the first that makes no sense was taken for the folder.
        words = tokens[max(2, tokens.index(error.unused_tokens[0]) - 1) :]
        hint = f"put `--` before the command: banger vm run -- {' '.join(words)}"
    if tokens[:2] == ["vm", "exec"] and len(tokens) > 3:
        hint = f"put `--` before the command: banger vm exec {tokens[2]} -- {' '.join(tokens[3:])}"
    if tokens and not tokens[0].startswith("-") and tokens[0] not in commands:
        return UsageError(f"no command {tokens[0][:80]!a}", hint="`banger --help` shows all")
    return UsageError(str(error).strip() or "wrong usage", hint=hint)
