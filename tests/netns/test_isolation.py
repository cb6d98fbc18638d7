"""What a hostile guest may send, and whom it can reach: only frames of its own, and nobody beside the internet."""

import errno
import socket
import struct
from collections.abc import Callable

import pytest
from tests.netns import lab
from tests.netns.lab import GATEWAY, HOST, SERVER, Guest, Netns, arp, ether, ipv4, make_vm, udp

from bangerd.host.network import HostNetwork
from bangerd.model.network import BRIDGE, BRIDGE_MAC
from bangerd.model.ruleset import MOST_FLOWS
from bangerd.model.vm import VM

Boot = Callable[[VM], Guest]
BROADCAST = "ff:ff:ff:ff:ff:ff"
ONE, TWO = make_vm(1, owner=1000), make_vm(2, owner=1001)


@pytest.fixture
async def pair(network: HostNetwork, boot: Boot) -> tuple[Guest, Guest]:
    """Guests of two users, who try to reach one another through the host."""
    for vm in (ONE, TWO):
        await network.ensure_tap(vm)
    await network.apply([ONE, TWO])
    one, two = boot(ONE), boot(TWO)
    for guest, peer in ((one, TWO), (two, ONE)):
        with guest.ns:
            lab.ip(f"route add {peer.address} via {GATEWAY}\n")
        guest.seen.clear()
    return one, two


def datagram(source: str = ONE.address, destination: str = SERVER) -> bytes:
    return ipv4(source, destination, 17, udp(4000, 9, b"hostile"))


IPV6_TO_ALL_NODES = (
    struct.pack(">IHBB", 6 << 28, 8, 58, 255)
    + socket.inet_pton(socket.AF_INET6, "fe80::1")
    + socket.inet_pton(socket.AF_INET6, "ff02::1")
    + b"\x80\0\0\0\0\0\0\0"
)
HOSTILE = {
    "another guest's address": ether(BRIDGE_MAC, ONE.mac, 0x0800, datagram(source=TWO.address)),
    "an address of nobody": ether(BRIDGE_MAC, ONE.mac, 0x0800, datagram(source="172.16.0.99")),
    "the host's address": ether(BRIDGE_MAC, ONE.mac, 0x0800, datagram(source=HOST)),
    "no address (DHCP)": ether(BROADCAST, ONE.mac, 0x0800, datagram("0.0.0.0", "255.255.255.255")),
    "another guest's MAC": ether(BRIDGE_MAC, TWO.mac, 0x0800, datagram()),
    "another guest's MAC and address": ether(BRIDGE_MAC, TWO.mac, 0x0800, datagram(source=TWO.address)),
    "the bridge's MAC": ether(BRIDGE_MAC, BRIDGE_MAC, 0x0800, datagram()),
    "to another guest's MAC": ether(TWO.mac, ONE.mac, 0x0800, datagram(destination=TWO.address)),
    "broadcast IP": ether(BROADCAST, ONE.mac, 0x0800, datagram(destination="172.16.0.255")),
    "multicast IP": ether("01:00:5e:00:00:fb", ONE.mac, 0x0800, datagram(destination="224.0.0.251")),
    "ARP: I am the gateway": ether(BROADCAST, ONE.mac, 0x0806, arp(2, ONE.mac, GATEWAY, GATEWAY)),
    "ARP: I am another guest": ether(BROADCAST, ONE.mac, 0x0806, arp(1, ONE.mac, TWO.address, GATEWAY)),
    "ARP: my address is at another's MAC": ether(BROADCAST, ONE.mac, 0x0806, arp(2, TWO.mac, ONE.address, GATEWAY)),
    "ARP from another's MAC": ether(BROADCAST, TWO.mac, 0x0806, arp(2, ONE.mac, ONE.address, GATEWAY)),
    "ARP to another guest": ether(TWO.mac, ONE.mac, 0x0806, arp(1, ONE.mac, ONE.address, TWO.address)),
    "IPv6": ether(BRIDGE_MAC, ONE.mac, 0x86DD, IPV6_TO_ALL_NODES),
    "IPv6 multicast": ether("33:33:00:00:00:01", ONE.mac, 0x86DD, IPV6_TO_ALL_NODES),
    "802.1Q": ether(BRIDGE_MAC, ONE.mac, 0x8100, struct.pack(">HH", 5, 0x0800) + datagram()),
    "802.1ad": ether(BRIDGE_MAC, ONE.mac, 0x88A8, struct.pack(">HH", 5, 0x0800) + datagram()),
    "priority tag": ether(BRIDGE_MAC, ONE.mac, 0x8100, struct.pack(">HH", 0, 0x0800) + datagram(source=HOST)),
    "unknown protocol": ether(BRIDGE_MAC, ONE.mac, 0x88B5, b"x" * 50),
    "802.3 with SNAP": ether(BRIDGE_MAC, ONE.mac, 60, b"\xaa\xaa\x03\0\0\0\x08\0" + datagram()),
    "spanning tree": ether("01:80:c2:00:00:00", ONE.mac, 38, b"\x42\x42\x03" + bytes(35)),
    "pause": ether("01:80:c2:00:00:01", ONE.mac, 0x8808, bytes(46)),
    "a header and no more": ether(BRIDGE_MAC, ONE.mac, 0x0800, b""),
    "half an IP header": ether(BRIDGE_MAC, ONE.mac, 0x0800, datagram()[:10]),
}  # fmt: skip


