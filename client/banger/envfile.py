"""Files of environment variables, in docker's format (`docker run --env-file`).

A line is NAME=value, taken as it stands: quotes, `$` and blanks belong to the value. NAME alone takes the variable
from our environment, and is left out if it is not there. Empty lines and lines that start with # mean nothing.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from banger.errors import UsageError

_LARGEST = 1024 * 1024  # as much as a guest can be told
_NAME = re.compile(r"[^\s=\0]+")


def read(path: str, ours: Mapping[str, str]) -> dict[str, str]:
    """The variables in the file at `path`. Raises UsageError with the line's number."""
    return parse(_content(path), path, ours)


def parse(content: bytes, source: str, ours: Mapping[str, str]) -> dict[str, str]:
    """The variables in `content`, which came from `source`."""
    variables: dict[str, str] = {}
    # What is no UTF-8 reaches the guest as it is. A BOM is an editor's, not part of a name.
    text = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf"))
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.removesuffix("\r").lstrip()
        if not line or line.startswith("#"):
            continue
        name, given, value = line.partition("=")
        where = f"{source}, line {number}"
        if not name:
            raise UsageError(f"{where}: no name before '='", hint="write NAME=value")
        if not _NAME.fullmatch(name):
            hint = "write NAME=value, with no blank in the name"
            if name.startswith("export "):
                hint = "leave out 'export': it is no shell script"
            raise UsageError(f"{where}: {name[:80]!a} is no variable's name", hint=hint)
        if "\0" in value:
            raise UsageError(f"{where}: a NUL byte, which no variable can hold")
        if given:
            variables[name] = value
        elif name in ours:
            variables[name] = ours[name]
    return variables


def _content(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as exc:
        raise UsageError(
            f"cannot read {path[:200]}: {exc.strerror}", hint="give a file with lines NAME=value"
        ) from None
    if len(content) > _LARGEST:
        raise UsageError(f"{path[:200]} is too large: 1 MiB of variables can be passed")
    return content
