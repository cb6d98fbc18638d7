"""Taps are made by ioctl on /dev/net/tun; all else of them is netlink's."""

import fcntl
import os
import struct
from pathlib import Path

from bangerd.model.errors import HostNotReady

DEVICE = Path("/dev/net/tun")

_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x0002, 0x1000, 0x4000, 0x8000


def missing() -> str:
    """What is wrong if this host can make no taps, "" otherwise."""
    return "" if DEVICE.exists() else f"{DEVICE} is missing; `modprobe tun` brings it"


def create_tap(name: str, uid: int) -> None:
    """Make a tap that lasts and that this user may open. It must not exist. Raises HostNotReady, OSError."""
    if reason := missing():
        raise HostNotReady(reason)
    fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | _IFF_TUN_EXCL
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
        fcntl.ioctl(fd, _TUNSETOWNER, uid)
        fcntl.ioctl(fd, _TUNSETPERSIST, 1)
    finally:
        os.close(fd)
