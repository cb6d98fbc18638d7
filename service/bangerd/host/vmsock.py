"""Connecting to a socket in a VM's folder, which a VMM that was broken into may have tampered with."""

import errno
import os
import socket
import stat
import struct
from contextlib import ExitStack
from pathlib import Path


def dial(path: Path, uid: int) -> socket.socket:
    """A non-blocking connected stream socket whose peer carries `uid`.

    No link is followed, the connection goes through the descriptor that was looked at, and nothing was sent yet.
    Raises OSError; PermissionError when the socket is not the VM's own. A full backlog is EAGAIN at once.
    """
    found = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(found).st_mode):
            raise _tampered(f"{path.name} is no socket")
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        with ExitStack() as undo:
            undo.callback(sock.close)
            sock.connect(f"/proc/self/fd/{found}")
            _check_peer(sock, path, uid)
            undo.pop_all()
    finally:
        os.close(found)
    return sock


def _check_peer(sock: socket.socket, path: Path, uid: int) -> None:
    _pid, peer, _gid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    if peer != uid:
        raise _tampered(f"{path.name} belongs to uid {peer}")


def _tampered(what: str) -> PermissionError:
    return PermissionError(errno.EPERM, f"{what}: the VMM may have been broken into")
