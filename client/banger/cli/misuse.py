"""Command lines that make no sense, told so that the next one does."""

from collections.abc import Sequence
from pathlib import Path

from cyclopts import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from banger.cli.help import named
from banger.cli.help.near import suggestion
from banger.cli.help.shape import Command
from banger.errors import UsageError


def told(error: CycloptsError, tokens: Sequence[str]) -> UsageError:
    """What a person is told whose `tokens` Cyclopts could make nothing of."""
    if (unknown := no_command(tokens)) is not None:
        return unknown
    command = _typed(tokens)
    rest = list(tokens[len(named(tokens)) :])
    hint = _behind_dashes(error, command, rest) or f"`banger {command}".rstrip() + " --help`"
    if isinstance(error, UnknownOptionError) and command == "vm ssh":
        option = error.token.keyword or error.token.value
        if option[:2] != "--":
            hint = f"ssh's own options stand behind the name: banger vm ssh NAME {option}"
    if isinstance(error, UnknownCommandError):  # an option where a command should be
        return UsageError(f"{rest[0][:80]!a} is no option here", hint=hint)
    if isinstance(error, UnusedCliTokensError):
        return UsageError(f"{' '.join(error.unused_tokens or ())[:80]!a} is too much", hint=hint)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.keyword or error.argument.names[0]
        what = f"{name} needs a value" if name.startswith("-") else f"{name} is missing"
        return UsageError(what, hint=hint)
    if isinstance(error, CoercionError) and error.target_type is int and error.token is not None:
        name = error.token.keyword or (error.argument.names[0] if error.argument else "this")
        return UsageError(f"{name} takes a whole number, not {error.token.value[:80]!a}", hint=hint)
    return UsageError(str(error).strip() or "wrong usage", hint=hint)


def no_command(tokens: Sequence[str]) -> UsageError | None:
    """What to tell if `tokens` name no command; None if they do, or if they end, or go on with an option, before."""
    found = named(tokens)
    rest = tokens[len(found) :]
    if (found and isinstance(found[-1], Command)) or not rest or rest[0].startswith("-"):
        return None
    meant = suggestion(list(tokens))
    typed = _typed(tokens)
    shows = f"`banger {typed}".rstrip() + " --help` shows all"
    what = f"{typed} {rest[0]}".strip()
    return UsageError(
        f"no command {what[:80]!a}", hint=f"did you mean `banger {meant}`?" if meant else shows
    )


def _typed(tokens: Sequence[str]) -> str:
    """The words of the command, or group, that `tokens` begin with."""
    return " ".join(entry.name for entry in named(tokens))


def _behind_dashes(error: CycloptsError, command: str, rest: list[str]) -> str:
    """How to write a guest's command that was given without `--`; "" where there seems to be none."""
    if command == "vm exec" and len(rest) > 1 and not any(word.startswith("-") for word in rest[:2]):
        return f"put `--` before the command: banger vm exec {rest[0]} -- {' '.join(rest[1:])}"
    if command != "vm run":
        return ""
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        # The word before the first that makes no sense was taken for the folder.
        words = rest[max(0, rest.index(error.unused_tokens[0]) - 1) :]
        folder = words[:1] if Path(words[0]).is_dir() else []
        words = [*folder, "--", *words[len(folder) :]]
        return f"put `--` before the command: banger vm run {' '.join(words)}"
    if isinstance(error, UnknownOptionError) and rest and not rest[0].startswith("-"):
        return "`banger vm run --help`; a command and its options stand behind `--`"
    return ""
