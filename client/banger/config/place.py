"""Where the user's config is, and reading it."""

import grp
import os
import pwd
import stat
from pathlib import Path

from banger.errors import Failure

_LIMIT = 1024 * 1024


def path() -> Path:
    """The user's config, whether it is there or not: $XDG_CONFIG_HOME/banger/config.toml."""
    base = os.environ.get("XDG_CONFIG_HOME", "")
    folder = (
        Path(base) if base.startswith("/") else home() / ".config"
    )  # the specification: ignore a relative one
    return folder / "banger/config.toml"


def home() -> Path:
    """The user's home. Raises Failure for a user without one."""
    try:
        return Path.home()
    except RuntimeError:
        raise Failure("NoHome", "your home folder is not known", hint="set HOME") from None


def shown(file: Path) -> str:
    """`file` with ~ for the home."""
    text, start = str(file), f"{home()}/"
    return "~/" + text.removeprefix(start) if text.startswith(start) and start != "//" else text


def read() -> str | None:
    """The config's text; None without one. Raises Failure for a file that another user could have written."""
    try:
        file = path()
    except Failure:
        return None  # nor can there be one for a user without a home, such as a number alone
    try:
        fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise _unreadable(file, os.strerror(exc.errno or 0)) from None
    try:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode):
            raise _unreadable(file, "it is no regular file")
        _check_writers(file, facts)
        with open(fd, "rb", closefd=False) as stream:
            data = stream.read(_LIMIT + 1)
    finally:
        os.close(fd)
    if len(data) > _LIMIT:
        raise _unreadable(file, "it is larger than 1 MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        line = data.count(b"\n", 0, exc.start) + 1
        raise _unreadable(file, f"line {line} is no UTF-8") from None


def _check_writers(file: Path, facts: os.stat_result) -> None:
    """As ssh does: who writes this file decides which files of the user go into guests."""
    if facts.st_uid not in (0, os.getuid()):
        raise _unreadable(file, "it belongs to another user", f"sudo chown {os.getuid()} {shown(file)}")
    others = facts.st_mode & stat.S_IWOTH
    if others or (facts.st_mode & stat.S_IWGRP and not _own_group(facts.st_gid)):
        raise _unreadable(file, "other users may write to it", f"chmod go-w {shown(file)}")


def _own_group(gid: int) -> bool:
    """Whether the group is the user's private one, which umask 002 goes with."""
    try:
        user, group = pwd.getpwuid(os.getuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return gid == user.pw_gid and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _unreadable(file: Path, why: str, hint: str = "") -> Failure:
    return Failure(
        "InvalidConfig", f"{shown(file)} cannot be used", why=why, hint=hint or f"look at {shown(file)}"
    )
