"""Manual pages in the man(7) language, from plain text."""

import re
import textwrap
from collections.abc import Iterable

_WIDTH = 78  # of a line of source


def text(words: str, *, exact: bool = False) -> str:
    """`words` as running text that roff acts on nowhere; `exact` where every - is one to be typed."""
    out = words.replace("\\", "\\e").replace("…", "...")
    # Hyphens of flags are to be typed, those of words are not.
    out = (
        out.replace("-", "\\-")
        if exact
        else re.sub(r"(?<![\w-])--?(?=\w)", lambda match: "\\-" * len(match[0]), out)
    )
    for plain, special in (("~", "\\(ti"), ("^", "\\(ha"), ("`", "\\(ga")):
        out = out.replace(plain, special)
    return re.sub(r"^([.'])", r"\\&\1", out, flags=re.MULTILINE)


def lines(words: str) -> list[str]:
    """Running text as lines of source, a sentence on lines of its own."""
    sentences = re.split(r"(?<=[.:;?])\s+(?=[A-Z`~/0-9-])", " ".join(words.split()))
    wrapped = [
        textwrap.wrap(one, _WIDTH - 4, break_long_words=False, break_on_hyphens=False) for one in sentences
    ]
    return [text(line) for one in wrapped for line in one]


class Page:
    """One page, built line by line."""

    def __init__(self, name: str, section: int, summary: str, version: str, date: str) -> None:
        self.file = f"{name}.{section}"
        self._lines = [
            ".\\\" Made from the commands' own help and the contracts; see packaging/manpages.py.",
            f'.TH "{name.upper()}" {section} "{date}" "banger {version}"',
            ".SH NAME",
            f"{text(name, exact=True)} \\- {text(summary)}",
        ]

    def section(self, title: str) -> None:
        self._lines.append(f".SH {title.upper()}" if " " not in title else f'.SH "{title.upper()}"')

    def subsection(self, title: str) -> None:
        self._lines.append(f'.SS "{text(title, exact=True)}"')

    def paragraphs(self, words: str) -> None:
        """Paragraphs are apart by empty lines; what is indented stands as it is."""
        for number, block in enumerate(re.split(r"\n\s*\n", words.strip("\n"))):
            if number or not self._lines[-1].startswith((".SH", ".SS")):
                self._lines.append(".PP")
            if block.startswith("  "):
                self.literal(block)
            else:
                self._lines += lines(block)

    def literal(self, words: str) -> None:
        """Lines as they are typed."""
        self._lines += [".nf", *(text(line, exact=True) for line in words.strip("\n").splitlines()), ".fi"]

    def synopsis(self, lines: Iterable[str]) -> None:
        for number, line in enumerate(lines):
            if number:
                self._lines.append(".br")
            self._lines.append(f"\\fB{text(line, exact=True)}\\fR")

    def item(self, label: str, words: str) -> None:
        self._lines += [".TP", f"\\fB{text(label, exact=True)}\\fR", *(lines(words) or ["\\&"])]

    def __str__(self) -> str:
        return "\n".join(self._lines) + "\n"
