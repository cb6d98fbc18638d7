"""Puts a planned workspace into a guest: one tar stream, unpacked beside its place and then moved there."""

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from banger import transfer
from banger.errors import Failure
from banger.interrupt import Interrupts
from banger.messages import Command
from banger.progress import Progress
from banger.workspace import skeleton
from banger.workspace.folder import FILE, Entry
from banger.workspace.listing import Part, list_folder
from banger.workspace.scratch import host_failed, scratch
from banger.workspace.tarstream import Group, Stream

if TYPE_CHECKING:
    from banger.workspace.plan import Plan

_DRAW_S = 0.1

# $1 the folder above, $2 the name, $3 "replace" or nothing. What is there is in the way only if it holds a file:
# folders alone are where disks are mounted (a cache at node_modules), and then it is unpacked in place.
_SCRIPT = """
umask 022
mkdir -p "$1" && cd "$1" || exit 40
command -v tar >/dev/null || exit 42
new=.banger-new-$$ old=.banger-old-$$ place=./$2
if [ -L "$place" ] || { [ -e "$place" ] && [ ! -d "$place" ]; }; then there=file
elif [ ! -d "$place" ]; then there=
elif rmdir "$place" 2>/dev/null; then there=
elif [ -z "$(find "$place" -xdev ! -type d 2>&1 | head -n 1)" ]; then there=folders
else there=files
fi
case $there in file|files) [ "$3" = replace ] || exit 41 ;; esac
if [ "$there" = files ]; then
  case "$(cat /proc/self/mounts)" in *" $1/$2 "*|*" $1/$2/"*) exit 47 ;; esac
fi
if [ "$there" = folders ]; then
  tar -x -o -f - -C "$place" || exit 45
  exit 0
fi
trap 'rm -rf "$new"' EXIT
trap 'exit 46' HUP INT TERM
mkdir "$new" || exit 40
tar -x -o -f - -C "$new" || exit 43
if [ -n "$there" ]; then mv "$place" "$old" || exit 44; fi
if ! mv "$new" "$place"; then
  if [ -n "$there" ]; then mv "$old" "$place"; fi
  exit 44
fi
rm -rf "$old"
"""


def send(
    plan: "Plan", open_session: Callable[[], int], progress: Progress, *, replace: bool
) -> tuple[str, ...]:
    """See Plan.send. Returns what changed while it was copied, in words."""
    # The session first: while it is opened a signal ends us at once, and nothing is made yet.
    fd = open_session()
    try:
        with Interrupts(f"{plan.name} was not copied"), scratch("banger-workspace-") as place:
            progress.update({"stage": "packing the commit"})
            groups = _made(plan, place)
            stream = Stream(groups, _teller(progress, plan, groups))
            command = Command(
                ("sh", "-c", _SCRIPT, "sh", *os.path.split(plan.guest_path), "replace" if replace else "")
            )
            taken, fd = fd, -1
            done = False
            try:
                with closing(stream.chunks()) as chunks:
                    outcome = transfer.run(taken, command, source=chunks)
                done = outcome.status == 0
            except Failure as exc:
                raise _told(exc, plan) from None
            finally:
                progress.close(done=done)
            if not done:
                raise _unpacking_failed(outcome, plan)
            for text in stream.changed:
                progress.say(text)
            return tuple(stream.changed)
    finally:
        if fd >= 0:
            os.close(fd)


def _made(plan: "Plan", place: Path) -> list[Group]:
    try:
        return _groups(plan, place)
    except OSError as exc:
        raise host_failed(exc) from None


