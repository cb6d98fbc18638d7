"""Files in the user's home: where they are, and how one is replaced as a whole, or not at all."""

import contextlib
import errno
import fcntl
import os
import pwd
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

from banger.config.place import home, shown
from banger.errors import Failure

_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def account_home() -> Path:
    """The home folder of the account: where OpenSSH looks, whatever $HOME says."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path(os.environ.get("HOME") or "/")


def state_folder() -> Path:
    """Where what banger makes for ssh is kept: $XDG_STATE_HOME/banger/ssh."""
    base = os.environ.get("XDG_STATE_HOME", "")
    # The specification: a relative path is to be ignored.
    return (Path(base) if base.startswith("/") else home() / ".local/state") / "banger/ssh"


def make_folder(path: Path) -> None:
    """Make `path`, and what is missing above it, for its owner alone. Raises Failure."""
    for folder in reversed([path, *path.parents]):
        try:
            if not folder.is_dir():
                folder.mkdir(mode=0o700)
        except FileExistsError:
            if not folder.is_dir():
                hint = "move it away, and try again"
                raise Failure("BadFile", f"{shown(folder)} is no folder", hint=hint) from None
        except OSError as exc:
            raise cannot("make", folder, exc) from None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other clients out of `folder` meanwhile, and Ctrl-C away until what is begun is whole. Raises Failure."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise cannot("use", folder, exc) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    finally:
        os.close(fd)


def write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path`, whole or not at all; to be called within `locked` of its folder.

    A file that is there keeps its mode and extended attributes. Raises Failure.
    """
    # One name, not a made up one: what a crash left is used again.
    fresh = path.with_name(f".{path.name}.banger")
    try:
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                if path.exists():
                    shutil.copystat(path, fresh)
                    os.utime(fresh)
                else:
                    fresh.chmod(mode)
                file.flush()
                os.fsync(fd)
            fresh.rename(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise cannot("write", path, exc) from None


def link(path: Path, target: Path) -> None:
    """Make `path` a symbolic link to `target`, at once; within `locked`. Raises Failure."""
    fresh = path.with_name(f".{path.name}.banger")
    try:
        if path.is_symlink() and path.readlink() == target:
            return
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        fresh.symlink_to(target)
        fresh.rename(path)
    except OSError as exc:
        raise cannot("write", path, exc) from None


def read_own(path: Path) -> bytes | None:
    """The content of a regular file of ours; None if there is none. Raises Failure."""
    try:
        # A fifo would block until somebody writes.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise cannot("read", path, exc) from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise Failure("BadFile", f"{shown(path)} is no file", hint="move it away, and try again")
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read()
    except OSError as exc:
        raise cannot("read", path, exc) from None
    finally:
        os.close(fd)


def cannot(verb: str, path: Path, error: OSError) -> Failure:
    """The failure of a system call on `path`."""
    why = (error.strerror or str(error)).lower()
    hint = ""
    if error.errno in (errno.EACCES, errno.EPERM):
        hint = f"look at the modes and owners of the folders above it: namei -l {shown(path)}"
    elif error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room, and try again"
    return Failure(
        "CannotWrite" if verb != "read" else "CannotRead", f"cannot {verb} {shown(path)}", why=why, hint=hint
    )
