"""One switch of network cards: large receive offload, with which a card's packets cannot be forwarded.

The kernel switches it off when forwarding is switched on through /proc/sys, but not when it is through netlink.
"""

import array
import fcntl
import socket
import struct

from bangerd.model.errors import StepFailed

# Any kind of socket takes this ioctl; the service may be confined to few kinds.
_SIOCETHTOOL = 0x8946
_GET_FLAGS, _SET_FLAGS = 0x25, 0x26
_LRO = 1 << 15


def lro(name: str) -> bool:
    """Whether it is on; False for interfaces that have no such thing, or are gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            return bool(_command(sock, name, _GET_FLAGS, 0) & _LRO)
        except OSError:
            return False


def set_lro(name: str, *, on: bool) -> None:
    """Set it; nothing if it is so already. Raises StepFailed."""
    if lro(name) == on:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        try:
            _command(sock, name, _SET_FLAGS, _command(sock, name, _GET_FLAGS, 0) ^ _LRO)
        except OSError as exc:
            raise StepFailed(f"cannot set large receive offload of {name}: {exc.strerror}") from exc


def _command(sock: socket.socket, name: str, command: int, data: int) -> int:
    """struct ethtool_value {command, data}, pointed to by struct ifreq {name, pointer}."""
    value = array.array("I", [command, data])
    address, _ = value.buffer_info()
    fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", name.encode(), address))
    return value[1]
