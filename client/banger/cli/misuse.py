"""Command lines that make no sense, told so that the next one does."""

from cyclopts import CycloptsError, MissingArgumentError, UnknownCommandError, UnusedCliTokensError

from banger.cli.help import GROUPS
from banger.cli.help.near import suggestion
from banger.errors import UsageError


def told(error: CycloptsError, tokens: list[str]) -> UsageError:
    """What a person is told whose `tokens` Cyclopts could make nothing of."""
    words = tokens[:1] if isinstance(error, UnknownCommandError) and len(tokens) > 1 else tokens[:2]
    command = " ".join(word for word in words if word.isalpha())
    hint = f"`banger {command} --help`" if command else "`banger --help`"
    if tokens[:2] == ["vm", "run"] and isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        # The word before the first that makes no sense was taken for the folder.
        words = tokens[max(2, tokens.index(error.unused_tokens[0]) - 1) :]
        hint = f"put `--` before the command: banger vm run -- {' '.join(words)}"
    if tokens[:2] == ["vm", "exec"] and len(tokens) > 3:
        hint = f"put `--` before the command: banger vm exec {tokens[2]} -- {' '.join(tokens[3:])}"
    if isinstance(error, UnknownCommandError) or (tokens and not _is_command(tokens[0])):
        meant = suggestion(tokens)
        what = " ".join(tokens[:2]) if _is_command(tokens[0]) else tokens[0]
        return UsageError(
            f"no command {what[:80]!a}",
            hint=f"did you mean `banger {meant}`?" if meant else "`banger --help` shows all",
        )
    if isinstance(error, UnusedCliTokensError):
        return UsageError(f"{' '.join(error.unused_tokens or ())[:80]!a} is too much", hint=hint)
    if (
        isinstance(error, MissingArgumentError)
        and error.argument is not None
        and error.argument.names[0][:1] != "-"
    ):
        return UsageError(f"{error.argument.names[0]} is missing", hint=hint)
    return UsageError(str(error).strip() or "wrong usage", hint=hint)


def _is_command(word: str) -> bool:
    known = {
        entry.name
        for group in GROUPS
        for entry in (group, *group.commands)
        if not group.name or entry is group
    }
    return word.startswith("-") or word in known - {""}
