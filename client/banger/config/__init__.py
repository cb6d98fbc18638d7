"""The user's config: ~/.config/banger/config.toml, read when something first needs it."""

from functools import cache

from banger.config import place
from banger.config.values import FileSync, Forward, Settings, VMDefaults
from banger.errors import Failure

__all__ = ["FileSync", "Forward", "Settings", "VMDefaults", "parse", "settings"]


@cache
def settings() -> Settings:
    """What the user's config says; the built-in values where there is none.

    Raises Failure (InvalidConfig) with file, line and column for a file that is not right or that others can write.
    """
    text = place.read()
    return Settings() if text is None else parse(text)


def parse(text: str) -> Settings:
    """The settings of a config's text. Raises Failure."""
    # These cost 10 ms, and most commands and users have no need of them.
    from banger.config.load import load
    from banger.config.tomlfile import Faults

    try:
        return load(text)
    except Faults as exc:
        file = place.shown(place.path())
        number = len(exc.faults)
        raise Failure(
            "InvalidConfig",
            f"{file} is not right" + (f" in {number} places" if number > 1 else ""),
            details=tuple(line for fault in exc.faults for line in fault.lines(file)),
            hint="mend it with `banger config edit`",
        ) from None
