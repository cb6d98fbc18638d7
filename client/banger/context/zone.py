"""The user's time zone, by the name that programs in a guest understand."""

import re
from collections.abc import Mapping
from pathlib import Path

# A name of the zone database (Europe/Berlin), or POSIX's own notation (CET-1CEST,M3.5.0,M10.5.0/3).
_NAME = re.compile(r"[A-Za-z0-9<>+,./:_-]{1,120}")
_FOLDER = "zoneinfo/"
_UTC = ("UTC", "Etc/UTC", "Etc/UCT", "UCT", "Universal", "Etc/Universal", "Zulu", "Etc/Zulu")


def name(ours: Mapping[str, str], root: Path = Path("/")) -> str:
    """A value for TZ, or "" where the guest's own UTC is right, or nothing is known."""
    found = _from_variable(ours.get("TZ", "")) if ours.get("TZ") else _from_files(root)
    if not _NAME.fullmatch(found) or found.startswith("/") or ".." in found or found in _UTC:
        return ""
    return found


def _from_variable(value: str) -> str:
    value = value.removeprefix(":")
    if value.startswith("/"):
        return _below_zoneinfo(value) or _linked(Path(value))
    return value


def _from_files(root: Path) -> str:
    if found := _linked(root / "etc/localtime"):
        return found
    try:
        return (root / "etc/timezone").read_text().strip()
    except (OSError, ValueError):
        return ""


def _linked(path: Path) -> str:
    try:
        return _below_zoneinfo(str(path.readlink()))
    except OSError:
        return ""


def _below_zoneinfo(path: str) -> str:
    _, found, rest = path.partition(_FOLDER)
    for prefix in ("posix/", "right/"):
        rest = rest.removeprefix(prefix)
    return rest if found else ""
