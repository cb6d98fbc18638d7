"""The commands that a document shows, in its ```console blocks, and a run of all of them by one user in one shell."""

import re
import shlex
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from tests.guest.machine import User

_BLOCK = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_MARK = "\x1e"


@dataclass(frozen=True, slots=True)
class Shown:
    """A command of a document. `root` is one behind a `#`, `line` where it stands; `text` is without comment."""

    text: str
    line: int
    root: bool


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command of a document ended, and what both of its streams said."""

    shown: Shown
    status: int
    output: str


def commands(document: Path) -> list[Shown]:
    """Every `$ …` and `# …` line of its ```console blocks; a `\\` at the end goes on in the next line."""
    whole = document.read_text(encoding="utf-8")
    found = []
    for block in _BLOCK.finditer(whole):
        first = whole.count("\n", 0, block.start(1)) + 1
        lines = iter(enumerate(block[1].splitlines(), first))
        for number, line in lines:
            if line[:2] not in ("$ ", "# "):
                continue
            text = line[2:]
            while text.endswith("\\"):
                text = text[:-1] + next(lines)[1].removeprefix("> ").lstrip()
            found.append(Shown(_uncommented(text), number, root=line[0] == "#"))
    return found


def _uncommented(text: str) -> str:
    """`text` without the remark behind two spaces and a #; one within quotes is none."""
    for match in re.finditer(r" {2,}# ", text):
        head = text[: match.start()]
        try:
            shlex.split(head)
        except ValueError:  # within quotes
            continue
        return head.rstrip()
    return text.rstrip()


def run(user: User, shown: list[Shown], skipped: Collection[str], timeout_s: float) -> list[Ran]:
    """Have `user` type all but the `skipped`, one after the other, into one shell at home, whose input is empty."""
    wanted = [one for one in shown if one.text not in skipped]
    script = ["cd", "exec 2>&1"]
    for number, one in enumerate(wanted):
        script += [f"printf '{_MARK}%s{_MARK}' {number}", f"eval {shlex.quote(one.text)} </dev/null"]
        script += [f"printf '{_MARK}%s{_MARK}' $?"]
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
