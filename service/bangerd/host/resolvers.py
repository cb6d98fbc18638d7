"""The host's real DNS resolvers, as far as a guest behind NAT can use them."""

import socket
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address
from pathlib import Path

# The first that names a resolver which is no stub on the host itself.
FILES = (
    Path("/etc/resolv.conf"),
    Path("/run/systemd/resolve/resolv.conf"),
    Path("/run/NetworkManager/no-stub-resolv.conf"),
)
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
    return not _own(text)


def _own(address: str) -> bool:
    """Whether it is the host's own: then the kernel would use the same address as source. Sends nothing."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0)
            sock.connect((address, 53))
            return bool(sock.getsockname()[0] == address)
    except OSError:  # no route: perhaps later
        return False
