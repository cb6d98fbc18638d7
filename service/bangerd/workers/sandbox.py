"""Runs a build worker as nobody: own users, processes, mounts; killed when the service dies.

    python3 sandbox.py --base UID --write DIR [--keep DIR]... [--libraries DIR:PLACE]
        [--fsize BYTES] [--memory BYTES] -- ARGV...

Started as root, either in a hardened transient unit or, where systemd is not PID 1, directly. Before the
first byte of the worker runs, it is uid 0 of a user namespace whose ids 0..65535 are BASE..BASE+65535
outside: ids that own nothing on this machine. It sees a read-only file system, with empty folders where
private things are, and may write below DIR alone. Its process namespace dies with this helper, and this
helper dies when its standard input is closed, so a killed service leaves no build behind.

Stands alone (standard library only, imports nothing of bangerd), so that its source can be read in one go.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
SYS_MOUNT_SETATTR = 442  # the same number on every architecture; Linux 5.12
MOUNT_ATTR_RDONLY = 0x1
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 36, 38

ID_COUNT = 65536
# Folders that hold other people's files or sockets, replaced by empty ones.
HIDDEN = ("/home", "/root", "/tmp", "/var/tmp", "/dev/shm", "/run", "/var/lib", "/srv", "/mnt", "/media")  # noqa: S108
# What name resolution needs below the hidden ones.
KEPT = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager/resolv.conf", "/var/lib/dpkg/arch")

_libc = ctypes.CDLL(None, use_errno=True)


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _check(
        _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode()),
        f"mount {target}",
    )


def _read_only(path: str, *, on: bool, recursive: bool = False) -> None:
    attr = _MountAttr(attr_set=MOUNT_ATTR_RDONLY) if on else _MountAttr(attr_clr=MOUNT_ATTR_RDONLY)
    flags = AT_RECURSIVE if recursive else 0
    _check(
        _libc.syscall(
            SYS_MOUNT_SETATTR, AT_FDCWD, path.encode(), flags, ctypes.byref(attr), ctypes.sizeof(attr)
        ),
        f"mount_setattr {path}",
    )


def _unshare(flags: int) -> None:
    _check(_libc.unshare(flags), "unshare")


def _prctl(option: int, value: int) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0), "prctl")


def confine(write: Path, show: list[Path], libraries: str = "") -> None:
    """Give this process its own view of the file system: read-only, private places empty, `write` writable.

    `libraries`: FOLDER:PLACE, a folder that may lie where nobody may look, and the one that shows it.
    Done by real root before the user namespace exists: mounts inherited by a user namespace are locked
    there, so the worker's root cannot undo them.
    """
    keep = [str(write), *map(str, show), *(path for path in KEPT if Path(path).exists())]
    kinds = {path: Path(path).is_dir() for path in keep}
    _unshare(CLONE_NEWNS)
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    # Descriptors lead to what is about to be covered; opened here, since a mount of the old namespace
    # cannot be bound in the new one.
    open_keep = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in keep}
    source, _, target = libraries.partition(":")
    lent = os.open(source, os.O_PATH | os.O_CLOEXEC) if source else -1
    for place in HIDDEN:
        # A link (/var/run) would cover the same folder twice.
        if Path(place).is_dir() and not Path(place).is_symlink():
            _mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=64m")
    for path, descriptor in open_keep.items():
        if not Path(path).exists():
            Path(path).parent.mkdir(parents=True, exist_ok=True, mode=0o755)
            Path(path).mkdir() if kinds[path] else Path(path).touch()
        _mount(f"/proc/self/fd/{descriptor}", path, "", MS_BIND | MS_REC)
        os.close(descriptor)
    if source:
        _mount(f"/proc/self/fd/{lent}", target, "", MS_BIND)
        os.close(lent)
    _read_only("/", on=True, recursive=True)
    _read_only(str(write), on=False)
    # Writable by file permissions to nobody but real root; /proc is needed to write the worker's id maps.
    for place in ("/proc", "/dev"):
        if Path(place).is_mount():
            _read_only(place, on=False)


def limit(fsize: int, memory: int) -> None:
    """Limits that hold per process; in a unit, the cgroup's limits hold for all of them together."""
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, fsize),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, 512),
    ):
        hard = resource.getrlimit(what)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (most, most))


