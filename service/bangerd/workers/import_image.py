"""Makes an image of a file that a user handed over as a descriptor, which is read here and nowhere else.

    python3 -m bangerd.workers.import_image --dir DIR --socket PATH

The descriptor comes over the Unix socket. Leaves rootfs.squashfs in DIR; its result line is what the
image's configuration says, nothing much for a plain root file system.
"""

import argparse
import ctypes
import os
import select
import shutil
import socket
import stat
import sys
from pathlib import Path

from bangerd.workers import archive, flatten, image_archive, reports
from bangerd.workers.layer_tar import BLOCK, Budget
from bangerd.workers.reports import Reports, WorkerError

_CLONE_NEWNET = 0x40000000


def make(options: argparse.Namespace, report: Reports) -> dict[str, object]:
    """Raises WorkerError."""
    archive.needed("sqfstar", "gzip", "zstd")
    spool, parts = options.dir / "input", options.dir / "parts"
    source = _receive(options.socket)
    try:
        _read(source, spool, options.download, report)
    finally:
        os.close(source)
    budget = Budget(options.unpacked, options.members)
    content = image_archive.open_archive(spool, parts, budget, report)
    tree = content.tree or flatten.index(content.layers, budget, report)
    if not tree.root.entries:
        raise WorkerError("layer", "the archive has nothing in it that could be an image")
    flatten.squash(tree, content.layers, options.dir / "rootfs.squashfs", content.config.created, report)
    spool.unlink(missing_ok=True)
    shutil.rmtree(parts, ignore_errors=True)
    return content.config.facts(flatten.find_init(tree, content.config.command))


def _receive(path: Path) -> int:
    folder = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        # By descriptor: the whole path may be too long for a socket's.
        channel.connect(f"/proc/self/fd/{folder}/{path.name}")
        _, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    os.close(folder)
    if not descriptors:
        raise WorkerError("failed", "no file was handed over")
    return descriptors[0]


def _read(source: int, spool: Path, limit: int, report: Reports) -> None:
    """All of it, once: a file may change, and a pipe can be read but once."""
    seen = os.fstat(source)
    if not (stat.S_ISREG(seen.st_mode) or stat.S_ISFIFO(seen.st_mode) or stat.S_ISSOCK(seen.st_mode)):
        raise WorkerError("layer", "what was handed over is no file and no pipe")
    total = seen.st_size if stat.S_ISREG(seen.st_mode) else 0
    done = 0
    report.progress("read", 0, total)
    with spool.open("wb") as file:
        while block := _next(source):
            done += len(block)
            if done > limit:
                raise WorkerError(
                    "failed", f"the archive is larger than {limit >> 20} MiB, as much as is possible here"
                )
            file.write(block)
            report.progress("read", done, max(done, total) if total else 0)
    if not done:
        raise WorkerError("layer", "the archive is empty")


def _next(source: int) -> bytes:
    """Not every pipe waits by itself, and whether it does is its owner's to decide."""
    while True:
        try:
            return os.read(source, BLOCK)
        except BlockingIOError:
            select.select([source], [], [])


def main() -> int:
    parser = argparse.ArgumentParser(description="make an image of a user's archive")
    parser.add_argument("--socket", type=Path, required=True, help="where the descriptor comes from")
    flatten.add_arguments(parser)
    options = parser.parse_args()
    # Nothing here needs a network, and what is read may be hostile.
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "no network namespace of one's own")
    return reports.run(lambda report: make(options, report))


if __name__ == "__main__":
    sys.exit(main())
