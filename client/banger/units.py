"""Sizes, durations and names as people write and read them."""

import math
import re

from banger.errors import UsageError

_SIZE = re.compile(r"(\d+(?:\.\d+)?) *([kmgt]?)(i?b)?", re.IGNORECASE | re.ASCII)
_STEPS = ("", "K", "M", "G", "T")
_LARGEST = 2**63

_TIME = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+", re.IGNORECASE | re.ASCII)
_TIME_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])", re.IGNORECASE | re.ASCII)
_TIME_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_S = 365 * 86400.0

# RFC 1123 section 2.1, lower case, as the service checks it.
_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def parse_size(text: str, what: str = "size") -> int:
    """Bytes in `text`: "512M", "2G", "1.5G", "16GiB" (all binary). Raises UsageError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text[:80]!a} is no {what}", hint="write it as 512M, 2G or 1.5G")
    number, prefix, suffix = match.groups()
    if not prefix and not suffix:
        raise UsageError(f"{what} {text[:80]} has no unit", hint=f"write {number}M or {number}G")
    value = float(number) * float(1024 ** _STEPS.index(prefix.upper()))
    if not 1 <= value < _LARGEST:
        raise UsageError(f"{text[:80]!a} is no possible {what}", hint="write it as 512M, 2G or 1.5G")
    return math.floor(value)


def parse_duration(text: str, what: str = "duration") -> float:
    """Seconds in `text`: "90s", "10m", "1h30m", "2d"; more than none, at most a year. Raises UsageError."""
    hint = "write it as 90s, 10m or 1h30m"
    word = text.strip()
    if word.isascii() and word.isdigit():
        raise UsageError(f"{what} {text[:80]} has no unit", hint=f"write {word[:20]}s or {word[:20]}m")
    if _TIME.fullmatch(word) is None:
        raise UsageError(f"{text[:80]!a} is no {what}", hint=hint)
    parts = _TIME_PART.findall(word)
    seconds = sum(float(number) * _TIME_UNITS[unit.lower()] for number, unit in parts)
    if not 0 < seconds <= _LONGEST_S:
        raise UsageError(f"{text[:80]!a} is no possible {what}", hint=hint)
    return seconds


def size(value: int) -> str:
    """`value` bytes for people: "512 MiB", "1.5 GiB"."""
    amount = float(value)
    for step in _STEPS:
        if amount < 1024 or step == _STEPS[-1]:
            unit = f"{step}iB" if step else "B"
            shown = (
                f"{amount:.0f}"
                if amount >= 100 or amount.is_integer()
                else f"{amount:.1f}".removesuffix(".0")
            )
            return f"{shown} {unit}"
        amount /= 1024
    raise AssertionError


def duration(seconds: float) -> str:
    """A time span for people, as exact as it matters: "0.4 s", "23 s", "2 min 05 s", "3 h 10 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def age(seconds: float) -> str:
    """A coarse age for tables: "5 s", "12 min", "3 h", "9 d"."""
    whole = max(0, int(seconds))
    for limit, step, unit in ((60, 1, "s"), (3600, 60, "min"), (48 * 3600, 3600, "h")):
        if whole < limit:
            return f"{whole // step} {unit}"
    return f"{whole // 86400} d"


def check_name(name: str) -> str:
    """Return `name` if the service would take it as a VM's name; raise UsageError with the service's sentence."""
    if _LABEL.fullmatch(name):
        return name
    raise UsageError(
        f"{name[:80]!a} is no valid VM name; use 1 to 63 of a-z, 0-9 and '-', with no '-' at the start or the end"
    )
