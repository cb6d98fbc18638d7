#!/usr/bin/python3
"""Stands in for the shim in tests of the supervisors: `shim_stand_in.py [--pid-fd N] [--ready-fd N] DEED …`."""

import json
import os
import signal
import socket
import sys
from pathlib import Path


def report() -> dict[str, object]:
    """What this process is and has, as tests want to see it."""
    umask = os.umask(0)
    return {
        "uid": os.getresuid(),
        "gid": os.getresgid(),
        "groups": sorted(os.getgroups()),
        "cwd": str(Path.cwd()),
        "umask": umask,
        "env": sorted(os.environ),
        "stdin": str(Path("/proc/self/fd/0").readlink()),
        "fds": sorted(int(link.name) for link in Path("/proc/self/fd").iterdir() if link.exists()),
        "session": os.getsid(0) == os.getpid(),
    }


def main() -> int:
    argv = sys.argv[1:]
    if argv[:1] == ["--pid-fd"]:
        started = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]
        os.write(int(argv[1]), f"{os.getpid()} {started}\n".encode())
        argv = argv[2:]
    if argv[:1] == ["--ready-fd"]:
        os.write(int(argv[1]), b"READY=1\n")
        os.close(int(argv[1]))
        argv = argv[2:]
    elif "NOTIFY_SOCKET" in os.environ:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", os.environ.pop("NOTIFY_SOCKET"))
    if argv[0] == "fork":  # a child that leaves the session, as something that wants to stay would
        argv = argv[1:]
        if os.fork() == 0:
            os.setsid()
            os.close(0)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            Path("child").write_text(str(os.getpid()))
            argv = []
    match argv:
        case ["exit", status]:
            return int(status)
        case ["report"]:
            Path("report.new").write_text(json.dumps(report()))
            Path("report.new").rename("report")
        case ["lifeline"]:
            return 0 if sys.stdin.buffer.read() == b"" else 9
        case ["exec", script]:  # in the VMM's place
            os.execv(sys.executable, [sys.executable, "-c", script])
        case _:
            pass
    signal.pause()
    return 0


sys.exit(main())