def _become_root_of(ready: int, mapped: int) -> None:
    """Child: enter the namespaces, wait for the id maps, become their uid 0."""
    _unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS)
    os.write(ready, b"u")
    if os.read(mapped, 1) != b"m":
        raise OSError("no id maps")
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _run_as_first(argv: list[str], write: Path, pythonpath: str) -> None:
    """Grandchild: PID 1 of the process namespace. Does not return."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _prctl(PR_SET_NO_NEW_PRIVS, 1)
    _mount("none", "/", "", MS_REC | MS_PRIVATE)
    # Refused below a container manager that covers parts of /proc; then the worker sees other processes, all
    # of users that it is not.
    with contextlib.suppress(PermissionError):
        _mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    os.setsid()
    os.umask(0o022)
    os.chdir(write)
    os.execve(  # noqa: S606
        argv[0],
        argv,
        {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LC_ALL": "C.UTF-8",
            "HOME": str(write),
            "TMPDIR": str(write),
            "PYTHONPATH": pythonpath,
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )


def _child(ready: int, mapped: int, options: argparse.Namespace) -> int:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    _become_root_of(ready, mapped)
    # Changing ids cleared the death signal.
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    first = os.fork()
    if first == 0:
        _guard(lambda: _run_as_first(options.argv, options.write, options.pythonpath))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(first, 0)[1])


def _guard(body: Callable[[], int | None]) -> None:
    """Run the body of a forked process and end it: nothing of the parent's may run in it."""
    status = 125
    try:
        status = body() or 0
    except OSError as exc:
        sys.stderr.write(f"sandbox: {exc}\n")
        sys.stderr.flush()
    finally:
        os._exit(status if 0 <= status < 256 else 128 - status)


def _write_maps(pid: int, base: int) -> None:
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(f"0 {base} {ID_COUNT}\n")


def _wait(child: int) -> int:
    """Until the worker ends or standard input is closed; then until every process of it is gone."""
    pidfd = os.pidfd_open(child)
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(0, select.POLLIN)
    lifeline = True
    while True:
        events = [descriptor for descriptor, _ in poll.poll()]
        if pidfd in events:
            break
        if lifeline and not os.read(0, 4096):
            poll.unregister(0)
            lifeline = False
            os.kill(child, signal.SIGKILL)
    status = 125
    while True:  # the child, and as subreaper its PID 1, whose end is the end of the whole namespace
        try:
            pid, raw = os.wait()
        except ChildProcessError:
            return status if lifeline else 128 + signal.SIGKILL
        if pid == child:
            code = os.waitstatus_to_exitcode(raw)
            status = code if code >= 0 else 128 - code


def main() -> int:
    """Exit status: the worker's, 128+n after signal n, 125 when the sandbox could not be made."""
    parser = argparse.ArgumentParser(description="run a build worker without privileges")
    parser.add_argument("--base", type=int, required=True, help="first of 65536 ids that own nothing")
    parser.add_argument("--write", type=Path, required=True, help="the folder that the worker may write")
    parser.add_argument(
        "--keep", type=Path, action="append", default=[], help="visible even below a hidden folder"
    )
    parser.add_argument(
        "--libraries", default="", help="FOLDER:PLACE, shown at PLACE below one that is kept"
    )
    parser.add_argument("--lock", type=Path, required=True, help="locked until every process is gone")
    parser.add_argument("--pythonpath", default="", help="where the worker's modules are")
    parser.add_argument("--fsize", type=int, default=8 << 30, help="largest file, bytes")
    parser.add_argument("--memory", type=int, default=4 << 30, help="address space per process, bytes")
    parser.add_argument("argv", nargs="+", metavar="ARGV")
    options = parser.parse_args()
    ready_read, ready_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    try:
        # Kept open by the child too, whose end it outlives.
        fcntl.flock(os.open(options.lock, os.O_RDWR | os.O_CLOEXEC), fcntl.LOCK_EX)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        confine(options.write, options.keep, options.libraries)
        limit(options.fsize, options.memory)
        child = os.fork()
        if child == 0:
            os.close(ready_read)
            os.close(mapped_write)
            _guard(lambda: _child(ready_write, mapped_read, options))
        os.close(ready_write)
        os.close(mapped_read)
        if os.read(ready_read, 1) == b"u":
            _write_maps(child, options.base)
            os.write(mapped_write, b"m")
        os.close(mapped_write)
    except OSError as exc:
        sys.stderr.write(f"sandbox: {exc}\n")
        return 125
    return _wait(child)


if __name__ == "__main__":
    sys.exit(main())
