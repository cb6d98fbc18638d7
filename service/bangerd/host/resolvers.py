"""The host's real DNS resolvers, as far as a guest behind NAT can use them."""

import array
import fcntl
import socket
import struct
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

# The first that names a resolver which is no stub on the host itself.
FILES = (
    Path("/etc/resolv.conf"),
    Path("/run/systemd/resolve/resolv.conf"),
    Path("/run/NetworkManager/no-stub-resolv.conf"),
)
_SIOCGIFCONF, _IFREQ = 0x8912, 40
_MOST = 3  # as many as the C library asks


def read(files: Sequence[Path] = FILES) -> tuple[str, ...]:
    """Return up to three IPv4 addresses, () if there are none: guests have no IPv6, and reach no stub."""
    for path in files:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        found = tuple(dict.fromkeys(address for address in _nameservers(text) if _reachable(address)))
        if found:
            return found[:_MOST]
    return ()


def _nameservers(text: str) -> list[str]:
    words = (line.split() for line in text.splitlines())
    return [fields[1] for fields in words if len(fields) > 1 and fields[0] == "nameserver"]


def _reachable(text: str) -> bool:
    try:
        address = IPv4Address(text)
    except AddressValueError:  # IPv6
        return False
    if address.is_loopback or address.is_unspecified or address.is_multicast:
        return False
    return text not in _own_addresses()  # guests reach none of the host's services


def _own_addresses() -> set[str]:
    """The host's IPv4 addresses, by ioctl: any kind of socket does, and the service may have but few kinds."""
    found = array.array("B", bytes(_IFREQ * 1024))
    where, _ = found.buffer_info()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFCONF, struct.pack("iP", len(found), where))
    (length,) = struct.unpack_from("i", answer)
    # struct ifreq: 16 bytes of name, then struct sockaddr_in.
    starts = range(20, length, _IFREQ)
    return {socket.inet_ntoa(found[start : start + 4].tobytes()) for start in starts}
