"""The user's ssh configuration: the managed file, and the block in ~/.ssh/config that includes it.

Nothing here runs on its own: only `banger ssh-config` changes the user's file.
"""

import contextlib
import os
import shlex
import shutil
import stat
import sys
from pathlib import Path

from banger.config.place import home, shown
from banger.config.place import path as config_file
from banger.errors import Failure
from banger.ssh import block, keys, openssh, place

_HEADER = "# Written by `banger ssh-config`; changes here are lost."


def managed_file() -> Path:
    return config_file().with_name("ssh_config")


def include_line() -> str:
    """The line that a user's ssh configuration needs, before any Host or Match line."""
    path = managed_file()
    if home() == place.account_home():
        with contextlib.suppress(ValueError):
            return f"Include {_quoted('~/' + str(path.relative_to(home())))}"
    return f"Include {_quoted(str(path))}"


def write_managed() -> bool:
    """Have the managed file say what this version says; return whether it changed. Raises Failure."""
    path = managed_file()
    text = f"{_HEADER}\n{openssh.host_block(keys.identity_link(), program())}".encode()
    if place.read_own(path) == text:
        return False
    place.make_folder(path.parent)
    with place.locked(path.parent):
        # ssh reads no configuration that others may write.
        place.write(path, text, 0o644)
    return True


def install() -> bool:
    """Put the block on top of ~/.ssh/config; return whether anything changed. Raises Failure, nothing changed."""
    path = user_file()
    before = place.read_own(path)
    found = block.split(before or b"", shown(path))
    changed = write_managed()
    new_file = before is None or found.made_file
    after = block.put(found.rest, include_line(), new_file=new_file)
    if after == before:
        return changed
    place.make_folder(path.parent)
    _replace(path, before, after)
    return True


def uninstall() -> bool:
    """Take the block, and the managed file, away; return whether anything changed. Raises Failure."""
    path = user_file()
    before = place.read_own(path)
    found = block.split(before or b"", shown(path))
    changed = False
    if before is not None and found.blocks:
        _replace(path, before, None if found.made_file and not found.rest else found.rest)
        changed = True
    managed = managed_file()
    text = place.read_own(managed)
    if text is not None and text.startswith(_HEADER.encode()):
        with place.locked(managed.parent):
            managed.unlink(missing_ok=True)
        changed = True
    return changed


def user_file() -> Path:
    """Where ~/.ssh/config really is: links are followed, as ssh does. Raises Failure."""
    path = place.account_home() / ".ssh/config"
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise Failure("BadFile", f"{shown(path)} is a link to itself", hint="remove it, and try again")
    return real


def _replace(path: Path, before: bytes | None, after: bytes | None) -> None:
    """Put `after` in the place of `before`; None is no file."""
    if before is not None:
        _check_ours(path)
    with place.locked(path.parent):
        if place.read_own(path) != before:
            raise Failure(
                "Changed", f"{shown(path)} was changed at the same moment", hint="look at it, and try again"
            )
        if after is None:
            path.unlink()
        else:
            place.write(path, after)


def _check_ours(path: Path) -> None:
    about = path.stat()
    by_hand = f"or put this at its top yourself: {include_line()}"
    if about.st_uid != os.getuid():
        raise Failure(
            "BadOwner",
            f"{shown(path)} is not yours",
            why=f"it belongs to uid {about.st_uid}",
            hint=f"as root: chown {os.getuid()} {shlex.quote(str(path))}; {by_hand}",
        )
    if not about.st_mode & stat.S_IWUSR:
        raise Failure(
            "ReadOnly",
            f"{shown(path)} is read-only",
            why=f"its mode is {stat.S_IMODE(about.st_mode):04o}; somebody or something wants it to stay as it is",
            hint=f"chmod u+w {shlex.quote(str(path))}; {by_hand}",
        )


def program() -> tuple[str, ...]:
    """The words that start this banger from anywhere."""
    called = sys.argv[0]
    if Path(called).name == "banger":
        found = called if "/" in called else shutil.which(called)
        if found:
            return (str(Path(found).absolute()),)
    return (sys.executable, "-m", "banger")


def _quoted(path: str) -> str:
    return f'"{path}"' if " " in path or "\t" in path else path
