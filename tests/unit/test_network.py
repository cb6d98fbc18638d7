"""Pools, leases and collisions: tables."""

from ipaddress import IPv4Interface, IPv4Network

import pytest

from bangerd.model.errors import HostNotReady, InvalidSpec, LimitReached
from bangerd.model.network import HostAddress, HostRoute, Lease, check_free, lease, parse_subnet

POOL = parse_subnet("172.16.0.0/24")
TINY = parse_subnet("10.0.0.0/29")  # five VMs: .2 to .6


@pytest.mark.parametrize(
    ("text", "gateway", "size"),
    [
        ("172.16.0.0/24", "172.16.0.1", 253),
        ("10.20.0.0/16", "10.20.0.1", 65533),
        ("192.168.240.8/29", "192.168.240.9", 5),
        ("100.64.0.0/22", "100.64.0.1", 1021),
    ],
)
def test_pool(text: str, gateway: str, size: int) -> None:
    pool = parse_subnet(text)
    assert (pool.gateway, pool.size, pool.prefix) == (gateway, size, pool.network.prefixlen)
    addresses = [str(address) for address in pool.addresses()]
    assert len(addresses) == size
    assert all(pool.holds(address) for address in addresses)
    for outside in (
        pool.gateway,
        str(pool.network[0]),
        str(pool.network[-1]),
        "8.8.8.8",
        "",
        "nonsense",
        "::1",
    ):
        assert not pool.holds(outside)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no IPv4 network; write it like subnet = '172.16.0.0/24'"),
        ("fd00::/64", "is no IPv4 network"),
        ("172.16.0.0/33", "is no IPv4 network"),
        ("172.16.0.0/24; drop", "is no IPv4 network"),
        ("172.16.0.0\n/24", r"'172.16.0.0\n/24' is no IPv4 network"),
        ("172.16.0.1/24", "is an address in a network; the network is '172.16.0.0/24'"),
        ("10.0.0.0/8", "use a prefix between /16 and /29"),
        ("172.16.0.0/30", "has room for 1 VMs; use a prefix between /16 and /29"),
        ("172.16.0.1", "has room for 0 VMs"),
        ("8.8.8.0/24", "is not private"),
        ("127.0.0.0/24", "is not private"),
        ("169.254.0.0/24", "is not private"),
        ("224.0.0.0/24", "is not private"),
        ("172.32.0.0/24", "is not private"),
    ],
)
def test_bad_subnet_is_named_with_what_would_do(text: str, said: str) -> None:
    with pytest.raises(InvalidSpec) as raised:
        parse_subnet(text)
    assert said in str(raised.value)
    assert str(raised.value).startswith("subnet = ")


def test_long_nonsense_is_cut() -> None:
    with pytest.raises(InvalidSpec) as raised:
        parse_subnet("x" * 1_000_000)
    assert len(str(raised.value)) < 300


def run(*last: int) -> list[Lease]:
    return [Lease(f"10.0.0.{n}", f"run{n}", running=True) for n in last]


def idle(**since: int) -> list[Lease]:
    return [Lease(f"10.0.0.{n[1:]}", f"idle{n}", running=False, since=when) for n, when in since.items()]


@pytest.mark.parametrize(
    ("wanted", "leases", "got"),
    [
        ("", [], "10.0.0.2"),
        ("10.0.0.5", [], "10.0.0.5"),  # kept
        ("10.0.0.5", run(5), "10.0.0.2"),  # another runs with it
        ("10.0.0.5", idle(_5=1), "10.0.0.5"),  # another had it last: who starts first has it
        ("", run(2, 3), "10.0.0.4"),
        ("", run(2, 4), "10.0.0.3"),  # the lowest free
        ("", idle(_2=1, _3=1), "10.0.0.4"),  # stopped VMs keep theirs while there are others
        ("", run(2, 3) + idle(_4=30, _5=10, _6=20), "10.0.0.5"),  # the longest stopped
        ("", run(2, 3) + idle(_6=10, _5=10, _4=10), "10.0.0.4"),  # the same for the same question
        ("10.0.0.9", run(2), "10.0.0.3"),  # of another subnet, configured before
        ("172.16.0.2", [], "10.0.0.2"),
        ("10.0.0.1", [], "10.0.0.2"),  # the gateway's
        ("10.0.0.7", [], "10.0.0.2"),  # broadcast
        ("garbage", [], "10.0.0.2"),
        ("", [*run(2), Lease("172.16.0.9", "old", running=True)], "10.0.0.3"),
        ("", run(2) + idle(_2=1), "10.0.0.3"),
        ("10.0.0.4", [Lease("10.0.0.4", "me", running=True)], "10.0.0.4"),  # its own
        ("", [*run(2, 3, 4, 5), Lease("10.0.0.6", "me", running=False)], "10.0.0.6"),
    ],
)
def test_lease(wanted: str, leases: list[Lease], got: str) -> None:
    assert lease(TINY, "me", wanted, leases) == got
    assert lease(TINY, "me", wanted, leases[::-1]) == got


