"""What a guest's repository gained, as one pack in a file of ours.

The guest may be anybody's: but for its first line its bytes are only kept.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from banger import transfer, units
from banger.errors import Failure
from banger.messages import Command
from banger.progress import Progress

_HEADER_MAX = 256
_HEADER = re.compile(
    rb"banger-export 1 (sha1|sha256) (-|[0-9a-f]{40,64}) ([0-9a-f]{40,64}) ([0-9a-f]{40,64})\n", re.ASCII
)

# $1 the repository's folder, $2 "base" if the snapshot of what was taken there is wanted, too, $3 the VM's name.
# The guest's own index, HEAD and branches stay as they are. Changes that nobody committed become a commit on top; when
# HEAD is where it was at the last export, on top of that one, so that a branch made from it can go forward.
_SCRIPT = """
cd "$1" 2>/dev/null || exit 40
command -v git >/dev/null || exit 42
[ -e .git ] || exit 43
g() { git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c gc.auto=0 -c maintenance.auto=false "$@"; }
format=$(g rev-parse --show-object-format) || exit 45
base=$(g rev-parse -q --verify refs/banger/base) || exit 44
start=$(g rev-parse -q --verify refs/banger/start) || start=
head=$(g rev-parse -q --verify "HEAD^{commit}") || head=
last=$(g rev-parse -q --verify refs/banger/export) || last=
index=$(g rev-parse --git-path index) || exit 45
scratch=$(mktemp -d) || exit 45
trap 'rm -rf "$scratch"' EXIT
trap 'exit 46' HUP INT TERM
[ ! -e "$index" ] || cp -p "$index" "$scratch/index" || exit 45
export GIT_INDEX_FILE="$scratch/index"
g add -A >/dev/null || exit 45
tree=$(g write-tree) || exit 45
if [ -z "$last" ] && [ "$head" = "$start" ] && [ "$tree" = "$(g rev-parse "$base^{tree}")" ]; then exit 48; fi
from=$head
if [ -n "$last" ]; then
  if [ -z "$head" ] || g merge-base --is-ancestor "$head" "$last"; then from=$last; fi
fi
if [ -n "$from" ] && [ "$tree" = "$(g rev-parse "$from^{tree}")" ]; then tip=$from
else
  name=$(g config user.name) || name=${GIT_AUTHOR_NAME:-banger}
  mail=$(g config user.email) || mail=${GIT_AUTHOR_EMAIL:-banger@localhost}
  export GIT_AUTHOR_NAME="$name" GIT_AUTHOR_EMAIL="$mail" GIT_COMMITTER_NAME="$name" GIT_COMMITTER_EMAIL="$mail"
  tip=$(g commit-tree ${from:+-p "$from"} -m "Uncommitted changes in the VM $3" "$tree") || exit 45
fi
g update-ref refs/banger/export "$tip" || exit 45
echo "banger-export 1 $format ${start:--} $base $tip"
{ echo "$tip"; [ "$2" != base ] || echo "$base"; [ -z "$start" ] || echo "^$start"; } |
  g pack-objects --revs --thin --stdout -q --delta-base-offset
"""


@dataclass(frozen=True, slots=True)
class Header:
    """What the guest says it sends: names of commits, nothing of which is proved. `start` is "" if there was none."""

    object_format: str
    start: str
    base: str
    tip: str


def receive(
    fd: int, place: str, vm: str, file: Path, progress: Progress, *, with_base: bool, max_size: int
) -> Header | None:
    """Write the pack that the guest at the other end of the session `fd` sends into `file`; None: nothing changed.

    `place` is the repository's folder there. Raises Failure, also for more than `max_size` bytes.
    """
    command = Command(("sh", "-c", _SCRIPT, "sh", place, "base" if with_base else "", vm))
    with file.open("xb") as out:
        sink = _Sink(out, max_size, progress)
        outcome = transfer.run(fd, command, sink=sink.take)
    if outcome.status == 48 and sink.header is None:
        return None
    if outcome.status != 0:
        raise _failed(outcome, place)
    if sink.header is None:
        raise _nonsense("it sent nothing")
    return sink.header


class _Sink:
    def __init__(self, out: BinaryIO, max_size: int, progress: Progress) -> None:
        self._out = out
        self._left = self._max = max_size
        self._begin = bytearray()
        self._progress = progress
        self.header: Header | None = None

    def take(self, data: memoryview) -> None:
        rest: memoryview | bytes = data
        if self.header is None:
            self._begin += data
            end = self._begin.find(b"\n") + 1
            if not end and len(self._begin) <= _HEADER_MAX:
                return
            self.header = self._parse(bytes(self._begin[:end]))
            rest = bytes(self._begin[end:])
            self._begin.clear()
        self._left -= len(rest)
        if self._left < 0:
            raise Failure(
                "TooLarge",
                "what the guest sends is too large",
                why=f"it is more than {units.size(self._max)}",
                hint="--max-size allows more",
            )
        self._out.write(rest)
        done = self._max - self._left
        self._progress.update({"stage": "receiving", "done": done, "unit": "bytes"})

    @staticmethod
    def _parse(line: bytes) -> Header:
        match = _HEADER.fullmatch(line)
        if match is None:
            raise _nonsense("its first line is none of an export")
        form, start, base, tip = (group.decode("ascii") for group in match.groups())
        return Header(form, "" if start == "-" else start, base, tip)


def _nonsense(why: str) -> Failure:
    return Failure(
        "Protocol",
        "the guest's answer makes no sense",
        why=why,
        hint="if sh and git of the guest are not what they should be, `banger vm cp` still gets single files",
    )


def _failed(outcome: transfer.Outcome, place: str) -> Failure:
    lines = [line for line in outcome.stderr.splitlines() if line.strip()]
    why = lines[-1] if lines else f"it ended with status {outcome.status}"
    known: dict[int, Callable[[], Failure]] = {
        40: lambda: Failure(
            "NoWorkspace",
            f"there is no folder {place} in the guest",
            hint="`banger vm workspace prepare` takes a repository there; --guest-path names another place",
        ),
        42: lambda: Failure(
            "NoProgram",
            "the image has no git, with which changes are collected",
            hint=f"install it in the guest; or copy the files: banger vm cp NAME:{place} .",
        ),
        43: lambda: Failure(
            "NoWorkspace",
            f"{place} in the guest is no git repository",
            hint=f"a folder taken with --all-files is none: banger vm cp NAME:{place} .",
        ),
        44: lambda: Failure(
            "NoWorkspace",
            f"{place} in the guest was not taken there by `banger vm workspace prepare` or `banger vm run`",
            hint=f"fetch from it with git over ssh, or copy it: banger vm cp NAME:{place} .",
        ),
    }
    if outcome.status in known:
        return known[outcome.status]()
    hint = "make room in the guest" if any("No space left" in line for line in lines) else ""
    return Failure("ExportFailed", "the guest cannot collect its changes", why=why, hint=hint)
