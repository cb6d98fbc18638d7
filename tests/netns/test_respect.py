"""What the host and other programs have stays theirs, and all that banger changed is undone."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.netns import lab
from tests.netns.conftest import difference, state
from tests.netns.lab import HOST, ROUTER, SERVER, Guest, Netns, make_vm

from bangerd.host import process, resolvers, tun
from bangerd.host.network import HostNetwork
from bangerd.model.errors import HostNotReady, StepFailed
from bangerd.model.network import BRIDGE, DEFAULT_SUBNET
from bangerd.model.vm import VM

Boot = Callable[[VM], Guest]
CONTAINER = "10.9.0.2"


async def up(network: HostNetwork, *vms: VM) -> None:
    for vm in vms:
        await network.ensure_tap(vm)
    await network.apply(vms)


async def down(network: HostNetwork, *vms: VM) -> None:
    for vm in vms:
        await network.remove_tap(vm.sid)
    await network.apply([])


def forwarding(interface: str) -> bool:
    return Path(f"/proc/sys/net/ipv4/conf/{interface}/forwarding").read_text().strip() == "1"


def set_forwarding(interface: str, value: int) -> None:
    Path(f"/proc/sys/net/ipv4/conf/{interface}/forwarding").write_text(str(value))


@pytest.fixture
def container(host: Netns) -> Iterator[Netns]:
    """A container of another program, on a bridge of its own, with rules of its own."""
    ns = Netns()
    lab.ip(
        "link add name ctr0 type bridge\naddr add 10.9.0.1/24 dev ctr0\nlink set ctr0 up\n"
        f"link add name veth0 type veth peer name eth0 netns {ns.path}\nlink set veth0 master ctr0 up\n"
    )
    with ns:
        lab.ip(f"addr add {CONTAINER}/24 dev eth0\nlink set eth0 up\nroute add default via 10.9.0.1\n")
    lab.run("nft", "-f", "-", given="""
        table ip nat {
          chain pre { type nat hook prerouting priority dstnat; iifname eth0 tcp dport 8080 dnat to 10.9.0.2:80; }
          chain post { type nat hook postrouting priority srcnat; ip saddr 10.9.0.0/24 oifname eth0 masquerade; }
        }
        table inet filter {
          set seen { type ipv4_addr; elements = { 10.1.1.1 } }
          chain in { type filter hook input priority 0; policy accept; tcp dport 4444 drop; }
        }""")  # fmt: skip
    lab.until(lambda: ns.ping("10.9.0.1", timeout=0.1), "the container's link")
    yield ns
    ns.close()


async def test_all_is_as_before_after_the_last_vm(
    network: HostNetwork, container: Netns, tmp_path: Path
) -> None:
    before = state()
    vms = [make_vm(1), make_vm(2)]
    await up(network, *vms)
    during = state()
    assert before["addresses"] != during["addresses"]
    for table in ("table ip nat {", "table inet filter {"):
        assert rules_of(before, table) == rules_of(during, table)
    assert "'ctr0'" in during["links"]
    assert forwarding("eth0")
    assert forwarding(BRIDGE)
    assert not forwarding("all")
    assert not forwarding("default")
    assert not forwarding("ctr0")
    await down(network, *vms)
    assert not difference(before, state())
    assert list(tmp_path.iterdir()) == []


def rules_of(found: dict[str, str], table: str) -> str:
    _, start, rest = found["nft"].partition(table)
    return start + rest.partition("\n}")[0]


async def test_forwarding_that_was_on_stays_on(network: HostNetwork) -> None:
    set_forwarding("eth0", 1)
    before = state()
    await up(network, make_vm(1))
    await down(network, make_vm(1))
    assert forwarding("eth0")
    assert not difference(before, state())


async def test_a_router_stays_a_router(network: HostNetwork, container: Netns, internet: Netns) -> None:
    """Where the admin has switched forwarding on for all, banger neither guards nor resets anything."""
    set_forwarding("all", 1)
    with internet:
        lab.ip(f"route add 10.9.0.0/24 via {HOST}\n")
    assert internet.ping(CONTAINER)
    before = state()
    await up(network, make_vm(1))
    assert internet.ping(CONTAINER)
    await down(network, make_vm(1))
    assert not difference(before, state())


async def test_the_host_does_not_become_a_router(
    network: HostNetwork, container: Netns, internet: Netns
) -> None:
    with internet:
        lab.ip(f"route add 10.9.0.0/24 via {HOST}\n")
    set_forwarding("ctr0", 1)
    await up(network, make_vm(1))
    assert forwarding("eth0")
    assert not internet.ping(CONTAINER, timeout=0.3)
    lab.run("nft", "flush", "chain", "inet", "banger", "guard")
    assert internet.ping(CONTAINER)  # so that was what kept it out


async def test_another_program_that_needs_forwarding_gets_it(
    network: HostNetwork, container: Netns, internet: Netns
) -> None:
    """Docker starts after banger: it sets the global switch, and publishes a port by DNAT."""
    with container.tcp_server(CONTAINER, 80):
        await up(network, make_vm(1))
        set_forwarding("all", 1)
        internet.connect(HOST, 8080).close()
        with internet:
            lab.ip(f"route add 10.9.0.0/24 via {HOST}\n")
        async with asyncio.timeout(5):
            while not internet.ping(CONTAINER, timeout=0.1):
                await asyncio.sleep(0.01)  # the service hears of the switch
        await down(network, make_vm(1))
        assert forwarding("eth0")
        internet.connect(HOST, 8080).close()


async def test_replies_to_containers_pass_the_guard(network: HostNetwork, container: Netns) -> None:
    set_forwarding("ctr0", 1)
    await up(network, make_vm(1))
    assert container.ping(SERVER)


async def test_guests_do_not_reach_containers(network: HostNetwork, container: Netns, boot: Boot) -> None:
    set_forwarding("all", 1)
    vm = make_vm(1)
    await up(network, vm)
    guest = boot(vm)
    assert guest.ns.ping(SERVER)
    assert not guest.ns.ping(CONTAINER, timeout=0.3)
    assert not container.ping(vm.address, timeout=0.3)
    with container.udp(CONTAINER, 53, timeout=0.1) as service:
        guest.send_udp(CONTAINER, 53, b"hostile")
        assert guest.ns.ping(SERVER)
        with pytest.raises(TimeoutError):
            service.recv(100)


async def test_works_with_and_without_bridge_netfilter(
    network: HostNetwork, boot: Boot, host: Netns
) -> None:
    """With br_netfilter, frames that cross a bridge meet the rules of inet tables too."""
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    vm = make_vm(1)
    await up(network, vm)
    guest = boot(vm)
    for value in "01" if switch.exists() else "":
        switch.write_text(value)
        assert guest.ns.ping(SERVER)
        assert guest.ns.ping(lab.GATEWAY)
        with guest.ns.tcp_server(vm.address, 22):
            host.connect(vm.address, 22).close()


async def test_bridged_uplink_keeps_bridging(
    network: HostNetwork, host: Netns, internet: Netns, boot: Boot
) -> None:
    """A host whose uplink is a bridge with other machines on it: their frames may meet the forward hook."""
    neighbour = Netns()
    lab.ip(
        "link add name br0 type bridge\nlink set br0 up\naddr flush dev eth0\nlink set eth0 master br0\n"
        f"addr add {HOST}/24 dev br0\nroute add default via {ROUTER}\n"
        f"link add name veth0 type veth peer name eth0 netns {neighbour.path}\nlink set veth0 master br0 up\n"
    )
    with neighbour:
        lab.ip(f"addr add 192.0.2.3/24 dev eth0\nlink set eth0 up\nroute add default via {ROUTER}\n")
    lab.until(lambda: neighbour.ping(ROUTER, timeout=0.1), "the neighbour's link")
    vm = make_vm(1)
    await up(network, vm)
    assert boot(vm).ns.ping(SERVER)
    assert neighbour.ping(SERVER)
    assert internet.ping("192.0.2.3")
    neighbour.close()


async def test_collision_is_refused_before_anything_is_touched(network: HostNetwork) -> None:
    lab.ip("link add name vpn0 type veth peer name vpn1\naddr add 172.16.0.77/16 dev vpn0\n")
    before = state()
    for step in (network.ensure_tap(make_vm(1)), network.apply([make_vm(1)])):
        with pytest.raises(HostNotReady) as refused:
            await step
        assert str(refused.value) == (
            "the VMs' network 172.16.0.0/24 overlaps the address 172.16.0.77/16 of vpn0; set another `subnet`"
            " in /etc/banger/banger.toml, subnet = '172.17.0.0/24' is free here"
        )
    assert refused.value.code == "HostNotReady"
    assert any("172.16.0.77" in problem for problem in await network.problems())
    await network.apply([])
    assert not difference(before, state())


async def test_a_colliding_route_is_refused(network: HostNetwork) -> None:
    lab.ip(f"route add 172.16.0.128/25 via {ROUTER} table 77\n")
    with pytest.raises(
        HostNotReady, match=r"overlaps the route to 172.16.0.128/25 through eth0; set another"
    ):
        await network.ensure_tap(make_vm(1))


async def test_an_interface_of_another_kind_with_the_bridges_name(network: HostNetwork) -> None:
    lab.ip(f"link add name {BRIDGE} type veth peer name other\n")
    with pytest.raises(StepFailed, match="is not banger's bridge"):
        await network.apply([make_vm(1)])


async def test_a_resolver_on_the_host_itself_is_not_for_guests(network: HostNetwork, tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(f"nameserver {HOST}\nnameserver {SERVER}\n")
    assert resolvers.read([path]) == (SERVER,)


async def test_what_the_host_lacks_is_told(network: HostNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tun, "DEVICE", Path("/dev/net/absent"))
    monkeypatch.setattr(process, "_ENV", {"PATH": "/nonexistent"})
    problems = await network.problems()
    assert "/dev/net/absent is missing; `modprobe tun` brings it" in problems
    assert any(problem.startswith("nft, of which all rules are made, does not work") for problem in problems)
    with pytest.raises(HostNotReady, match="modprobe tun"):
        await network.ensure_tap(make_vm(1))
    with pytest.raises(StepFailed, match="cannot run nft: not found"):
        await network.apply([make_vm(1)])
    monkeypatch.undo()
    await network.apply([])


async def test_no_uplink_is_no_error_and_heals(network: HostNetwork, boot: Boot) -> None:
    lab.ip("route del default\n")
    vm = make_vm(1)
    await up(network, vm)
    guest = boot(vm)
    assert any("no default IPv4 route" in problem for problem in await network.problems())
    assert not guest.ns.ping(SERVER, timeout=0.1)
    assert not forwarding("eth0")
    lab.ip(f"route add default via {ROUTER}\n")
    async with asyncio.timeout(5):
        while not guest.ns.ping(SERVER, timeout=0.1):
            await asyncio.sleep(0.01)


async def test_taps_belong_to_their_vms_user(network: HostNetwork) -> None:
    vm = make_vm(1)
    await up(network, vm)
    with lab.as_user(vm.uid + 1), pytest.raises(PermissionError):
        lab.open_tap(vm.tap)
    (link,) = json.loads(lab.run("ip", "-j", "-d", "link", "show", vm.tap))
    port = link["linkinfo"]["info_slave_data"]
    assert link["linkinfo"]["info_data"]["user"] in {str(vm.uid), vm.uid}
    assert (port["isolated"], port["learning"], port["flood"]) == (True, False, False)
    assert (port["mcast_flood"], port["bcast_flood"]) == (False, False)
    await network.ensure_tap(make_vm(1, uid=71500))  # the uid was leased anew
    with lab.as_user(vm.uid), pytest.raises(PermissionError):
        lab.open_tap(vm.tap)


async def test_config_names_the_uplinks(host: Netns, tmp_path: Path, boot: Boot, internet: Netns) -> None:
    lab.ip(
        f"link add name eth1 type veth peer name eth1 netns {internet.path}\n"
        "addr add 203.0.113.2/24 dev eth1\nlink set eth1 up\n"
    )
    with internet:
        lab.ip("addr add 203.0.113.1/24 dev eth1\nlink set eth1 up\n")
    network = HostNetwork(DEFAULT_SUBNET, tmp_path, uplinks=["eth1", "absent"])
    vm = make_vm(1)
    await up(network, vm)
    guest = boot(vm)
    assert guest.ns.ping("203.0.113.1")
    assert not guest.ns.ping(SERVER, timeout=0.1)
    assert not forwarding("eth0")
    await down(network, vm)
    await network.close()
