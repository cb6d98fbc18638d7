"""Output for people and for scripts: tables, JSON, errors, and text of guests made safe for a terminal."""

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from banger.errors import Failure

BOLD = "1"
DIM = "2"
RED = "31"
GREEN = "32"
YELLOW = "33"

STATE_STYLES = {
    "running": GREEN,
    "starting": YELLOW,
    "stopping": YELLOW,
    "deleting": YELLOW,
    "paused": YELLOW,
    "failed": RED,
    "ok": GREEN,
    "warning": YELLOW,
}

_QUOTE = "\n  | "
_UNBOUNDED = 1 << 16
_NARROWEST = 7  # of a column that had to give way: "running"

# Everything that moves a cursor, rings or hides: C0 (but tab and newline), DEL, C1, and the bidirectional
# controls that make a line read as what it is not. Also bytes of names that are no text: not every stream takes them.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def safe(text: object) -> str:
    """`text` on one line with nothing in it that a terminal would act on; such bytes are shown as \\x1b."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], str(text)).replace("\n", " ").replace("\t", " ")


def lines(text: object) -> list[str]:
    """The same of a sentence with lines of a log behind it, which the service quotes as "\\n  | …"; each a line."""
    first, *quoted = str(text).split(_QUOTE)
    return [safe(first), *(f"| {safe(line)}" for line in quoted)]


def fancy(stream: TextIO) -> bool:
    """Whether colours and redrawn lines are welcome on `stream`."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"


def paint(text: str, style: str, stream: TextIO) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if style and fancy(stream) else text


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], *, wrap: bool = False, out: TextIO | None = None
) -> None:
    """Print aligned columns with headings; on a terminal states in colour, and no line longer than it is wide.

    What does not fit is cut; with `wrap` the last column, of sentences, goes on below instead.
    """
    out = out or sys.stdout
    cells = [list(headings), *([safe(cell) for cell in row] for row in rows)]
    widths = fitting([max(len(line[i]) for line in cells) for i in range(len(headings))], columns(out))
    if wrap and len(widths) == len(headings):
        cells = [part for line in cells for part in _wrapped(line, widths[-1])]
    for line in cells:
        padded = [
            paint(shown := _cut(cell, width), BOLD if line is cells[0] else STATE_STYLES.get(cell, ""), out)
            + " " * (width - len(shown))
            for cell, width in zip(line, widths, strict=False)  # the last columns may have no room
        ]
        print("  ".join(padded).rstrip(), file=out)


def columns(stream: TextIO) -> int:
    """How wide the terminal is that `stream` is; very wide if it is none."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or _UNBOUNDED
    except (OSError, ValueError):  # no terminal, or no file at all
        return _UNBOUNDED


def fitting(widths: Sequence[int], room: int) -> list[int]:
    """Widths of a table's columns, two spaces apart, in `room`, where all have no place.

    First the last one gives way if it is the widest, which is then some text; then of the others the widest, down to a
    few characters; then the last ones go. The first stays as it is: it has the names, to be typed again.
    """
    fit = list(widths)
    text = len(fit) - 1 if fit and fit[-1] == max(fit) else 0
    while len(fit) > 1 and sum(fit) + 2 * (len(fit) - 1) > room:
        if 0 < text < len(fit) and fit[text] > _NARROWEST:
            fit[text] -= 1
        elif (widest := max(fit[1:])) > _NARROWEST:
            fit[fit.index(widest, 1)] -= 1
        else:
            fit.pop()
    return fit


def _wrapped(line: list[str], width: int) -> list[list[str]]:
    import textwrap

    first, *more = textwrap.wrap(line[-1], width, break_on_hyphens=False, break_long_words=False) or [""]
    return [[*line[:-1], first], *([*[""] * (len(line) - 1), part] for part in more)]


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def sections(groups: Mapping[str, Mapping[str, str]], *, out: TextIO | None = None) -> None:
    """Print titled groups of `key  value` lines; empty groups are left out."""
    out = out or sys.stdout
    shown = {
        safe(title): [
            ("" if at else safe(key), line)
            for key, value in group.items()
            for at, line in enumerate(lines(value))
        ]
        for title, group in groups.items()
        if group
    }
    width = max((len(key) for group in shown.values() for key, _ in group), default=0)
    first = True
    for title, group in shown.items():
        print(("" if first else "\n") + paint(title, BOLD, out), file=out)
        first = False
        for key, value in group:
            print(f"  {key.ljust(width)}  {paint(value, STATE_STYLES.get(value, ''), out)}", file=out)


def as_json(value: object, *, pretty: bool = True) -> None:
    """Print `value` as JSON: indented on a terminal, one line into a pipe. ASCII alone, so nothing acts on either."""
    out = sys.stdout
    json.dump(value, out, indent=2 if pretty and out.isatty() else None)
    out.write("\n")


def failure(error: Failure, *, json_wanted: bool) -> None:
    """Tell `error` on standard error: up to three parts for people, one object for scripts."""
    err = sys.stderr
    if json_wanted:
        record: dict[str, object] = {"error": error.code, "message": str(error)}
        if error.details:
            record["details"] = list(error.details)
        if error.hint:
            record["next"] = error.hint
        json.dump(record, err)
        err.write("\n")
        return
    what, *quoted = lines(error)
    print(f"{paint('banger:', RED, err)} {what}", file=err)
    for line in quoted:
        print(f"  {line}", file=err)
    for line in error.details:
        print(f"  {safe(line)}", file=err)
    if error.hint:
        print(f"  next: {safe(error.hint)}", file=err)


def note(text: str) -> None:
    """A line for people beside the result, on standard error; after what was printed before, where both are one."""
    sys.stdout.flush()
    print(safe(text), file=sys.stderr)
