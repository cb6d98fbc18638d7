"""Removes folders that others wrote: a VMM that was broken into, a build worker. Follows no link.

Needs neither CAP_DAC_OVERRIDE nor depth: each folder is first made our own (CAP_CHOWN), by descriptor, and
folders inside it are moved up to the top, so a chain of a million folders is taken down two at a time.
"""

import errno
import os
import stat

_FOLDER = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC


def open_folder(path: str | os.PathLike[str], dir_fd: int | None = None) -> int:
    """A descriptor to look up names with; raises NotADirectoryError for a link."""
    return os.open(path, _FOLDER, dir_fd=dir_fd)


def take(folder: int) -> None:
    """Make the folder behind the descriptor our own, mode 0700."""
    by_descriptor = f"/proc/self/fd/{folder}"
    os.chown(by_descriptor, os.geteuid(), os.getegid())
    os.chmod(by_descriptor, 0o700)  # noqa: PTH101, the path is a descriptor


def remove(parent: int, name: str) -> None:
    """Remove the file or folder `name` in the folder of descriptor `parent`. Nothing there is no error.

    Nobody may be writing there any more.
    """
    try:
        folder = open_folder(name, parent)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        os.unlink(name, dir_fd=parent)
        return
    try:
        take(folder)
        moved = 0
        while entries := _names(folder):
            for entry in entries:
                if not _unlink(folder, entry):
                    moved = _lift(folder, entry, moved)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=parent)


def _unlink(folder: int, name: str) -> bool:
    """Remove anything but a folder that is not empty."""
    try:
        os.unlink(name, dir_fd=folder)
    except IsADirectoryError:
        try:
            os.rmdir(name, dir_fd=folder)
        except OSError as exc:
            if exc.errno != errno.ENOTEMPTY:
                raise
            return False
    return True


def _lift(top: int, name: str, moved: int) -> int:
    """Empty the folder `name` of `top`: its files are removed, its folders become folders of `top`."""
    folder = open_folder(name, top)
    try:
        take(folder)
        for entry in _names(folder):
            if not _unlink(folder, entry):
                inner = open_folder(entry, folder)
                try:
                    take(inner)  # moving a folder changes its `..`
                finally:
                    os.close(inner)
                moved = _move(folder, entry, top, moved)
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)
    return moved


def _move(folder: int, entry: str, top: int, moved: int) -> int:
    """Move under a free name; a folder in the way may bear any name."""
    while True:
        moved += 1
        try:
            os.stat(f".{moved}", dir_fd=top, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(entry, f".{moved}", src_dir_fd=folder, dst_dir_fd=top)
            return moved


def _names(folder: int) -> list[str]:
    listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    try:
        return os.listdir(listed)  # noqa: PTH208, by descriptor
    finally:
        os.close(listed)


def is_regular(path: str | os.PathLike[str], dir_fd: int | None = None) -> bool:
    try:
        return stat.S_ISREG(os.stat(path, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
