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

# Everything that moves a cursor, rings or hides: C0 (but tab and newline), DEL, C1, and the bidirectional
# controls that make a line read as what it is not.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def safe(text: object) -> str:
    """`text` on one line with nothing in it that a terminal would act on; such bytes are shown as \\x1b."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], str(text)).replace("\n", " ").replace("\t", " ")


def fancy(stream: TextIO) -> bool:
    """Whether colours and redrawn lines are welcome on `stream`."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") != "dumb"


def paint(text: str, style: str, stream: TextIO) -> str:
    return f"\x1b[{style}m{text}\x1b[0m" if style and fancy(stream) else text


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, out: TextIO | None = None) -> None:
    """Print aligned columns with headings. Colours states when `out` (standard output) is a terminal."""
    out = out or sys.stdout
    cells = [[safe(cell) for cell in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(headings), *cells]) for i in range(len(headings))]
    head = "  ".join(text.ljust(width) for text, width in zip(headings, widths, strict=True)).rstrip()
    print(paint(head, BOLD, out), file=out)
    for row in cells:
        padded = (
            paint(cell, STATE_STYLES.get(cell, ""), out) + " " * (width - len(cell))
            for cell, width in zip(row, widths, strict=True)
        )
        print("  ".join(padded).rstrip(), file=out)


def sections(groups: Mapping[str, Mapping[str, str]], *, out: TextIO | None = None) -> None:
    """Print titled groups of `key  value` lines; empty groups are left out."""
    out = out or sys.stdout
    keys = [key for group in groups.values() for key in group]
    width = max((len(key) for key in keys), default=0)
    first = True
    for title, group in groups.items():
        if not group:
            continue
        print(("" if first else "\n") + paint(title, BOLD, out), file=out)
        first = False
        for key, value in group.items():
            shown = safe(value)
            print(f"  {key.ljust(width)}  {paint(shown, STATE_STYLES.get(shown, ''), out)}", file=out)


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
    print(f"{paint('banger:', RED, err)} {safe(error)}", file=err)
    for line in error.details:
        print(f"  {safe(line)}", file=err)
    if error.hint:
        print(f"  next: {safe(error.hint)}", file=err)


def note(text: str) -> None:
    """A line for people beside the result, on standard error."""
    print(safe(text), file=sys.stderr)
