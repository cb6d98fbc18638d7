#!/usr/bin/python3
"""Runs a command with mounts that only it sees: privatemounts.py [--bind SRC DST]… [--reach DIR]… -- CMD…

--bind shows SRC at DST. --reach makes DIR reachable for every user, by covering the outermost folder on the way to
it that others may not enter (a checkout in /root) with an empty one that holds nothing but DIR.
Nothing of this touches the machine, and it ends with the command. Needs root, and only the standard library.
"""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

CLONE_NEWNS = 0x00020000
# x86-64's numbers; the last two are the same everywhere.
SYS_PIVOT_ROOT, SYS_OPEN_TREE, SYS_MOVE_MOUNT = 155, 428, 429
OPEN_TREE_CLONE, AT_RECURSIVE, AT_EMPTY_PATH = 0x1, 0x8000, 0x1000
MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH = 0x4, 0x40
MNT_DETACH = 2
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000

_libc = ctypes.CDLL(None, use_errno=True)


def _check(status: int, what: str) -> None:
    if status != 0:
        errno = ctypes.get_errno()
        sys.exit(f"privatemounts: cannot {what}: {os.strerror(errno)}; this needs root with CAP_SYS_ADMIN")


def mount(source: str, target: str, flags: int, kind: str = "none", options: str = "") -> None:
    """mount(2); ends the program with a sentence if it fails."""
    words = (source.encode(), target.encode(), kind.encode())
    _check(_libc.mount(*words, ctypes.c_ulong(flags), options.encode() or None), f"mount on {target}")


def detach() -> None:
    """Enter a mount namespace of our own from which nothing spreads to the machine. "/" is a mount point there."""
    _check(_libc.unshare(CLONE_NEWNS), "make a mount namespace")
    if _libc.mount(b"none", b"/", b"none", ctypes.c_ulong(MS_REC | MS_PRIVATE), None) != 0:
        leave_chroot()


def leave_chroot() -> None:
    """Make the folder that is the root of this chroot the root of our mount namespace.

    A chroot's root is no mount point: it cannot be made private, and the kernel makes no user namespace in a chroot.
    Both work again below a root that was pivoted to.
    """
    inside = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    # A process is not held by a root that its working folder lies outside of: so to the namespace's own root.
    scratch = tempfile.mkdtemp()
    os.chdir("/")
    os.chroot(scratch)
    while not Path("..").samefile("."):
        os.chdir("..")
    os.chroot(".")
    mount("none", "/", MS_REC | MS_PRIVATE)
    flags = OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH
    tree = _libc.syscall(SYS_OPEN_TREE, inside, b"", flags)
    _check(min(tree, 0), "copy the root's mounts")
    moved = _libc.syscall(
        SYS_MOVE_MOUNT, tree, b"", inside, b"", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    )
    _check(moved, "mount the root")
    os.fchdir(tree)
    _check(_libc.syscall(SYS_PIVOT_ROOT, b".", b"."), "pivot to the root")
    _check(_libc.umount2(b".", MNT_DETACH), "unmount the old root")
    os.chdir("/")
    os.close(inside)
    os.close(tree)
    Path(scratch).rmdir()


def closed_ancestor(path: Path) -> Path | None:
    """The outermost folder on the way to `path` that others may not enter."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & 0o001:
            return folder
    return None


def reach(paths: list[Path]) -> None:
    """Let every user get to `paths`, and to nothing else below folders that are closed to them."""
    held = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in paths}
    while (closed := next(filter(None, map(closed_ancestor, held)), None)) is not None:
        mount("tmpfs", str(closed), 0, "tmpfs", "mode=0755,size=64m")
        for path, descriptor in held.items():
            if closed in path.parents and not path.exists():
                path.mkdir(parents=True, mode=0o755)
                mount(f"/proc/self/fd/{descriptor}", str(path), MS_BIND | MS_REC)
    for descriptor in held.values():
        os.close(descriptor)


def main(argv: list[str]) -> None:
    """Make the mounts and become the command."""
    if "--" not in argv:
        sys.exit(__doc__)
    words, command = argv[: argv.index("--")], argv[argv.index("--") + 1 :]
    cwd = Path.cwd()
    os.umask(0o022)
    detach()
    reachable: list[Path] = []
    while words:
        match words:
            case ["--bind", source, target, *words]:
                mount(source, target, MS_BIND | MS_REC)
            case ["--reach", folder, *words]:
                reachable.append(Path(folder).resolve())
            case _:
                sys.exit(__doc__)
    reach(reachable)
    os.chdir(cwd if cwd.is_dir() else "/")  # by its name: it may be covered now
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
