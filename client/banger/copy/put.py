"""Into a guest: the user's files, as root's there, through the guest's own tar."""

import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

from banger import transfer
from banger.archive import write
from banger.copy import ends, guest
from banger.copy.ends import There
from banger.copy.get import Copied
from banger.copy.guest import OpenSession
from banger.copy.progress import Meter
from banger.errors import Failure
from banger.interrupt import Interrupts
from banger.messages import Command
from banger.progress import Progress


def put(open_session: OpenSession, source: str, target: There, progress: Progress) -> Copied:
    """Copy the file or folder `source` of ours to `target`, as docker cp does (docs/running.md). Raises Failure."""
    path = Path(source)
    if not path.exists():
        why = "it is a link to nothing" if path.is_symlink() else "there is no such file or folder"
        raise Failure("CopyFailed", f"cannot copy {source}", why=why)
    if not path.is_dir() and source.endswith(("/", "/.")):
        raise Failure("CopyFailed", f"{source} is no folder")
    folder, name = _where(guest.kind(open_session, target.path), path, source, target)
    found = write.scan(path, os.fsencode(name), root=name != ".")
    meter = Meter(progress, "copying", found.size)
    done = False
    try:
        with Interrupts(f"cannot copy {source}; a part of it may be in the guest"):
            outcome = transfer.run(
                open_session(), Command((*guest.UNPACK, folder)), source=write.stream(found, meter.add)
            )
        guest.check(outcome, f"cannot copy to {target.shown}")
        done = True
    finally:
        progress.close(done=done)
    whole = posixpath.normpath(posixpath.join(folder, name))
    return Copied(found.files, found.size, f"{target.vm}:{whole}", tuple(found.skipped))


def _where(kind: str, path: Path, source: str, target: There) -> tuple[str, str]:
    """The folder there that it is unpacked in, and the name it has in the archive."""
    name = path.name or path.resolve().name
    if kind == "folder":
        if path.is_dir() and (ends.inside(source) or not name):
            return target.path, "."
        return target.path, name
    if kind == "none" and not (target.folder and not path.is_dir()):
        return posixpath.dirname(target.path), posixpath.basename(target.path)
    if kind == "file" and not path.is_dir() and not target.folder:
        return posixpath.dirname(target.path), posixpath.basename(target.path)
    why = {
        "file": "it is a file, and no folder can take its place",
        "none": "there is no such folder",
        "lost": "there is no folder that it would be in",
    }
    raise Failure(
        "CopyFailed",
        f"cannot copy to {target.shown}",
        why=why.get(kind, "it is neither a file nor a folder"),
        hint=f"make the folder first: banger vm exec {target.vm} -- mkdir -p {posixpath.dirname(target.path)}"
        if kind in ("none", "lost")
        else "",
    )


def put_stream(open_session: OpenSession, target: There, progress: Progress) -> int:
    """Unpack the tar stream on standard input in the folder `target`; all is root's there. Returns its bytes."""
    if guest.kind(open_session, target.path) != "folder":
        raise Failure(
            "CopyFailed",
            f"{target.shown} is no folder",
            hint="a tar stream is unpacked in a folder that is there",
        )
    meter = Meter(progress, "copying", 0)
    done = False
    try:
        with Interrupts("cannot copy all of it; a part of it may be in the guest"):
            outcome = transfer.run(
                open_session(), Command((*guest.UNPACK_FOREIGN, target.path)), source=_standard_input(meter)
            )
        guest.check(outcome, f"cannot unpack in {target.shown}")
        done = True
    finally:
        progress.close(done=done)
    return meter.done


def get_stream(open_session: OpenSession, source: There, progress: Progress) -> int:
    """Write the guest's tar stream of `source` to standard output, as it comes and unchecked. Returns its bytes."""
    kind = guest.kind(open_session, source.path)
    if kind not in ("file", "folder"):
        raise Failure("CopyFailed", f"cannot copy {source.shown}", why="there is no such file or folder")
    folder, name = posixpath.split(source.path)
    command = guest.pack(source.path) if source.inside or not name else guest.pack_named(folder, name)
    meter = Meter(progress, "copying", 0)
    done = False

    def write_out(data: memoryview) -> None:
        while data:
            written = os.write(1, data)
            meter.add(written)
            data = data[written:]

    try:
        with Interrupts(f"cannot copy all of {source.shown}"):
            outcome = transfer.run(open_session(), command, sink=write_out)
        guest.check(outcome, f"cannot copy {source.shown}")
        done = True
    finally:
        progress.close(done=done)
    return meter.done


def _standard_input(meter: Meter) -> Iterator[bytes]:
    while chunk := os.read(0, 256 * 1024):
        meter.add(len(chunk))
        yield chunk