def from_guests(capture: socket.socket, last: bytes) -> list[bytes]:
    """Frames of guests that the bridge hands to the host, up to the one that ends with `last`."""
    frames: list[bytes] = []
    while not (frame := capture.recv(2000)).endswith(last):
        if frame[6:12] in {lab.mac(ONE.mac), lab.mac(TWO.mac)}:
            frames.append(frame)
    return frames


async def test_hostile_frames_do_not_reach_the_host(pair: tuple[Guest, Guest]) -> None:
    guest, other = pair
    passed = []
    with lab.capture(BRIDGE) as capture:
        for name, frame in HOSTILE.items():
            guest.send(frame)
            guest.send_udp(SERVER, 9, b"a true one")
            if from_guests(capture, b"a true one"):
                passed.append(name)
    assert passed == []
    assert other.seen == []


async def test_the_frames_are_hostile_indeed(pair: tuple[Guest, Guest]) -> None:
    """Without the bridge's rules, spoofed frames do pass: the test above tests these rules."""
    guest, _ = pair
    lab.run("nft", "delete", "table", "bridge", "banger")
    with lab.capture(BRIDGE) as capture:
        for name in ("another guest's address", "another guest's MAC", "ARP: I am another guest", "IPv6"):
            guest.send(HOSTILE[name])
            while (frame := capture.recv(2000))[6:12] == lab.mac(BRIDGE_MAC):
                pass  # the host's own
            assert frame == HOSTILE[name]


async def test_group_addresses_are_no_way_past_the_bridge(host: Netns, pair: tuple[Guest, Guest]) -> None:
    """Frames to 01:80:c2:00:00:0x may be handed to the host as received on the tap, with any source address."""
    guest, _ = pair
    lab.run("sysctl", "-qw", f"net.ipv4.conf.{ONE.tap}.rp_filter=0", "net.ipv4.conf.all.rp_filter=0")
    with host.udp(GATEWAY, 9999, timeout=0.05) as service:
        for last in range(16):
            group = f"01:80:c2:00:00:{last:02x}"
            guest.send_udp(GATEWAY, 9999, b"hostile", source=TWO.address, to_mac=group)
            guest.send_udp(GATEWAY, 9999, b"hostile", to_mac=group)
        assert guest.ns.ping(GATEWAY)  # what was sent before has been dealt with
        with pytest.raises(TimeoutError):
            service.recv(100)


async def test_group_addresses_would_be_a_way(host: Netns, pair: tuple[Guest, Guest]) -> None:
    guest, _ = pair
    lab.run("sysctl", "-qw", f"net.ipv4.conf.{ONE.tap}.rp_filter=0", "net.ipv4.conf.all.rp_filter=0")
    lab.run("nft", "delete", "table", "inet", "banger")
    with host.udp(GATEWAY, 9999) as service:
        guest.send_udp(GATEWAY, 9999, b"hostile", source=TWO.address, to_mac="01:80:c2:00:00:0e")
        assert service.recv(100) == b"hostile"


async def test_guests_of_two_users_do_not_reach_one_another(pair: tuple[Guest, Guest]) -> None:
    one, two = pair
    with two.ns.tcp_server(TWO.address, 22), pytest.raises(OSError):
        one.ns.connect(TWO.address, 22, timeout=0.3)
    assert not one.ns.ping(TWO.address, timeout=0.3)
    assert two.seen == []


