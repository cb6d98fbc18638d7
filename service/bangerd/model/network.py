"""Addresses of VMs: the pool, who gets which, and whether the pool collides with what the host has."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Interface, IPv4Network, NetmaskValueError

from bangerd.model.errors import HostNotReady, InvalidSpec, LimitReached

BRIDGE = "banger0"
# Locally administered, and outside the 02:42 of VMs. Fixed: guests keep it in their ARP caches over a
# restart of the bridge, and a bridge without one takes the lowest of its ports'.
BRIDGE_MAC = "02:62:67:72:62:30"
TAP_PREFIX = "bgr-"
DEFAULT_SUBNET = "172.16.0.0/24"

# What may carry a private network: RFC 1918, RFC 6598 (shared), RFC 2544 (benchmarks).
_PRIVATE = tuple(
    IPv4Network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15")
)
_WIDEST, _NARROWEST = 16, 29
# Routes this wide are ways of saying "everything" (0.0.0.0/0, or VPNs' 0.0.0.0/1 and 128.0.0.0/1).
_EVERYTHING = 3
_NEXT_STEP = "set another `subnet` in /etc/banger/banger.toml"


@dataclass(frozen=True, slots=True)
class Pool:
    """The network of all VMs on this host. Its first address is the bridge's, the guests' gateway."""

    network: IPv4Network

    @property
    def gateway(self) -> str:
        return str(self.network.network_address + 1)

    @property
    def prefix(self) -> int:
        return self.network.prefixlen

    @property
    def size(self) -> int:
        """How many VMs fit."""
        return self.network.num_addresses - 3

    def addresses(self) -> Iterator[IPv4Address]:
        """All addresses for VMs, lowest first."""
        first = int(self.network.network_address) + 2
        return (IPv4Address(first + n) for n in range(self.size))

    def holds(self, address: str) -> bool:
        """Whether a VM can have this address."""
        try:
            number = int(IPv4Address(address)) - int(self.network.network_address)
        except AddressValueError:
            return False
        return 2 <= number < self.network.num_addresses - 1


@dataclass(frozen=True, slots=True)
class Lease:
    """An address that a VM has, or had when it ran last; `since` (unix time) is when it started or stopped."""

    address: str
    sid: str
    running: bool
    since: int = 0


@dataclass(frozen=True, slots=True)
class HostAddress:
    """An IPv4 address of the host."""

    interface: str
    address: IPv4Interface


@dataclass(frozen=True, slots=True)
class HostRoute:
    """An IPv4 route of the host, of whatever table; `kind` as `ip route` calls it."""

    destination: IPv4Network
    interface: str  # "" if it leads nowhere
    kind: str = "unicast"


def parse_subnet(text: str) -> Pool:
    """Return the pool that a configured `subnet` means. Raises InvalidSpec, naming the key and what would do."""
    shown = ascii(text[:80])
    try:
        network = IPv4Network(text)
    except (AddressValueError, NetmaskValueError):
        raise InvalidSpec(
            f"subnet = {shown} is no IPv4 network; write it like subnet = '{DEFAULT_SUBNET}'"
        ) from None
    except ValueError:  # bits are set behind the prefix
        fixed = IPv4Network(text, strict=False)
        raise InvalidSpec(f"subnet = {shown} is an address in a network; the network is '{fixed}'") from None
    if not _WIDEST <= network.prefixlen <= _NARROWEST:
        raise InvalidSpec(
            f"subnet = {shown} has room for {max(network.num_addresses - 3, 0)} VMs;"
            f" use a prefix between /{_WIDEST} and /{_NARROWEST}"
        )
    if not any(network.subnet_of(private) for private in _PRIVATE):
        raise InvalidSpec(
            f"subnet = {shown} is not private: guests could not reach the real owner of these addresses;"
            f" take a part of {', '.join(str(private) for private in _PRIVATE)}"
        )
    return Pool(network)


def lease(pool: Pool, sid: str, wanted: str, leases: Sequence[Lease]) -> str:
    """Choose the address with which VM `sid` starts.

    `wanted` is the one it had ("" if none): it is kept unless another running VM has it. Then comes the lowest
    that no VM has or had, then that of the VM which has been stopped for the longest time. Raises LimitReached
    when running VMs have all of them.
    """
    others = [other for other in leases if other.sid != sid and pool.holds(other.address)]
    running = {other.address for other in others if other.running}
    if pool.holds(wanted) and wanted not in running:
        return wanted
    known = {other.address for other in others}
    for address in pool.addresses():
        if str(address) not in known:
            return str(address)
    idle = [other for other in others if other.address not in running]
    if idle:
        return min(idle, key=lambda other: (other.since, IPv4Address(other.address))).address
    raise LimitReached(
        f"all {pool.size} addresses of {pool.network} belong to running VMs; stop one,"
        f" or {_NEXT_STEP} with room for more"
    )


def check_free(
    pool: Pool, addresses: Sequence[HostAddress], routes: Sequence[HostRoute], *, bridge: str = BRIDGE
) -> None:
    """Raise HostNotReady if the host uses a part of the pool, or reaches one, by other than banger's bridge.

    The sentence names the other user and a subnet that is free.
    """
    used = _used(addresses, routes, bridge)
    for network, what in used:
        if network.overlaps(pool.network):
            free = _free_subnet([taken for taken, _ in used])
            hint = f"{_NEXT_STEP}, subnet = '{free}' is free here" if free else _NEXT_STEP
            raise HostNotReady(f"the VMs' network {pool.network} overlaps {what}; {hint}")


def _used(
    addresses: Sequence[HostAddress], routes: Sequence[HostRoute], bridge: str
) -> list[tuple[IPv4Network, str]]:
    used = [
        (held.address.network, f"the address {held.address} of {held.interface}")
        for held in addresses
        if held.interface != bridge
    ]
    for route in routes:
        if route.interface == bridge or route.destination.prefixlen <= _EVERYTHING:
            continue
        # Local and broadcast routes repeat the addresses; a blackhole for all private networks is there
        # to be overridden by more specific ones.
        if route.kind == "unicast":
            used.append((route.destination, f"the route to {route.destination} through {route.interface}"))
    return used


def _free_subnet(used: Sequence[IPv4Network]) -> IPv4Network | None:
    candidates = (f"{prefix}.0/24" for prefix in _suggestions())
    networks = (IPv4Network(candidate) for candidate in candidates)
    return next((net for net in networks if not any(net.overlaps(other) for other in used)), None)


def _suggestions() -> Iterator[str]:
    """Seldom used corners first: 172.16.0.0/12 from below, then 10.0.0.0/8 and 192.168.0.0/16 from above."""
    yield from (f"172.{second}.0" for second in range(16, 32))
    yield from (f"10.{second}.0" for second in range(213, 200, -1))
    yield from (f"192.168.{third}" for third in range(240, 200, -1))
