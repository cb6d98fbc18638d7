"""Many VMs, repeated calls, crashes between any two steps, and other programs that tear things down."""

import asyncio
import itertools
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink.nlsocket import NetlinkRequest
from tests.netns import lab
from tests.netns.conftest import difference, state
from tests.netns.lab import GATEWAY, ROUTER, SERVER, Guest, Netns, make_vm
from tests.netns.test_respect import down, forwarding, up

from bangerd.host import netlink, nft, process, tun
from bangerd.host.network import HostNetwork
from bangerd.model.errors import StepFailed
from bangerd.model.network import BRIDGE, DEFAULT_SUBNET
from bangerd.model.vm import VM

Boot = Callable[[VM], Guest]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every ruleset that is loaded."""
    loaded: list[str] = []
    real = nft.load

    async def load(text: str) -> None:
        loaded.append(text)
        await real(text)

    monkeypatch.setattr(nft, "load", load)
    return loaded


async def until(met: Callable[[], bool], what: str) -> None:
    """Wait, with the loop running, for what the service does when it hears of something."""
    deadline = time.monotonic() + 10
    while not met():
        assert time.monotonic() < deadline, f"waited 10 s for {what}"
        await asyncio.sleep(0.005)


async def test_twice_changes_nothing(network: HostNetwork, tmp_path: Path, loads: list[str]) -> None:
    vms = [make_vm(1), make_vm(2, nat=False)]
    await up(network, *vms)
    first, indexes = state(), lab.run("ip", "-o", "link")
    await up(network, *vms)
    await network.apply(vms[::-1])
    assert len(loads) == 1
    again = HostNetwork(DEFAULT_SUBNET, tmp_path)  # the service restarts
    assert await again.list_sids() == {vm.sid for vm in vms}
    await up(again, *vms)
    assert not difference(first, state())
    assert lab.run("ip", "-o", "link") == indexes
    await network.close()
    await down(again, *vms)
    await down(again, *vms)
    await again.close()


async def test_no_packet_is_lost_while_rules_are_replaced(
    network: HostNetwork, internet: Netns, boot: Boot, loads: list[str]
) -> None:
    vm = make_vm(1)
    await up(network, vm)
    guest = boot(vm)
    answered = 0
    enough = threading.Event()

    def ask() -> None:
        nonlocal answered
        with internet.udp(SERVER, 7) as server, guest.ns.udp() as client:
            for number in itertools.count():
                if enough.is_set():
                    return
                client.sendto(b"%d" % number, (SERVER, 7))
                question, source = server.recvfrom(100)
                server.sendto(question, source)
                assert client.recv(100) == b"%d" % number
                answered += 1

    asking = asyncio.create_task(asyncio.to_thread(ask))
    try:
        for number in range(20):
            await network.apply([vm, make_vm(2 + number)])
    finally:
        enough.set()
    await asking
    assert len(loads) == 21
    assert answered > 100


async def test_a_hundred_vms_at_once(
    network: HostNetwork, loads: list[str], boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = state()
    rounds = 0
    real = netlink.set_neighbours

    async def counted(wanted: dict[str, str]) -> None:
        nonlocal rounds
        rounds += 1
        await real(wanted)

    monkeypatch.setattr(netlink, "set_neighbours", counted)
    vms = [make_vm(number) for number in range(1, 101)]
    begin = time.perf_counter()
    started: list[VM] = []

    async def start(vm: VM) -> None:
        started.append(vm)
        await network.ensure_tap(vm)
        await network.apply(started)

    await asyncio.gather(*(start(vm) for vm in vms))
    took = time.perf_counter() - begin
    assert await network.list_sids() == {vm.sid for vm in vms}
    assert len(loads) <= 3  # what waits while one is loaded becomes one
    assert rounds <= 5
    for vm in (vms[0], vms[57], vms[99]):
        assert boot(vm).ns.ping(SERVER)

    async def stop(vm: VM) -> None:
        started.remove(vm)
        await network.remove_tap(vm.sid)
        await network.apply(started)

    begin = time.perf_counter()
    await asyncio.gather(*(stop(vm) for vm in vms))
    print(f"100 VMs: {took:.2f} s up, {time.perf_counter() - begin:.2f} s down")
    assert await network.list_sids() == frozenset()
    assert not difference(before, state())


async def test_a_tap_is_down_until_it_has_its_rules(
    network: HostNetwork, monkeypatch: pytest.MonkeyPatch, boot: Boot
) -> None:
    async def fail(_text: str) -> None:
        raise StepFailed("nft is out of order")

    one, two = make_vm(1), make_vm(2)
    await up(network, one)
    with monkeypatch.context() as patch:
        patch.setattr(nft, "load", fail)
        await network.ensure_tap(two)
        with pytest.raises(StepFailed, match="out of order"):
            await network.apply([one, two])
    assert await network.list_sids() == {one.sid, two.sid}
    assert '"UP"' not in lab.run("ip", "-j", "link", "show", two.tap)
    await up(network, one, two)
    assert boot(two).ns.ping(SERVER)


async def test_a_stray_tap_passes_nothing(network: HostNetwork) -> None:
    one, stray = make_vm(1), make_vm(2)
    await up(network, one, stray)
    await network.apply([one])
    guest = Guest(stray)
    lab.until(lambda: "UP" in lab.run("ip", "-j", "link", "show", stray.tap), "its link")
    assert not guest.ns.ping(GATEWAY, timeout=0.3)
    await network.apply([one, stray])
    lab.until(lambda: guest.ns.ping(GATEWAY, timeout=0.1), "its rules")
    await network.apply([])  # both taps still there: closed, not open
    assert not guest.ns.ping(GATEWAY, timeout=0.3)
    guest.close()


class Dead(BaseException):
    """kill -9, as far as this process is concerned: from here on nothing reaches the kernel."""


class Reaper:
    """Lets `allowed` messages to the kernel and child processes pass, then kills."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.allowed = 1 << 30
        self.count = 0
        send, run = NetlinkRequest.send, process.run

        async def guarded_send(request: NetlinkRequest) -> Any:
            self._step()
            return await send(request)

        async def guarded_run(*args: Any, **kwargs: Any) -> Any:
            self._step()
            return await run(*args, **kwargs)

        patch.setattr(NetlinkRequest, "send", guarded_send)
        patch.setattr(process, "run", guarded_run)
        create = tun.create_tap

        def guarded_create(name: str, uid: int) -> None:
            self._step()
            create(name, uid)

        patch.setattr(tun, "create_tap", guarded_create)

    def _step(self) -> None:
        self.count += 1
        if self.count > self.allowed:
            raise Dead