async def test_nor_when_another_tool_flushed_all_rules(pair: tuple[Guest, Guest]) -> None:
    one, two = pair
    two.ns.ping(GATEWAY)
    lab.run("nft", "flush", "ruleset")
    # Through the bridge, by the other's MAC, and by asking for it.
    one.send(ether(TWO.mac, ONE.mac, 0x0800, datagram(destination=TWO.address)))
    one.send(ether(BROADCAST, ONE.mac, 0x0806, arp(1, ONE.mac, ONE.address, TWO.address)))
    one.send(ether(BROADCAST, ONE.mac, 0x0800, datagram(destination="172.16.0.255")))
    # Through the host as a router.
    assert not one.ns.ping(TWO.address, timeout=0.3)
    one.send_udp(TWO.address, 9, b"hostile")
    assert one.ns.ping(GATEWAY)
    assert two.ns.ping(GATEWAY)
    assert not [frame for frame in two.seen if lab.mac(ONE.mac) in frame[:14] or b"hostile" in frame]


async def test_what_keeps_them_apart_then(pair: tuple[Guest, Guest]) -> None:
    """The policy rule against routing, and the isolation of ports against bridging: each is needed."""
    one, two = pair
    lab.run("nft", "flush", "ruleset")
    lab.run("ip", "rule", "del", "pref", "100")
    assert one.ns.ping(TWO.address)
    lab.run("ip", "rule", "add", "pref", "100", "dev", BRIDGE, "to", "172.16.0.0/24", "prohibit")
    assert not one.ns.ping(TWO.address, timeout=0.3)
    for vm in (ONE, TWO):
        lab.run("ip", "link", "set", vm.tap, "type", "bridge_slave", "isolated", "off")
    two.seen.clear()
    one.send(ether(TWO.mac, ONE.mac, 0x0800, datagram(destination=TWO.address)))
    assert two.ns.ping(GATEWAY)
    assert [frame for frame in two.seen if b"hostile" in frame]


async def test_guest_reaches_nothing_of_the_host(host: Netns, pair: tuple[Guest, Guest]) -> None:
    guest, _ = pair
    assert guest.ns.ping(GATEWAY)
    assert not guest.ns.ping(HOST, timeout=0.3)
    for address in (GATEWAY, HOST):
        with host.tcp_server(address, 22), pytest.raises(OSError) as refused:
            guest.ns.connect(address, 22)
        assert refused.value.errno == errno.EHOSTUNREACH  # told at once
        with host.udp(address, 53, timeout=0.05) as service, guest.ns.udp() as client:
            client.sendto(b"question", (address, 53))
            assert guest.ns.ping(GATEWAY)
            with pytest.raises(TimeoutError):
                service.recv(100)


