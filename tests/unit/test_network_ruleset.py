"""The ruleset's text: the same for the same VMs, and accepted by nft itself where there is one."""

import itertools
import shutil
import subprocess

import pytest

from bangerd.model.network import parse_subnet
from bangerd.model.ruleset import Uplink, ruleset, takedown
from bangerd.model.vm import GIB, MIB, VM, Desired, VMSpec

POOL = parse_subnet("172.16.0.0/24")


def make_vm(number: int, *, owner: int = 1000, nat: bool = True, address: str | None = None) -> VM:
    return VM(
        id=f"{number:08x}-0000-4000-8000-000000000000", sid=f"{number:08x}", name=f"vm{number}",
        owner_uid=owner, owner_name="somebody",
        spec=VMSpec(image="i", kernel="k", vcpu=1, memory=256 * MIB, disk=GIB, nat=nat),
        desired=Desired.RUNNING, uid=71000 + number,
        address=f"172.16.0.{number + 1}" if address is None else address,
    )  # fmt: skip


def elements(text: str, name: str) -> list[str]:
    _, _, rest = text.partition(f"\tset {name} {{\n")
    body = rest.partition("\n\t}\n")[0]
    if "elements" not in body:
        return []
    return [item.strip() for item in body.partition("elements = {")[2].strip(" }").split(",")]


def test_order_of_vms_and_uplinks_does_not_matter() -> None:
    vms = [make_vm(1), make_vm(2, nat=False), make_vm(3, owner=0)]
    uplinks = [Uplink("wlan0", guard=True), Uplink("eth0")]
    texts = {
        ruleset(some, POOL, links, ["169.254.1.1"])
        for some in itertools.permutations(vms)
        for links in itertools.permutations(uplinks)
    }
    assert len(texts) == 1


def test_sets() -> None:
    vms = [make_vm(1, owner=1001), make_vm(2, nat=False), make_vm(3, address="")]
    text = ruleset(vms, POOL, [Uplink("eth0", guard=True), Uplink("tun0")], ["169.254.169.254"])
    assert elements(text, "guests") == [
        '"bgr-00000001" . 02:42:00:00:00:01 . 172.16.0.2',
        '"bgr-00000002" . 02:42:00:00:00:02 . 172.16.0.3',
    ]
    assert elements(text, "nat") == ["172.16.0.2"]
    assert elements(text, "owners") == ["1001 . 172.16.0.2", "1000 . 172.16.0.3"]
    assert elements(text, "uplinks") == ['"eth0"', '"tun0"']
    assert elements(text, "guarded") == ['"eth0"']
    assert elements(text, "resolvers") == ["169.254.169.254"]


def test_nothing_is_let_through_without_vms() -> None:
    text = ruleset([], POOL)
    for name in ("guests", "nat", "owners", "uplinks", "guarded", "resolvers"):
        assert elements(text, name) == []
    assert 'iifname "bgr-*" goto guest' in text


def test_only_own_tables_are_touched() -> None:
    for text in (ruleset([make_vm(1)], POOL, [Uplink("eth0")]), takedown()):
        tables = [line.split() for line in text.splitlines() if "table " in line]
        assert {words[-1] if words[-1] != "{" else words[-2] for words in tables} == {"banger"}
        assert "flush" not in text


def test_bridged_uplink_is_not_judged() -> None:
    rule = 'iifname "br0" oifname "br0" accept'
    assert rule in ruleset([], POOL, [Uplink("br0", guard=True, bridge=True)])
    assert rule not in ruleset([], POOL, [Uplink("br0", guard=False, bridge=True)])
    assert rule not in ruleset([], POOL, [Uplink("br0", guard=True)])


@pytest.mark.parametrize("count", [0, 1, 1000])
@pytest.mark.root
@pytest.mark.needs("nft", "unshare")
def test_nft_takes_it(count: int) -> None:
    pool = parse_subnet("172.16.0.0/16")
    vms = [make_vm(n, owner=1000 + n % 7, address=f"172.16.{n // 250}.{n % 250 + 2}") for n in range(count)]
    text = ruleset(vms, pool, [Uplink("eth0", guard=True, bridge=True)], ["169.254.1.1"][:count])
    nft = shutil.which("nft", path="/usr/sbin:/usr/bin:/sbin") or "nft"
    for loaded in (text, text + text, takedown() + text + takedown()):
        subprocess.run(["unshare", "-n", nft, "-f", "-"], input=loaded, text=True, check=True, timeout=20)
