"""The two ends of a copy, as they are written: NAME:/path is a guest's, - a tar stream, all else ours."""

import posixpath
from dataclasses import dataclass

from banger import units
from banger.errors import UsageError

STREAM = "-"
_HOME = "/root"  # what relative paths in a guest are relative to


@dataclass(frozen=True, slots=True)
class Here:
    """A path on this machine, or STREAM."""

    path: str

    @property
    def is_stream(self) -> bool:
        return self.path == STREAM


@dataclass(frozen=True, slots=True)
class There:
    """A path in a guest: absolute, with no "." or ".." left in it."""

    vm: str
    path: str
    inside: bool  # it was written with /. at its end: what is in the folder, not the folder
    folder: bool  # it was written with / at its end: it must be a folder

    @property
    def shown(self) -> str:
        return f"{self.vm}:{self.path}"


def parse(text: str) -> Here | There:
    """One end. A colon behind a slash is a part of a file's name here. Raises UsageError."""
    name, colon, path = text.partition(":")
    if not colon or "/" in name or not name:
        if not text:
            raise UsageError("an empty path is none")
        return Here(text)
    units.check_name(name)
    if "\0" in path:
        raise UsageError("a path with a NUL byte is none")
    path = path.removeprefix("~/")
    whole = posixpath.normpath(posixpath.join(_HOME, path))
    if whole.startswith("//"):
        whole = whole[1:]
    return There(name, whole, path.endswith("/.") or path == ".", path.endswith("/"))


def inside(path: str) -> bool:
    """Whether a path of ours means what is in the folder, not the folder: dir/. or "." itself."""
    return path == "." or path.endswith("/.")
