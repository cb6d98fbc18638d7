"""What a guest is asked before a copy, and how its tar is called. It answers what it likes: that is checked."""

import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass

from banger import transfer
from banger.archive.parse import Limits
from banger.errors import RUN_FAILED, Failure
from banger.messages import Command

OpenSession = Callable[[], int]

_MOST_MEMBERS = 1_000_000
_MORE_MEMBERS, _MORE_BYTES = 100, 16 * 1024**2
_LONGEST_LINE = 64
_FACT = re.compile(rb"([0-9a-f]{1,8}) ([0-9]{1,19})")

# Prints what PATH is, links followed: folder, file, other, none; for none, whether its folder is there.
_KIND = """\
if [ -d "$1" ]; then echo folder
elif [ -f "$1" ]; then echo file
elif [ -e "$1" ]; then echo other
elif [ -L "$1" ]; then echo dangling
elif [ -d "${1%/*}/" ]; then echo none
else echo lost; fi"""

# For each file of PATH its mode (hexadecimal) and size.
_SIZES = """\
if [ -d "$1" ]; then cd -- "$1" && exec find . -exec stat -c '%f %s' '{}' +; fi
exec stat -L -c '%f %s' -- "$1\""""

# tar of a folder's inside, or of one file under its name. pax has exact times, where tar can write it.
_PACK = """\
if tar --version 2>/dev/null | grep -q GNU; then format=--format=posix; fi
if [ -d "$1" ]; then cd -- "$1" && exec tar -c $format -f - .; fi
real=$(readlink -f -- "$1") && cd -- "${real%/*}/" && exec tar -c $format -f - "./${real##*/}\""""

# The same for `-`: under the name that was asked for.
_PACK_NAMED = """\
if tar --version 2>/dev/null | grep -q GNU; then format=--format=posix; fi
cd -- "$1" && exec tar -c $format -f - -- "$2\""""

UNPACK = ("sh", "-c", 'cd -- "$1" && exec tar -x -p -f -', "sh")
UNPACK_FOREIGN = ("sh", "-c", 'cd -- "$1" && exec tar -x -o -f -', "sh")  # all of it as root's


def pack(path: str) -> Command:
    return Command(("sh", "-c", _PACK, "sh", path))


def pack_named(folder: str, name: str) -> Command:
    return Command(("sh", "-c", _PACK_NAMED, "sh", folder, name))


def kind(open_session: OpenSession, path: str) -> str:
    """ "folder", "file", "other", "dangling" (a link to nothing), "none", or "lost": no folder where it would be."""
    answer = bytearray()

    def hear(data: memoryview) -> None:
        answer.extend(data[: _LONGEST_LINE - len(answer)])

    done = transfer.run(open_session(), Command(("sh", "-c", _KIND, "sh", path)), sink=hear)
    check(done, f"cannot look at {path}")
    return bytes(answer).decode("ascii", "replace").strip()


@dataclass(slots=True)
class _Sum:
    """Adds up lines as they come, and keeps none."""

    members: int = 0
    size: int = 0
    rest: bytes = b""

    def hear(self, data: memoryview) -> None:
        lines = (self.rest + data).split(b"\n")
        self.rest = lines.pop()
        if len(self.rest) > _LONGEST_LINE:
            raise _odd(self.rest)
        for line in lines:
            match = _FACT.fullmatch(line)
            if match is None:
                raise _odd(line)
            self.members += 1
            if stat.S_ISREG(int(match[1], 16)):
                self.size += int(match[2])


def sizes(open_session: OpenSession, path: str) -> Limits:
    """How many files `path` is, and of how many bytes. Raises Failure."""
    found = _Sum()
    done = transfer.run(open_session(), Command(("sh", "-c", _SIZES, "sh", path)), sink=found.hear)
    check(done, f"cannot look at {path}")
    if found.members > _MOST_MEMBERS:
        raise Failure(
            "TooLarge",
            f"{path} has more than {_MOST_MEMBERS:,} files",
            hint="copy parts of it, or take it as a stream: `banger vm cp NAME:PATH -`",
        )
    return Limits(found.members, found.size)


def generous(announced: Limits) -> Limits:
    """`announced`, and some more for what grows while it is copied."""
    return Limits(announced.members + _MORE_MEMBERS, announced.size + announced.size // 10 + _MORE_BYTES)


def check(done: transfer.Outcome, what: str) -> None:
    """Raise Failure if the guest's command failed, with what it said first."""
    if done.status == 0:
        return
    # tar's last line only says that there are others.
    lines = [
        line.strip() for line in done.stderr.splitlines() if line.strip() and "Exiting with" not in line
    ]
    why = "; ".join(lines[:3])[:300] if lines else f"the command there ended with {done.status}"
    if done.status == 127:
        why = f"the image lacks a program: {why}"
    raise Failure("GuestFailed", what, why=why)


def _odd(line: bytes) -> Failure:
    return Failure(
        "Protocol", "the guest's answer makes no sense", why=ascii(os.fsdecode(line[:80])), status=RUN_FAILED
    )
