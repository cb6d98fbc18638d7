"""Hands a user's descriptor on to a worker. The service itself never reads from it, nor asks what it is: behind it
may be a file system of the user's own, which answers when it likes."""

import asyncio
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bangerd.host import tree
from bangerd.host.worker import Job

log = logging.getLogger(__name__)

NAME = "handover"


@asynccontextmanager
async def handing_over(job: Job, source: int) -> AsyncIterator[None]:
    """Meanwhile the first to connect to NAME in the job's code folder, with the worker's ids, gets `source`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
        folder = tree.open_folder(job.code)
        try:
            # By descriptor: the whole path may be too long for a socket's.
            listener.bind(f"/proc/self/fd/{folder}/{NAME}")
            os.chown(NAME, job.base, job.base, dir_fd=folder, follow_symlinks=False)
        finally:
            os.close(folder)
        listener.listen(1)
        task = asyncio.create_task(_hand_over(listener, job.base, source))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})


async def _hand_over(listener: socket.socket, uid: int, source: int) -> None:
    loop = asyncio.get_running_loop()
    while True:
        channel, _ = await loop.sock_accept(listener)
        with channel:
            if _uid_of(channel) == uid:
                socket.send_fds(channel, [b"f"], [source])
                return
            log.warning("a stranger came for a worker's descriptor")


def _uid_of(channel: socket.socket) -> int:
    peer = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", peer)[1])
