"""One member of a tar stream, and what is said when it is not one we take."""

from dataclasses import dataclass
from enum import Enum, auto

from banger.errors import Failure
from banger.render import safe

Path = tuple[bytes, ...]  # names from the archive's root; () is the root itself


class Kind(Enum):
    FILE = auto()
    FOLDER = auto()
    LINK = auto()
    HARD_LINK = auto()
    OTHER = auto()  # device, FIFO: nothing that can be copied


@dataclass(frozen=True, slots=True)
class Member:
    """`mode` has permission bits alone. `target`: of a link as it stands, of a hard link the names of its file."""

    path: Path
    kind: Kind
    mode: int
    mtime_ns: int
    size: int = 0
    target: bytes = b""
    source: Path = ()


def shown(path: Path | bytes) -> str:
    """A name for people: nothing in it that a terminal would act on, bytes that are no text as \\xff."""
    raw = path if isinstance(path, bytes) else b"/".join(path) or b"."
    text = safe(raw.decode("utf-8", "backslashreplace"))
    return text if len(text) <= 200 else f"{text[:200]}…"


def refused(why: str, path: Path | bytes | None = None, *, hint: str = "") -> Failure:
    """The failure for an archive of which nothing is taken."""
    return Failure(
        "UnsafeArchive",
        "what the guest sent is not taken",
        why=f"{shown(path)} {why}" if path is not None else why,
        hint=hint or "nothing was changed here",
    )
