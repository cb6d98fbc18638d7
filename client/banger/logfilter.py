"""A guest's console made safe for a terminal: the text and its colours, nothing that moves, hides, renames or asks."""

import re

_LONGEST = 64 * 1024  # of a line that never ends

# Escape sequences of ECMA-48: CSI; the strings OSC, DCS, SOS, PM, APC up to their end; and the short ones.
_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]?"
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]?"
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class LogFilter:
    """Takes a log's bytes as they come, gives text. `colours` keeps the sequences that only colour."""

    def __init__(self, *, colours: bool) -> None:
        self._colours = colours
        self._rest = b""

    def feed(self, data: bytes) -> str:
        """Text of all lines that are whole now."""
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        text = "".join(map(self._line, lines))
        if len(self._rest) > _LONGEST:
            text += self.end()
        return text

    def end(self) -> str:
        """Text of a last line without a newline, if any."""
        rest, self._rest = self._rest, b""
        return self._line(rest) if rest else ""

    def _line(self, raw: bytes) -> str:
        text = raw.decode("utf-8", "replace").rstrip("\r")
        coloured = self._colours and "\x1b" in text
        text = _ESCAPE.sub(self._kept, text)
        # A lone carriage return would let a line write over itself.
        text = _CONTROL.sub("", text.replace("\r", "\n"))
        return text + ("\x1b[0m\n" if coloured else "\n")

    def _kept(self, match: re.Match[str]) -> str:
        return match[0] if self._colours and _COLOUR.fullmatch(match[0]) else ""
