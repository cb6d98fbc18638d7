"""Each test has a host of its own in fresh network namespaces; the machine's own namespace stays as it is."""

import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from tests.netns import lab
from tests.netns.lab import Guest, Netns

from bangerd.host.network import HostNetwork
from bangerd.model.network import DEFAULT_SUBNET
from bangerd.model.vm import VM


def state() -> dict[str, str]:
    """What of a namespace's network banger could change, as text."""
    links = [
        (link["ifname"], link["address"], link["mtu"], link.get("master"), "UP" in link["flags"],
         link.get("linkinfo", {}).get("info_kind"))
        for link in json.loads(lab.run("ip", "-j", "-d", "link"))
    ]  # fmt: skip
    conf = Path("/proc/sys/net/ipv4/conf").glob("*/forwarding")
    return {
        "links": "\n".join(sorted(str(link) for link in links)),
        "addresses": "\n".join(
            sorted(line.split(None, 1)[1] for line in lab.run("ip", "-o", "-4", "addr").splitlines())
        ),
        "routes": lab.run("ip", "-4", "route", "show", "table", "all"),
        "policy rules": lab.run("ip", "rule"),
        # Without the elements that traffic made.
        "nft": re.sub(
            r"\n\t+elements = {[^}]* ct count over [^}]*}",
            "",
            lab.run("nft", "--stateless", "list", "ruleset"),
        ),
        "forwarding": json.dumps({str(path): path.read_text() for path in sorted(conf)}),
    }


def difference(before: dict[str, str], after: dict[str, str]) -> str:
    changed = [key for key in before if before[key] != after[key]]
    return "\n".join(f"{key}:\n  was {before[key]}\n  is {after[key]}" for key in changed)


@pytest.fixture(autouse=True, scope="package")
def machine_unchanged() -> Iterator[None]:
    """These tests may change nothing outside their namespaces."""
    lacking = [need for need, met in _needs().items() if not met]
    assert not lacking, f"these tests need {', '.join(lacking)}"
    before = state()
    yield
    assert not difference(before, state())


def _needs() -> dict[str, bool]:
    return {
        "root": os.geteuid() == 0,
        "/dev/net/tun (mknod /dev/net/tun c 10 200, or the tun module)": Path("/dev/net/tun").exists(),
    }


@pytest.fixture
def internet() -> Iterator[Netns]:
    """The router and everything behind it."""
    ns = Netns()
    yield ns
    ns.close()


@pytest.fixture
def host(internet: Netns) -> Iterator[Netns]:
    """A host on that internet, as a minimal install is; the whole test runs inside it."""
    ns = Netns()
    with ns:
        lab.ip(f"link add name eth0 type veth peer name eth0 netns {internet.path}\n")
        with internet:
            lab.ip(
                f"addr add {lab.ROUTER}/24 dev eth0\nlink set eth0 up\n"
                f"addr add {lab.SERVER}/32 dev lo\naddr add {lab.METADATA}/32 dev lo\n"
                # A neighbour who tries to reach guests directly.
                f"route add 172.16.0.0/24 via {lab.HOST}\n"
            )
        lab.ip(f"addr add {lab.HOST}/24 dev eth0\nlink set eth0 up\nroute add default via {lab.ROUTER}\n")
        yield ns
    ns.close()


@pytest.fixture
async def network(host: Netns, tmp_path: Path) -> AsyncIterator[HostNetwork]:
    found = HostNetwork(DEFAULT_SUBNET, tmp_path)
    yield found
    await found.close()


@pytest.fixture
def boot(host: Netns) -> Iterator[Callable[[VM], Guest]]:
    """Put a guest behind the tap of a VM, and wait until the bridge has seen that it is there."""
    guests = []

    def booted(vm: VM) -> Guest:
        guest = Guest(vm)
        guests.append(guest)
        lab.until(lambda: guest.ns.ping(lab.GATEWAY, timeout=0.1), f"{vm.tap} to pass frames")
        return guest

    yield booted
    for guest in guests:
        guest.close()
