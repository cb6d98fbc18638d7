"""Our block in a text like ~/.ssh/config: put at the top, found again, taken out; all else stays as it is, to the byte.

At the top, because an Include below a Host line counts for that host alone.
"""

import re
from dataclasses import dataclass

from banger.errors import Failure

BEGIN = b"# >>> banger >>>"
END = b"# <<< banger <<<"
# The file was not there before; without the block nothing is left of it.
NEW_FILE = b"# This file was made with the block, and goes with it if nothing else is in it."
_OURS = re.compile(rb'\s*(#.*|Include\s+"?[^"]*banger/ssh_config"?)?\s*', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Split:
    """A text without our blocks, how many there were, and whether one of them made the file."""

    rest: bytes
    blocks: int
    made_file: bool


def split(text: bytes, where: str) -> Split:
    """Take our blocks out of `text`. Raises Failure (BlockEdited), naming the line, where one is not as we wrote it."""
    rest: list[bytes] = []
    blocks, began, made_file = 0, 0, False
    for number, line in enumerate(text.splitlines(keepends=True), 1):
        bare = line.strip()
        if bare == BEGIN:
            if began:
                raise _odd(where, began, "it begins, and begins again before its end")
            began = number
        elif bare == END:
            if not began:
                raise _odd(where, number, "it ends, and did not begin")
            blocks, began = blocks + 1, 0
        elif not began:
            rest.append(line)
        elif _OURS.fullmatch(bare):
            made_file |= bare == NEW_FILE
        else:
            raise _odd(where, number, "there is a line in it that banger did not write")
    if began:
        raise _odd(where, began, "it begins, and has no end")
    return Split(b"".join(rest), blocks, made_file)


def put(rest: bytes, include: str, *, new_file: bool) -> bytes:
    """`rest` with one block at its top, whose line ends are those of `rest`."""
    lines = [
        BEGIN,
        b"# Names that end in .vm are banger's. `banger ssh-config --uninstall` takes this block out again.",
        *([NEW_FILE] if new_file else []),
        include.encode(),
        END,
    ]
    end = b"\r\n" if rest.partition(b"\n")[0].endswith(b"\r") else b"\n"
    return b"".join(line + end for line in lines) + rest


def _odd(where: str, line: int, why: str) -> Failure:
    return Failure(
        "BlockEdited",
        f"banger's block in {where} is not as it was written",
        why=f"line {line}: {why}",
        hint=f"take your own lines out from between `{BEGIN.decode()}` and `{END.decode()}`, "
        "or remove what is there from the one to the other, and try again",
    )
