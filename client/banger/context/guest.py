"""The guest's half: files put where the variables say, and a TERM that the guest knows."""

import os
import shlex
from collections.abc import Callable

from banger import transfer
from banger.context.gather import Context
from banger.errors import Failure
from banger.messages import Command

# Part of every terminfo there is; what others lack is close enough to this one.
_FALLBACK_TERM = "xterm-256color"
_KNOWN_TERMS = {
    "ansi", "dumb", "linux", "screen", "screen-256color", "tmux", "tmux-256color", "vt100", "vt220", "xterm",
    "xterm-256color", "xterm-color",
}  # fmt: skip
_END = "BANGER_END_OF_FILE"
_LONGEST_ANSWER = 1000


def bring(open_session: Callable[[], int], context: Context) -> tuple[str, ...]:
    """Put `context`'s files into the guest; return the variables that hold there, NAME=value.

    Opens a session only when there is something to bring or to ask. A guest that cannot take the files goes without.
    """
    term = context.env.get("TERM", "")
    asks = bool(term) and term not in _KNOWN_TERMS
    if not context.files and not asks:
        return context.variables()
    heard = bytearray()

    def hear(data: memoryview) -> None:
        heard.extend(data[: _LONGEST_ANSWER - len(heard)])

    try:
        done = transfer.run(
            open_session(),
            Command(("sh", "-s")),
            source=(_script(context, term if asks else ""),),
            sink=hear,
        )
    except Failure as exc:
        if exc.code not in ("NotFound", "NotExecutable"):  # an image without a shell
            raise
        return _with_term(context.variables(without_files=True), _FALLBACK_TERM if asks else "")
    missing = asks and b"term\n" not in heard
    variables = context.variables(without_files=done.status != 0)
    return _with_term(variables, _FALLBACK_TERM if missing else "")


def _with_term(variables: tuple[str, ...], term: str) -> tuple[str, ...]:
    if not term:
        return variables
    return tuple(f"TERM={term}" if variable.startswith("TERM=") else variable for variable in variables)


def _script(context: Context, term: str) -> bytes:
    """Names of the files tell their content, so one that is there is right."""
    lines = ["umask 022"]
    if term:
        folders = '"$HOME/.terminfo" /etc/terminfo /lib/terminfo /usr/share/terminfo /usr/lib/terminfo'
        name = shlex.quote(term)
        lines += [
            f"for folder in {folders}; do",
            f"  for letter in {shlex.quote(term[0])} {ord(term[0]):x}; do",
            f'    if [ -e "$folder/$letter/"{name} ]; then echo term; break 2; fi',
            "  done",
            "done",
        ]
    if context.files:
        lines.append("set -e; mkdir -p /run/banger")
    for path, content in context.files.items():
        temporary = f"{path}.$$"
        lines += [
            f"[ -e {path} ] || {{ cat >{temporary} <<'{_END}'",
            f"{content.rstrip()}",
            _END,
            f"mv -f {temporary} {path}; }}",
        ]
    return os.fsencode("\n".join([*lines, ""]))
