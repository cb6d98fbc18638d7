"""From layers to one squashfs: an index of all members first, then one tar stream of what is left of them.

Each layer is read twice and unpacked nowhere, so nothing in it can reach a file system: not by its names, its
links, its owners or its devices.
"""

import argparse
import os
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bangerd.workers.layer_tar import Budget, Stream, copy, headers, members, unpacked
from bangerd.workers.layer_tree import Kind, Node, Tree
from bangerd.workers.reports import Reports, WorkerError

IDS_LIMIT = 65536  # different uids and gids in one squashfs
_TYPES = {
    Kind.FILE: tarfile.REGTYPE,
    Kind.FOLDER: tarfile.DIRTYPE,
    Kind.SYMLINK: tarfile.SYMTYPE,
    Kind.CHARACTER: tarfile.CHRTYPE,
    Kind.BLOCK: tarfile.BLKTYPE,
    Kind.FIFO: tarfile.FIFOTYPE,
}
_INITS = ("/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd")


@dataclass(frozen=True, slots=True)
class Layer:
    """A file with a tar stream, compressed or not. `diff_id`: "sha256:…" of the plain stream, "" if not known."""

    path: Path
    where: str  # as errors call it
    diff_id: str = ""


def index(layers: Sequence[Layer], budget: Budget, report: Reports) -> Tree:
    """Read all layers once. Raises WorkerError for a member that is not possible, and for a wrong digest."""
    tree = Tree()
    for number, layer in enumerate(layers):
        report.progress("check", number, len(layers), "items")
        with unpacked(layer.path) as plain:
            stream = Stream(plain, layer.where, budget)
            # Whiteouts come into force before any other member: they are about lower layers.
            tree.add(members(stream, number, layer.where, budget))
            stream.drain()
            assert stream.sha256 is not None  # noqa: S101, hashed with a budget
            if layer.diff_id and f"sha256:{stream.sha256.hexdigest()}" != layer.diff_id:
                raise WorkerError(
                    "digest", f"{layer.where}: its content is not {layer.diff_id}, as the image says"
                )
    report.progress("check", len(layers), len(layers), "items")
    ids = {number for _, node in tree.walk() for number in (node.uid, node.gid)}
    if len(ids) > IDS_LIMIT:
        raise WorkerError("layer", f"the image has files of {len(ids)} owners; {IDS_LIMIT} are possible")
    return tree


class Emitter:
    """Writes a tree as a tar stream: folders, then what has content, layer by layer, then further names."""

    def __init__(self, tree: Tree, sink: IO[bytes], tell: Callable[[int, int], None]) -> None:
        self._sink = sink
        self._tell = tell
        self._done = 0
        self._total = 0
        self._first: dict[int, str] = {}  # id of a node -> its first path
        self._linked: list[tuple[str, Node]] = []
        self._content: dict[tuple[int, int], tuple[str, Node]] = {}
        for path, node in tree.walk():
            self._plan(path, node)

    def _plan(self, path: str, node: Node) -> None:
        if node.kind is not Kind.FILE:
            self._header(path, node)
        elif id(node) in self._first:
            self._linked.append((path, node))
        else:
            self._first[id(node)] = path
            if node.size:
                self._content[node.source] = (path, node)
                self._total += node.size
            else:
                self._header(path, node)

    def write(self, layers: Sequence[Layer]) -> None:
        """Raises WorkerError, BrokenPipeError."""
        wanted = {layer for layer, _ in self._content}
        for number, layer in enumerate(layers):
            if number in wanted:
                self._layer(number, layer)
        for path, node in self._linked:
            self._header(path, node, linked=self._first[id(node)])
        self._sink.write(bytes(2 * tarfile.BLOCKSIZE))

    def _layer(self, number: int, layer: Layer) -> None:
        left = sum(1 for source in self._content if source[0] == number)
        with unpacked(layer.path) as plain:
            stream = Stream(plain, layer.where, None)
            for member, header, tar in headers(stream, layer.where):
                found = self._content.get((number, member))
                if found is None:
                    continue
                path, node = found
                self._header(path, node)
                content = tar.extractfile(header)
                if content is None or header.size != node.size:
                    raise WorkerError("failed", f"{layer.where} has changed while it was read")
                copy(content, self._sink, node.size, f"member {path[:200]!a} of {layer.where}")
                self._sink.write(bytes(-node.size % tarfile.BLOCKSIZE))
                self._done += node.size
                self._tell(self._done, self._total)
                left -= 1
                if not left:
                    return

    def _header(self, path: str, node: Node, linked: str = "") -> None:
        header = tarfile.TarInfo(path)
        header.type = tarfile.LNKTYPE if linked else _TYPES[node.kind]
        header.mode, header.uid, header.gid, header.mtime = node.mode, node.uid, node.gid, node.mtime
        header.linkname = linked or node.target
        header.devmajor, header.devminor = node.device
        header.size = 0 if linked else node.size
        header.pax_headers = {} if linked or _needs_gnu(node) else node.xattrs
        if header.pax_headers:
            raw = header.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
        else:
            raw = header.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        self._sink.write(raw)


