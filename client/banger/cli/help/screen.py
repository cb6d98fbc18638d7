"""Help for a terminal: plain text, no wider than 80 columns."""

import textwrap
from collections.abc import Iterable, Iterator

from banger.cli.help.page import Entry, Page

_WIDTH = 80
_LABEL = 26  # a longer label has a line of its own


def lines(page: Page, columns: int) -> Iterator[str]:
    """The help of `page` for a terminal of so many columns."""
    width = max(40, min(columns, _WIDTH))
    yield f"Usage: {page.usage}"
    if not page.commands:  # a group's lines are counted: it has to fit the smallest terminal
        yield ""
    yield from textwrap.wrap(page.summary, width)
    if page.commands:
        yield from ("", "Commands:", *_table(page.commands, width))
        if page.shared:
            yield from ("", "Options of all commands:", *_table(page.shared, width))
    else:
        yield from _own(page, width)
    if page.text:
        yield from ("", *page.text.splitlines())
    if page.examples:
        yield from ("", "Examples:", *page.examples.rstrip().splitlines())


def _own(page: Page, width: int) -> Iterator[str]:
    rows = [*page.arguments, *page.options]
    if page.shared:
        names = " ".join(entry.label.split()[0] for entry in page.shared)
        rows.append(Entry(names, "As for all commands: `banger --help`."))
    if rows:
        kinds = [("Arguments", page.arguments), ("options", page.options or page.shared)]
        heading = " and ".join(kind for kind, entries in kinds if entries)
        yield from ("", f"{heading[0].upper()}{heading[1:]}:", *_table(rows, width))


def _table(entries: Iterable[Entry], width: int) -> Iterator[str]:
    rows = list(entries)
    label = min(_LABEL, max(len(entry.label) for entry in rows))
    for entry in rows:
        told = textwrap.wrap(entry.help, width - label - 4) or [""]
        if len(entry.label) > label:
            yield f"  {entry.label}"
        else:
            yield f"  {entry.label.ljust(label)}  {told.pop(0)}".rstrip()
        for line in told:
            yield " " * (label + 4) + line