async def test_the_bridge_itself_is_strict(internet: Netns, pair: tuple[Guest, Guest]) -> None:
    """What the kernel sees to, also while the rules are gone."""
    guest, _ = pair
    for interface in (BRIDGE, ONE.tap):
        assert lab.run("ip", "-6", "addr", "show", "dev", interface) == ""
    lab.run("nft", "flush", "ruleset")
    with internet, lab.capture("eth0") as outside:
        guest.send_udp(SERVER, 9, b"hostile", source="203.0.113.9")
        guest.send_udp(SERVER, 9, b"a true one")
        while not (frame := outside.recv(2000)).endswith(b"a true one"):
            assert b"hostile" not in frame
    guest.seen.clear()
    for target in (HOST, "127.0.0.1", GATEWAY):
        guest.send(ether(BROADCAST, ONE.mac, 0x0806, arp(1, ONE.mac, ONE.address, target)))

    def answers() -> list[bytes]:  # the host may ask for the guest's own address meanwhile
        return [frame for frame in guest.seen if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\2"]

    lab.until(lambda: bool(answers()), "an answer")
    (answer,) = answers()  # to the last alone
    assert answer[28:32] == bytes([172, 16, 0, 1])


async def test_metadata_services_are_out_of_reach(
    host: Netns, internet: Netns, pair: tuple[Guest, Guest]
) -> None:
    guest, _ = pair
    with internet.tcp_server(lab.METADATA, 80):
        host.connect(lab.METADATA, 80).close()  # the host itself reaches it
        with pytest.raises(OSError) as refused:
            guest.ns.connect(lab.METADATA, 80)
        assert refused.value.errno == errno.EHOSTUNREACH


async def test_vm_without_nat_gets_nowhere(network: HostNetwork, internet: Netns, boot: Boot) -> None:
    vm = make_vm(1, nat=False)
    await network.ensure_tap(vm)
    await network.apply([vm])
    guest = boot(vm)
    assert guest.ns.ping(GATEWAY)
    with internet.tcp_server(SERVER, 80), pytest.raises(OSError) as refused:
        guest.ns.connect(SERVER, 80)
    assert refused.value.errno == errno.EHOSTUNREACH


async def test_losing_nat_ends_connections(network: HostNetwork, internet: Netns, boot: Boot) -> None:
    vm = make_vm(1)
    await network.ensure_tap(vm)
    await network.apply([vm])
    guest = boot(vm)
    with internet.tcp_server(SERVER, 80) as server, guest.ns.connect(SERVER, 80) as client:
        server.settimeout(2)
        accepted, _ = server.accept()
        with accepted:
            await network.apply([make_vm(1, nat=False)])
            accepted.sendall(b"late")
            client.settimeout(0.3)
            with pytest.raises(TimeoutError):
                client.recv(100)
            await network.apply([vm])
            client.settimeout(2)
            assert client.recv(100) == b"late"  # TCP sends it again


async def test_only_the_owner_and_root_reach_a_guest_from_the_host(
    host: Netns, pair: tuple[Guest, Guest]
) -> None:
    guest, _ = pair
    with guest.ns.tcp_server(ONE.address, 22):
        host.connect(ONE.address, 22).close()
        with lab.as_user(ONE.owner_uid):
            host.connect(ONE.address, 22).close()
        for stranger in (TWO.owner_uid, 65534, ONE.uid):
            with lab.as_user(stranger), pytest.raises(OSError) as refused:
                host.connect(ONE.address, 22)
            assert refused.value.errno == errno.EHOSTUNREACH


async def test_the_owners_flow_is_no_way_for_another_user(host: Netns, pair: tuple[Guest, Guest]) -> None:
    guest, _ = pair
    with guest.ns.udp(ONE.address, 53) as server:
        with lab.as_user(ONE.owner_uid), host.udp(GATEWAY, 5000) as mine:
            mine.sendto(b"question", (ONE.address, 53))
            server.recvfrom(100)
            server.sendto(b"answer", (GATEWAY, 5000))
            assert mine.recv(100) == b"answer"
        with lab.as_user(TWO.owner_uid), host.udp(GATEWAY, 5000) as theirs, pytest.raises(OSError):
            theirs.sendto(b"hostile", (ONE.address, 53))
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.recv(100)


async def test_flows_of_the_last_holder_of_an_address_are_forgotten(
    network: HostNetwork, host: Netns, internet: Netns, boot: Boot
) -> None:
    first, second = make_vm(1, owner=1000), make_vm(2, owner=1001, address=make_vm(1).address)
    await network.ensure_tap(first)
    await network.apply([first])
    guest = boot(first)
    with internet.udp(SERVER, 53) as server, guest.ns.udp() as client:
        client.sendto(b"question", (SERVER, 53))
        _, source = server.recvfrom(100)
        await network.remove_tap(first.sid)
        await network.ensure_tap(second)
        await network.apply([second])
        heir = boot(second)
        server.sendto(b"for the first alone", source)
        assert heir.ns.ping(GATEWAY)
        assert not [frame for frame in heir.seen if b"for the first alone" in frame]


@pytest.mark.parametrize("kind", ["to the internet", "to the host"])
async def test_a_guest_cannot_fill_the_hosts_table_of_flows(pair: tuple[Guest, Guest], kind: str) -> None:
    hostile, other = pair
    for number in range(MOST_FLOWS + 2000):
        if kind == "to the internet":
            hostile.send_udp(SERVER, 1024 + number, b"x")
        else:
            ping = ipv4(ONE.address, GATEWAY, 1, lab.echo_request(number))
            hostile.send(ether(BRIDGE_MAC, ONE.mac, 0x0800, ping))
        if number % 200 == 0:
            hostile.ns.ping(GATEWAY, timeout=0.02)  # the tap's queue holds 1,000
    flows = int(lab.run("sysctl", "-n", "net.netfilter.nf_conntrack_count"))
    assert MOST_FLOWS / 2 < flows < MOST_FLOWS + 500
    assert other.ns.ping(SERVER)