def _needs_gnu(node: Node) -> bool:
    """squashfs-tools 4.5.1 takes the leading `/` or `../` off a link's target that comes in a pax header."""
    return len(node.target) > tarfile.LENGTH_LINK or not node.target.isascii()


def squash(tree: Tree, layers: Sequence[Layer], target: Path, created: int, report: Reports) -> None:
    """Make the squashfs; the same layers and time of creation make the same bytes. Raises WorkerError."""
    log = target.with_suffix(".log")
    # What a tar says of the root itself, sqfstar does not hear.
    root = {"mode": f"{tree.root.mode:o}", "uid": str(tree.root.uid), "gid": str(tree.root.gid)}
    # It is the latest time of any file, too, and the root's instead of now (-root-time has no effect in 4.5.1).
    epoch = max(created, tree.root.mtime, *(node.mtime for _, node in tree.walk()), 0)
    command = [
        "sqfstar", "-comp", "lz4", "-no-progress", "-quiet", "-processors", "2", "-mem", "64M",
        *(word for key, value in root.items() for word in (f"-root-{key}", value)),
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, str(target)],
            env={**os.environ, "SOURCE_DATE_EPOCH": str(epoch)},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    assert process.stdin is not None  # noqa: S101, a pipe
    try:
        Emitter(tree, process.stdin, lambda done, total: report.progress("compress", done, total)).write(
            layers
        )
        process.stdin.close()
    except BrokenPipeError:
        pass  # it says why
    except BaseException:
        process.kill()
        raise
    finally:
        status = process.wait()
    if status != 0:
        said = log.read_text(errors="replace")
        if "No space left" in said or "Disk quota" in said:
            raise WorkerError("space", "the disk is full; free some room and pull again")
        if status == -25:  # SIGXFSZ
            raise WorkerError("failed", "the image is larger than this machine allows")
        raise WorkerError("failed", f"sqfstar failed with status {status}: {said.strip()[-300:]}")


def find_init(tree: Tree, command: Sequence[str]) -> str:
    """Path of the init that shall run, "" for none: then the guest program is PID 1 and runs the image's command.

    An image with a command has an init only if that is the command: many have one that nobody starts.
    """
    wanted = command[:1] if command else _INITS
    for path in wanted:
        found = tree.find(path)
        if path in _INITS and found is not None and found.kind is Kind.FILE and found.mode & 0o111:
            return path
    return ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", type=Path, required=True, help="the job's folder")
    parser.add_argument("--download", type=int, default=8 << 30, help="bytes of all layers as they come")
    parser.add_argument("--unpacked", type=int, default=16 << 30, help="bytes of all layers, unpacked")
    parser.add_argument("--members", type=int, default=1_000_000, help="members of all layers")