def test_full_pool() -> None:
    with pytest.raises(LimitReached) as raised:
        lease(TINY, "me", "10.0.0.3", run(2, 3, 4, 5, 6) + idle(_3=1))
    assert str(raised.value) == (
        "all 5 addresses of 10.0.0.0/29 belong to running VMs; stop one, or set another `subnet`"
        " in /etc/banger/banger.toml with room for more"
    )


def test_every_vm_of_a_full_pool_gets_its_own() -> None:
    leases: list[Lease] = []
    for number in range(POOL.size):
        leases.append(Lease(lease(POOL, f"{number}", "", leases), f"{number}", running=True))
    assert {one.address for one in leases} == {str(address) for address in POOL.addresses()}


def address(text: str, interface: str = "eth0") -> HostAddress:
    return HostAddress(interface, IPv4Interface(text))


def route(text: str, interface: str = "eth0", kind: str = "unicast") -> HostRoute:
    return HostRoute(IPv4Network(text), interface, kind)


@pytest.mark.parametrize(
    ("addresses", "routes"),
    [
        ([], []),
        ([address("192.0.2.2/24")], [route("0.0.0.0/0"), route("192.0.2.0/24")]),
        ([address("172.16.1.1/24")], [route("172.16.1.0/24")]),
        ([address("172.16.0.1/24", "banger0")], [route("172.16.0.0/24", "banger0")]),
        ([], [route("0.0.0.0/1", "tun0"), route("128.0.0.0/1", "tun0")]),  # a VPN that takes everything
        ([], [route("172.16.0.0/12", "", "other")]),  # private networks do not leak to the provider
        ([], [route("172.16.0.0/32", "eth0", "broadcast")]),
    ],
)
def test_no_collision(addresses: list[HostAddress], routes: list[HostRoute]) -> None:
    check_free(POOL, addresses, routes)


@pytest.mark.parametrize(
    ("addresses", "routes", "said"),
    [
        ([address("172.16.0.9/24")], [], "overlaps the address 172.16.0.9/24 of eth0; set another `subnet`"),
        ([address("172.16.0.1/32", "lo")], [], "overlaps the address 172.16.0.1/32 of lo"),
        ([address("172.20.0.1/12")], [], "overlaps the address 172.20.0.1/12 of eth0"),
        ([], [route("172.16.0.0/24", "br-1")], "overlaps the route to 172.16.0.0/24 through br-1"),
        ([], [route("172.16.0.64/26", "tun0")], "overlaps the route to 172.16.0.64/26 through tun0"),
        ([], [route("172.16.0.0/12", "tun0")], "subnet = '10.213.0.0/24' is free here"),
        ([address("172.16.0.9/24")], [], "subnet = '172.17.0.0/24' is free here"),
        (
            [address("172.16.0.9/24"), address("172.17.0.1/16", "docker0")],
            [],
            "subnet = '172.18.0.0/24' is free",
        ),
        (
            [],
            [route("172.16.0.0/12", "a"), route("10.0.0.0/8", "b"), route("192.168.0.0/16", "c")],
            "through a; set another `subnet` in /etc/banger/banger.toml",
        ),
    ],
)
def test_collision(addresses: list[HostAddress], routes: list[HostRoute], said: str) -> None:
    with pytest.raises(HostNotReady) as raised:
        check_free(POOL, addresses, routes)
    assert said in str(raised.value)
