"""The commands that a document shows, in its ```console blocks, and a run of all of them by one user in one shell."""

import re
import shlex
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.guest.machine import User

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_MARK = "\x1e"
_LEFT_OUT = "…"


@dataclass(frozen=True, slots=True)
class Shown:
    """A command of a document. `root` is one behind a `#`, `line` where it stands, `text` without comment, `written` as
    it is there, `output` what is shown below it."""

    text: str
    line: int
    root: bool
    written: str
    output: str
    block: int


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command of a document ended, and what both of its streams said."""

    shown: Shown
    status: int
    output: str

    @property
    def as_shown(self) -> bool:
        """Whether it said what the document shows, if that shows anything."""
        return not self.shown.output or bool(re.fullmatch(_pattern(self.shown.output), normal(self.output)))


def commands(document: Path) -> list[Shown]:
    """Every `$ …` and `# …` line of its ```console blocks; a `\\` at the end goes on in the next line."""
    whole = document.read_text(encoding="utf-8")
    found = []
    for number, block in enumerate(_BLOCK.finditer(whole)):
        line = whole.count("\n", 0, block.start(1)) + 1
        # What stands above the first command belongs to none.
        for part in re.split(r"^(?=[$#] )", block[1], flags=re.MULTILINE):
            command = re.match(r"[$#] (?:[^\n]*\\\n)*[^\n]*\n", part)
            if command is not None:
                text = re.sub(r"\\\n(?:> )?\s*", "", command[0][2:].rstrip("\n"))
                shown = part[command.end() :].strip("\n")
                root = part[0] == "#"
                found.append(Shown(_uncommented(text), line, root, command[0], shown, number))
            line += part.count("\n")
    return found


def _uncommented(text: str) -> str:
    """`text` without the remark behind a space and a #; one within quotes is none."""
    for match in re.finditer(r" +# ", text):
        head = text[: match.start()]
        try:
            shlex.split(head)
        except ValueError:  # within quotes
            continue
        return head.rstrip()
    return text.rstrip()


def run(user: User, shown: Iterable[Shown], skipped: Collection[str], timeout_s: float) -> list[Ran]:
    """Have `user` type all but the `skipped`, one after the other, into one shell at home, whose input is empty."""
    wanted = [one for one in shown if one.text not in skipped]
    script = ["cd", "exec 2>&1", "before=0"]
    for number, one in enumerate(wanted):
        script += [f"printf '{_MARK}%s{_MARK}' {number}"]
        script += [f"(exit $before)\neval {shlex.quote(one.text)} </dev/null\nbefore=$?"]
        script += [f"printf '{_MARK}%s{_MARK}' $before"]
    file = user.home / ".commands"
    file.write_text("\n".join(script) + "\n")
    file.chmod(0o644)
    done = user.run("bash", str(file), timeout_s=timeout_s)
    parts = done.out.split(_MARK)[1:]  # number, output, status, nothing; again and again
    ran = [
        Ran(wanted[int(number)], int(status), output)
        for number, output, status in zip(parts[0::4], parts[1::4], parts[2::4], strict=True)
    ]
    assert len(ran) == len(wanted), f"the shell ended early: {done}"
    return ran


def normal(output: str) -> str:
    """`output` without what differs from run to run and from machine to machine: numbers, sizes, times, who decided a
    size, and the lines that say how long a step took, which a fast machine does not show."""
    lines = [line.rstrip() for line in output.splitlines() if not line.startswith("✓ ")]
    text = "\n".join(line for line in lines if line)
    text = re.sub(r"\b[0-9a-f]{7,}\b", "HEX", text)
    text = re.sub(r"\d+(\.\d+)*", "N", text)
    text = re.sub(r"\bN ([KMGT]i)?B\b", "SIZE", text)
    text = re.sub(r"\bN (s|min|h|d)\b", "TIME", text)
    text = re.sub(r"\((host|built-in)\)", "(WHO)", text)
    return re.sub(r"[ \t]+", " ", text)


def _pattern(output: str) -> str:
    """What a run of it has to match; a line of … stands for any lines."""
    return re.escape(normal(output)).replace(re.escape(_LEFT_OUT), "(?s:.*?)")


def recorded(document: Path, ran: Iterable[Ran]) -> str:
    """The document with what was said put below the commands of the blocks that `ran` is of, whole ones."""
    blocks: dict[int, str] = {}
    for one in ran:
        said = "".join(f"{line.rstrip()}\n" for line in one.output.strip("\n").splitlines())
        blocks[one.shown.block] = blocks.get(one.shown.block, "") + one.shown.written + said
    numbers = count()

    def anew(block: re.Match[str]) -> str:
        return f"```console\n{blocks.get(next(numbers), block[1])}```"

    return _BLOCK.sub(anew, document.read_text(encoding="utf-8"))