def _groups(plan: "Plan", top: Path) -> list[Group]:
    """What goes into the stream, skeletons made."""
    if not plan.parts:
        return [Group(plan.top, b"", plan.loose, settled=False)]
    groups: list[Group] = []
    folders = _git_folders(plan.parts)
    for number, part in enumerate(plan.parts):
        place = top / str(number)
        place.mkdir()
        git_dir, outer = folders[part.prefix], part.prefix == b""
        work_tree = "" if outer else os.fsdecode(os.path.relpath(part.prefix, git_dir))
        branch = plan.branch if outer else part.repo.branch
        made = skeleton.build(part, place, branch, work_tree)
        groups.append(Group(made.files, part.prefix, part.entries, settled=bool(part.commit)))
        groups.append(Group(made.git_dir, git_dir + b"/", list_folder(made.git_dir)))
        if not outer:
            pointer = place / "pointer"
            pointer.mkdir()
            text = b"gitdir: " + os.path.relpath(git_dir, part.prefix) + b"\n"
            (pointer / ".git").write_bytes(text)
            groups.append(Group(pointer, part.prefix, (Entry(b".git", FILE, 0o644, len(text)),)))
    return groups


def _git_folders(parts: tuple[Part, ...]) -> dict[bytes, bytes]:
    """Where the guest's git has the repository of each part, by the part's prefix: as `git submodule` lays it out."""
    folders = {b"": b".git"}
    outer = {part.prefix: part for part in parts}
    for part in parts:
        if not part.prefix:
            continue
        above = part.prefix[:-1]
        while (above := above.rpartition(b"/")[0]) and above + b"/" not in outer:
            pass
        above = above + b"/" if above else b""
        name = part.prefix[len(above) : -1]
        modules = outer[above].repo.common_dir / "modules"
        if part.repo.common_dir.is_relative_to(modules) and part.repo.common_dir != modules:
            name = os.fsencode(part.repo.common_dir.relative_to(modules))
        folders[part.prefix] = folders[above] + b"/modules/" + name
    return folders


def _teller(progress: Progress, plan: "Plan", groups: list[Group]) -> Callable[[int], None]:
    """Shows how far it is; what git's objects need is known by now."""
    total = sum(entry.size for group in groups for entry in group.entries)
    stage = f"copying {plan.count:,} files"
    last = 0.0

    def tell(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _DRAW_S:
            last = now
            fraction = done / total if total else -1.0
            progress.update(
                {"stage": stage, "done": done, "total": total, "unit": "bytes", "fraction": fraction}
            )

    return tell


def _told(exc: Failure, plan: "Plan") -> Failure:
    if exc.code in ("NotFound", "NotExecutable"):
        return _no_program("sh", exc.what)
    if exc.code not in ("GuestGone", "GuestFailed", "Protocol"):
        return exc  # of our own
    return Failure(exc.code, f"{plan.name} was not copied", why=str(exc), hint=exc.hint)


def _no_program(name: str, why: str) -> Failure:
    return Failure(
        "NoProgram",
        f"the image has no {name}, with which a workspace is unpacked",
        why=why,
        hint=f"use an image with {name} (debian-bookworm has all that is needed), or install it there",
    )


def _unpacking_failed(outcome: transfer.Outcome, plan: "Plan") -> Failure:
    place, status = plan.guest_path, outcome.status
    lines = [line for line in outcome.stderr.splitlines() if line.strip()]
    why = lines[-1] if lines else f"unpacking ended with status {status}"
    for line in lines:  # tar goes on after the first one, and ends with a summary
        if "No space left" in line or "Disk quota" in line:
            return Failure(
                "NoSpace",
                f"{plan.name} does not fit into the guest",
                why=line,
                hint="make room there, or give the VM a larger disk: --disk 32G. "
                + (f"What was unpacked is in {place}" if status == 45 else "Nothing of it is left there"),
            )
    if status == 41:
        return Failure(
            "WorkspaceExists",
            f"{place} in the guest is there already, with files in it",
            hint=f"`banger vm workspace export` brings back what changed there; --replace removes all of {place} first",
        )
    if status == 42:
        return _no_program("tar", "")
    if status == 47:
        return Failure(
            "WorkspaceExists",
            f"{place} in the guest cannot be replaced",
            why="a disk is mounted there, and what is on it would be lost",
            hint=f"remove by hand what is in the way in {place}",
        )
    if status == 44:
        return Failure("UnpackFailed", f"{place} in the guest could not be put in place", why=why)
    left = f"what was unpacked so far is in {place}" if status == 45 else "nothing of it is left there"
    return Failure("UnpackFailed", f"{plan.name} could not be unpacked in the guest", why=why, hint=left)
