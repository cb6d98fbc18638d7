"""What an image's layers come to, as a tree in memory: extraction in order, with nothing of it on a file system.

The last writer of a path wins. Parents that are symbolic links are followed, and lead nowhere but inside the
image. A layer's whiteouts hide what lower layers have, never what the layer itself brings (OCI image-spec, layer.md).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from bangerd.workers.reports import WorkerError

WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"
AUFS = ".wh..wh."  # files of aufs's own
_LINKS = 40  # followed for one path, as Linux does
_NAME_LIMIT, _PATH_LIMIT = 255, 4096  # bytes


class Kind(Enum):
    FILE = auto()
    FOLDER = auto()
    SYMLINK = auto()
    CHARACTER = auto()
    BLOCK = auto()
    FIFO = auto()


@dataclass(slots=True, eq=False)
class Node:
    """One object of the file system; hard links share it. `source`: the layer and the member with its content."""

    kind: Kind
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    target: str = ""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[str, str] = field(default_factory=dict)
    size: int = 0
    source: tuple[int, int] = (0, 0)
    entries: "dict[str, Node] | None" = None  # of a folder


@dataclass(slots=True)
class Member:
    """One member of a layer: a node, or a hard link to another path. `where` names it in errors."""

    name: str
    node: Node | None
    linked: str
    where: str


def folder() -> Node:
    return Node(Kind.FOLDER, entries={})


def invalid(where: str, what: str) -> WorkerError:
    """The error for a member that no image can have."""
    return WorkerError("layer", f"{where}: {what}")


def split(name: str, where: str) -> list[str]:
    """A member's path, from the image's root on. Raises WorkerError for one that no image can have."""
    if "\0" in name:
        raise invalid(where, "its path has a NUL")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise invalid(where, "its path leads outside with '..'")
    raw = [len(part.encode(errors="surrogateescape")) for part in parts]
    if max(raw, default=0) > _NAME_LIMIT or sum(raw) + len(raw) > _PATH_LIMIT:
        raise invalid(where, f"its path is too long; {_NAME_LIMIT} bytes a name and {_PATH_LIMIT} in all")
    return parts


class Tree:
    """Begins empty; layers are put on one by one, the lowest first."""

    def __init__(self) -> None:
        self.root = folder()

    def add(self, members: Iterable[Member]) -> None:
        """Put one layer on. Raises WorkerError naming the member that is wrong."""
        kept: list[tuple[list[str], Member]] = []
        for member in members:
            parts = split(member.name, member.where)
            if parts and parts[-1].startswith(WHITEOUT):
                self._whiteout(parts, member.where)
            else:
                kept.append((parts, member))
        for parts, member in kept:
            self._put(parts, member)

    def find(self, path: str) -> Node | None:
        """What is at a path, symbolic links followed, the last one too."""
        parts = [part for part in path.split("/") if part]
        for _ in range(_LINKS):
            above = self._folder(parts[:-1], "", make=False)
            node = above if not parts else (above.entries or {}).get(parts[-1]) if above else None
            if node is None or node.kind is not Kind.SYMLINK:
                return node
            base = [] if node.target.startswith("/") else parts[:-1]
            parts = [*base, *(part for part in node.target.split("/") if part)]
            if parts and parts[-1] in (".", ".."):
                return self._folder(parts, "", make=False)
        return None

    def walk(self) -> Iterator[tuple[str, Node]]:
        """All there is below the root, by path relative to it; a folder before what is in it."""
        todo = [("", self.root)]
        while todo:
            path, node = todo.pop()
            if path:
                yield path, node
            for name in sorted(node.entries or (), reverse=True):
                assert node.entries is not None  # noqa: S101, it has some
                todo.append((f"{path}/{name}" if path else name, node.entries[name]))

    def _whiteout(self, parts: list[str], where: str) -> None:
        hidden = parts[-1].removeprefix(WHITEOUT)
        if hidden in ("", ".", ".."):
            raise invalid(where, "a whiteout of the folder that it lies in")
        above = self._folder(parts[:-1], where, make=False)
        if above is None or above.entries is None:
            return
        if parts[-1] == OPAQUE:
            above.entries.clear()
        elif not parts[-1].startswith(AUFS):
            above.entries.pop(hidden, None)

    def _put(self, parts: list[str], member: Member) -> None:
        node = member.node
        if not parts:
            if node is None or node.kind is not Kind.FOLDER:
                raise invalid(member.where, "the root of an image is a folder")
            _update(self.root, node)
            return
        if node is None:
            node = self._linked(member)
        above = self._folder(parts[:-1], member.where, make=True)
        assert above is not None and above.entries is not None  # noqa: S101, PT018, made when missing
        old = above.entries.get(parts[-1])
        if old is not None and old.kind is Kind.FOLDER and node.kind is Kind.FOLDER:
            _update(old, node)
        else:
            above.entries[parts[-1]] = node

    def _linked(self, member: Member) -> Node:
        parts = split(member.linked, member.where)
        above = self._folder(parts[:-1], member.where, make=False) if parts else None
        found = (above.entries or {}).get(parts[-1]) if above else None
        if found is None:
            raise invalid(member.where, f"a hard link to {member.linked[:200]!a}, which is not there")
        if found.kind is Kind.FOLDER:
            raise invalid(member.where, f"a hard link to {member.linked[:200]!a}, which is a folder")
        return found

    def _folder(self, parts: list[str], where: str, *, make: bool) -> Node | None:
        """The folder at a path, links followed within the image; None when it is not there and shall not be made."""
        above = [self.root]
        todo = parts[::-1]
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                above = above[:-1] or above
                continue
            if part in ("", "."):
                continue
            entries = above[-1].entries
            assert entries is not None  # noqa: S101, only folders get in
            found = entries.get(part)
            if found is not None and found.kind is Kind.SYMLINK:
                links += 1
                if links > _LINKS:
                    if make:
                        raise invalid(where, "the folder that it lies in is a loop of symbolic links")
                    return None
                above = above[:1] if found.target.startswith("/") else above
                todo.extend(reversed(found.target.split("/")))
                continue
            if found is None or found.entries is None:
                if not make:
                    return None
                found = entries[part] = folder()
            above.append(found)
        return above[-1]


def _update(old: Node, new: Node) -> None:
    """A folder that is there gets what a later member says of it, and keeps what is in it."""
    old.mode, old.uid, old.gid, old.mtime, old.xattrs = new.mode, new.uid, new.gid, new.mtime, new.xattrs
