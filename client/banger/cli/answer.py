"""`banger __complete`: what a shell's script asks at each press of TAB, answered by Cyclopts' engine.

The words come in CYCLOPTS_COMPLETION_WORDS, each with \\x1f behind it; without that variable they are the arguments.
The answer is Cyclopts' protocol, since the script for PowerShell is Cyclopts' own: lines of "value TAB description"
after a line "\\x1fbegin", and among them the directives "\\x1fprefix TAB text" (stands before each value already) and
"\\x1ffiles" (the shell shall offer its own paths, too). An answer is never an error: at worst nothing is told.
"""

import os
import sys
from collections.abc import Sequence
from types import ModuleType, SimpleNamespace

from cyclopts.completion._engine import compute_full_completions, stdout_to_stderr

from banger.cli import complete, tree

_VARIABLE = "CYCLOPTS_COMPLETION_WORDS"
_FLAT = str.maketrans("\t\n\r", "   ")


def answer(arguments: Sequence[str]) -> None:
    """Print what can stand in place of the last word."""
    given = os.environ.pop(_VARIABLE, None)
    words = list(arguments) if given is None else given.split("\x1f")[:-1]
    # After `--` stand a guest's program and its files, which are not known here.
    lines = [] if "--" in words[:-1] else _lines(words)
    print("\n\x1fbegin", *lines, sep="\n")


def _without_docstrings() -> None:
    """The engine looks for help in every docstring, in 15 of the 150 ms that a TAB may take. Ours stands elsewhere."""
    parser = ModuleType("docstring_parser")
    parser.parse_from_object = lambda _object: SimpleNamespace(params=[])  # type: ignore[attr-defined]
    sys.modules[parser.__name__] = parser


def _lines(words: list[str]) -> list[str]:
    _without_docstrings()
    with stdout_to_stderr():  # what anything prints meanwhile is no answer
        found = compute_full_completions(tree.build(), words)
    lines = [f"\x1fprefix\t{_plain(found.prefix)}"] if found.prefix else []
    if found.files or complete.path.wanted:
        lines.append("\x1ffiles")
    for value, about in found.candidates:
        # Cyclopts says the same of --nat and --no-nat.
        told = f"Not: {about[:1].lower()}{about[1:]}" if about and value.startswith("--no-") else about
        lines.append(f"{_plain(value)}\t{_plain(told)}" if told else _plain(value))
    return lines


def _plain(text: str) -> str:
    return text.translate(_FLAT).lstrip("\x1f")
