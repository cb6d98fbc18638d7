"""What a private host (privatehost.py) leaves in the system: finds it, and ends it.

A process is the host's if its command line or its environment names a file below the host's runtime folder: a path
that nothing else uses. This also finds what a host left that was killed.
"""

import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

NET = ("bgr-", "banger")


def processes(runtime: Path) -> dict[int, str]:
    """Pid and command line of every process that belongs to the host at `runtime`, except this one's ancestors."""
    mark = f"{runtime}/".encode()
    root = Path("/").stat()
    spared = ancestors()
    found: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid in spared:
            continue
        try:
            command = (folder / "cmdline").read_bytes()
            if mark not in command + b"\0" + (folder / "environ").read_bytes():
                continue
            if not os.path.samestat((folder / "root").stat(), root):
                continue  # the same path in another chroot
        except OSError:  # it ended meanwhile, or is a zombie
            continue
        found[pid] = command.replace(b"\0", b" ").decode("utf-8", "replace").strip()[:200]
    return found


def ancestors() -> frozenset[int]:
    """This process and those that started it."""
    found = {os.getpid()}
    pid = os.getppid()
    while pid > 1 and pid not in found:
        found.add(pid)
        try:
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
    return frozenset(found)


def end(pids: Iterable[int], how: signal.Signals = signal.SIGKILL, timeout_s: float = 5.0) -> list[int]:
    """Signal each process and wait for its end. Returns those that are still there after `timeout_s`."""
    watched: dict[int, int] = {}
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        watched[pidfd] = pid
        signal.pidfd_send_signal(pidfd, how)
    deadline = time.monotonic() + timeout_s
    poll = select.poll()
    for pidfd in watched:
        poll.register(pidfd, select.POLLIN)
    while watched and (left := deadline - time.monotonic()) > 0:
        for pidfd, _ in poll.poll(left * 1000):
            poll.unregister(pidfd)
            os.close(pidfd)
            del watched[pidfd]
    for pidfd in watched:
        os.close(pidfd)
    return list(watched.values())


def _output(argv: Sequence[str]) -> str:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    if not shutil.which(argv[0], path=path):
        return ""
    env = {"PATH": path, "LC_ALL": "C.UTF-8"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10, env=env).stdout


def links(within: Sequence[str] = ()) -> list[str]:
    """banger's bridge and taps in a network namespace; `within` is the command prefix that enters it."""
    lines = _output([*within, "ip", "-o", "link"]).splitlines()
    names = [line.split(": ")[1].partition("@")[0] for line in lines]
    return [name for name in names if name.startswith(NET)]


def tables(within: Sequence[str] = ()) -> list[str]:
    """banger's nft tables there, as "inet banger"."""
    lines = _output([*within, "nft", "list", "tables"]).splitlines()
    return [line.removeprefix("table ") for line in lines if line.endswith(" banger")]


def clear_network(within: Sequence[str] = ()) -> None:
    """Remove banger's links and tables: for what a killed service left, when no service will run there again."""
    for table in tables(within):
        _output([*within, "nft", "delete", "table", *table.split()])
    for name in links(within):
        _output([*within, "ip", "link", "delete", name])
