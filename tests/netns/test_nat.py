"""Guests reach the internet and get replies; nobody reaches them unasked."""

from collections.abc import Callable

import pytest
from tests.netns import lab
from tests.netns.lab import Guest, Netns, make_vm

from bangerd.host.network import HostNetwork
from bangerd.model.vm import VM

Boot = Callable[[VM], Guest]


async def test_guest_pings_and_talks_tcp_and_udp_out(
    network: HostNetwork, internet: Netns, boot: Boot
) -> None:
    vm = make_vm(1)
    await network.ensure_tap(vm)
    await network.apply([vm])
    guest = boot(vm)
    assert guest.ns.ping(lab.GATEWAY)
    assert guest.ns.ping(lab.SERVER)
    with internet.tcp_server(lab.SERVER, 80) as server:
        server.settimeout(2)
        with guest.ns.connect(lab.SERVER, 80) as client:
            accepted, (source, _) = server.accept()
            with accepted:
                assert source == lab.HOST  # masqueraded
                accepted.sendall(b"reply")
                assert client.recv(100) == b"reply"
    with internet.udp(lab.SERVER, 53) as server, guest.ns.udp() as client:
        client.sendto(b"question", (lab.SERVER, 53))
        question, source = server.recvfrom(100)
        assert question == b"question"
        server.sendto(b"answer", source)
        assert client.recv(100) == b"answer"


async def test_nobody_outside_reaches_a_guest(
    network: HostNetwork, host: Netns, internet: Netns, boot: Boot
) -> None:
    vm = make_vm(1)
    await network.ensure_tap(vm)
    await network.apply([vm])
    guest = boot(vm)
    with guest.ns.tcp_server(vm.address, 22), pytest.raises(TimeoutError):
        internet.connect(vm.address, 22, timeout=0.3)
    assert not internet.ping(vm.address, timeout=0.3)
    assert guest.ns.ping(lab.SERVER)
