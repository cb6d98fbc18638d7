"""Guests reach the internet and get replies; nobody reaches them unasked."""

import errno
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.netns import lab
from tests.netns.lab import Guest, Netns, make_vm

from bangerd.host import resolvers
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


async def test_a_narrow_uplink_is_no_trap(network: HostNetwork, internet: Netns, boot: Boot) -> None:
    """A VPN or cloud with an MTU below 1500, that loses what is longer without a word."""
    lab.ip("link set eth0 mtu 1300\n")
    with internet:
        lab.ip("link set eth0 gso_max_segs 1\n")  # so that its frames are as long as its segments
    vm = make_vm(1)
    await network.ensure_tap(vm)
    await network.apply([vm])
    guest = boot(vm)
    with internet.tcp_server(lab.SERVER, 80) as server, guest.ns.connect(lab.SERVER, 80) as client:
        server.settimeout(2)
        accepted, _ = server.accept()
        with accepted:
            accepted.settimeout(5)
            for source, sink in ((client, accepted), (accepted, client)):
                source.sendall(bytes(100_000))
                left = 100_000
                while left:
                    left -= len(sink.recv(65536))


async def test_only_net_admin_is_needed(host: Netns, tmp_path: Path) -> None:
    """The service holds few capabilities; nft, taps and switches need but one of them."""
    program = textwrap.dedent(f"""
        import asyncio, pathlib
        from bangerd.host.network import HostNetwork
        from tests.netns.lab import make_vm

        async def main():
            network = HostNetwork("172.16.0.0/24", pathlib.Path({str(tmp_path)!r}))
            vm = make_vm(1)
            await network.ensure_tap(vm)
            await network.apply([vm])
            assert await network.list_sids() == {{vm.sid}}
            print(await network.problems())
            await network.remove_tap(vm.sid)
            await network.apply([])
            await network.close()

        asyncio.run(main())
        """)
    top = Path(__file__).parents[2]
    done = subprocess.run(
        ["setpriv", "--bounding-set=-all,+net_admin", "--inh-caps=-all", "--no-new-privs",
         sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": f"{top}:{top}/service"},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "firewall" not in done.stdout


async def test_a_link_local_resolver_is_all_that_is_reached_there(
    network: HostNetwork, internet: Netns, boot: Boot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Some clouds put their resolver at the address of their metadata service."""
    path = tmp_path / "resolv.conf"
    path.write_text(f"nameserver {lab.METADATA}\n")
    read = resolvers.read
    monkeypatch.setattr(resolvers, "read", lambda: read([path]))
    vm = make_vm(1)
    await network.ensure_tap(vm)
    await network.apply([vm])
    assert network.nameservers() == (lab.METADATA,)
    guest = boot(vm)
    with internet.tcp_server(lab.METADATA, 53), guest.ns.connect(lab.METADATA, 53):
        pass
    with internet.tcp_server(lab.METADATA, 80), pytest.raises(OSError) as refused:
        guest.ns.connect(lab.METADATA, 80)
    assert refused.value.errno == errno.EHOSTUNREACH