def sound(vm: VM) -> bool:
    (link,) = json.loads(lab.run("ip", "-j", "-d", "link", "show", vm.tap))
    port = link["linkinfo"]["info_slave_data"]
    entries = lab.run("bridge", "fdb", "show", "br", BRIDGE, "dev", vm.tap)
    return (
        "UP" in link["flags"]
        and link["master"] == BRIDGE
        and (port["isolated"], port["learning"], port["flood"]) == (True, False, False)
        and f"{vm.mac} master {BRIDGE} static" in entries
    )


@pytest.mark.timeout(300)
async def test_crash_between_any_two_steps(
    host: Netns, tmp_path: Path, boot: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Start two VMs and stop both; die before each message to the kernel in turn; the next life puts all right."""
    vms = [make_vm(1), make_vm(2)]
    before = state()

    async def life(network: HostNetwork) -> None:
        await network.ensure_tap(vms[0])
        await network.apply(vms[:1])
        await network.ensure_tap(vms[1])
        await network.apply(vms)
        await network.remove_tap(vms[0].sid)
        await network.apply(vms[1:])
        await network.remove_tap(vms[1].sid)
        await network.apply([])

    reaper = Reaper(monkeypatch)
    point, alive = 0, False
    while not alive:
        reaper.count, reaper.allowed = 0, point
        network = HostNetwork(DEFAULT_SUBNET, tmp_path)
        try:
            await life(network)
            alive = True
        except Dead:
            pass
        await network.close()
        reaper.allowed = 1 << 30
        heir = HostNetwork(DEFAULT_SUBNET, tmp_path)
        if point % 10 == 0:  # by traffic: costly
            await up(heir, *vms)
            guest = Guest(vms[1])
            lab.until(lambda guest=guest: guest.ns.ping(SERVER, timeout=0.1), f"NAT after point {point}")
            assert not guest.ns.ping(vms[0].address, timeout=0.05)
            guest.close()
        elif point % 3:
            await up(heir, *vms)
            for vm in vms:
                assert sound(vm), f"died before step {point}"
        for sid in await heir.list_sids():
            await heir.remove_tap(sid)
        await heir.apply([])
        await heir.close()
        assert not difference(before, state()), f"died before step {point}"
        assert list(tmp_path.iterdir()) == [], f"died before step {point}"
        point += 1
    assert point > 40  # steps were counted


@pytest.mark.parametrize("crime", ["flush ruleset", "delete table inet banger", "flush table bridge banger"])
async def test_rules_that_another_program_removes_come_back(
    network: HostNetwork, boot: Boot, crime: str, caplog: pytest.LogCaptureFixture
) -> None:
    vm = make_vm(1)
    await up(network, vm)
    guest = boot(vm)
    rules = state()["nft"]
    caplog.set_level(logging.WARNING)
    lab.run("nft", *crime.split())
    await until(lambda: state()["nft"] == rules, "the rules")
    assert guest.ns.ping(SERVER)
    assert "another program removed banger's nft rules" in caplog.text


async def test_own_changes_wake_nobody(network: HostNetwork, loads: list[str], caplog: Any) -> None:
    caplog.set_level(logging.WARNING)
    for number in range(1, 5):
        await up(network, *(make_vm(n) for n in range(1, number + 1)))
        for _ in range(5):
            await asyncio.sleep(0.01)
    assert len(loads) == 4
    assert not caplog.text


async def test_a_removed_bridge_comes_back_under_running_guests(network: HostNetwork, boot: Boot) -> None:
    vms = [make_vm(1), make_vm(2)]
    await up(network, *vms)
    guests = [boot(vm) for vm in vms]
    before = state()
    lab.run("ip", "link", "del", BRIDGE)
    await until(lambda: not difference(before, state()), "the bridge")
    for guest in guests:
        lab.until(lambda guest=guest: guest.ns.ping(SERVER, timeout=0.1), "its link")
    assert not guests[0].ns.ping(vms[1].address, timeout=0.1)


@pytest.mark.parametrize(
    "crime",
    [
        "ip rule del pref 100",
        f"ip addr flush dev {BRIDGE}",
        "sysctl -qw net.ipv4.conf.all.forwarding=1 net.ipv4.conf.all.forwarding=0",
    ],
)
async def test_what_another_program_takes_away_comes_back(
    network: HostNetwork, boot: Boot, crime: str
) -> None:
    vm = make_vm(1)
    await up(network, vm)
    guest = boot(vm)
    before = state()
    lab.run(*crime.split())
    await until(lambda: not difference(before, state()), f"the end of `{crime}`")
    assert guest.ns.ping(SERVER)


async def test_guests_follow_the_hosts_way_out(network: HostNetwork, internet: Netns, boot: Boot) -> None:
    """A laptop goes from one network to another."""
    lab.ip(f"link add name wlan0 type veth peer name wlan0 netns {internet.path}\n")
    with internet:
        lab.ip("addr add 203.0.113.1/24 dev wlan0\nlink set wlan0 up\n")
    lab.ip("addr add 203.0.113.2/24 dev wlan0\nlink set wlan0 up\n")
    vm = make_vm(1)
    await up(network, vm)
    guest = boot(vm)
    assert guest.ns.ping(SERVER)
    lab.run("ip", "route", "replace", "default", "via", "203.0.113.1")
    await until(lambda: forwarding("wlan0") and not forwarding("eth0"), "the new way")
    assert guest.ns.ping(SERVER)
    lab.run("ip", "link", "set", "wlan0", "down")
    lab.run("ip", "route", "replace", "default", "via", ROUTER)
    await until(lambda: forwarding("eth0") and not forwarding("wlan0"), "the old way")
    assert guest.ns.ping(SERVER)


async def test_a_fight_does_not_take_the_host_over(
    network: HostNetwork, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, loads: list[str]
) -> None:
    monkeypatch.setattr("bangerd.host.network._REPAIRS_WITHIN_S", 8.0)
    vm = make_vm(1)
    await up(network, vm)
    rules = state()["nft"]
    caplog.set_level(logging.WARNING)
    begin = time.monotonic()
    while "looking again in" not in caplog.text:
        assert time.monotonic() < begin + 8, "it fights without end"
        lab.run("nft", "flush", "ruleset")
        await asyncio.sleep(0.02)
    assert len(loads) <= 20
    lab.run("nft", "flush", "ruleset")
    await network.apply([vm, make_vm(2)])  # a VM starts: that does not wait
    await network.apply([vm])
    assert state()["nft"] == rules
    lab.run("nft", "flush", "ruleset")
    await until(lambda: state()["nft"] == rules, "peace")


async def test_interfaces_of_others_with_a_similar_name(network: HostNetwork) -> None:
    lab.ip("link add name bgr-other type veth peer name bgr-1234567\n")
    before = state()
    await up(network, make_vm(1))
    assert await network.list_sids() == {make_vm(1).sid}
    await down(network, make_vm(1))
    assert not difference(before, state())
