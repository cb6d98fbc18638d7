"""Resolvers, netlink events and other firewalls' listings, from text and bytes as they come."""

import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from bangerd.host import firewalls, nft, resolvers
from bangerd.host.netwatch import Seen, Watch, _messages


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["nameserver 198.51.100.53\n"], ("198.51.100.53",)),
        (["# nameserver 1.1.1.1\n;nameserver 198.51.100.2\n  nameserver\t198.51.100.53 # x\n"], ("198.51.100.53",)),
        (["nameserver 127.0.0.53\noptions edns0\n", "nameserver 198.51.100.1\nnameserver 198.51.100.2\n"],
         ("198.51.100.1", "198.51.100.2")),
        (["nameserver ::1\nnameserver 2001:db8::53\n", "nameserver 198.51.100.1\n"], ("198.51.100.1",)),
        (["nameserver 127.0.0.1\nnameserver 198.51.100.9\n", "nameserver 198.51.100.1\n"], ("198.51.100.9",)),
        (["nameserver 198.51.100.1\n" * 3 + "".join(f"nameserver 198.51.100.{n}\n" for n in range(2, 9))],
         ("198.51.100.1", "198.51.100.2", "198.51.100.3")),
        (["nameserver 0.0.0.0\nnameserver 224.0.0.251\nnameserver\nnameserver x\nsearch a.b\n"], ()),
        (["nameserver fe80::1%eth0\n"], ()),
        ([None, "nameserver 198.51.100.1\n"], ("198.51.100.1",)),
        ([None, None], ()),
        ([], ()),
        (["nameserver 198.51.100.1\xff\n"], ()),
    ],
)  # fmt: skip
def test_resolvers(tmp_path: Path, files: list[str | None], expected: tuple[str, ...]) -> None:
    paths = [tmp_path / str(number) for number in range(len(files))]
    for path, text in zip(paths, files, strict=True):
        if text is not None:
            path.write_bytes(text.encode("latin-1"))
    assert resolvers.read(paths) == expected


def test_the_hosts_own_address_is_no_resolver_for_guests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("nameserver 198.51.100.1\nnameserver 198.51.100.2\n")
    monkeypatch.setattr(resolvers, "_own_addresses", lambda: {"198.51.100.1"})
    assert resolvers.read([path]) == ("198.51.100.2",)


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + bytes(-len(body) % 4)


def table(name: str) -> bytes:
    data = name.encode() + b"\0"
    return bytes(4) + struct.pack("=HH", 4 + len(data), 1) + data + bytes(-len(data) % 4)


NFT = 10 << 8
EVENTS: list[tuple[str, bytes, Seen]] = [
    ("default route", message(24, struct.pack("=BB10x", 2, 0)), Seen(moved=True)),
    ("half the internet by VPN", message(25, struct.pack("=BB10x", 2, 1)), Seen(moved=True)),
    ("another route", message(24, struct.pack("=BB10x", 2, 24)), Seen()),
    ("IPv6 default route", message(24, struct.pack("=BB10x", 10, 0)), Seen()),
    ("policy rule", message(33, struct.pack("=B11x", 2)), Seen(moved=True)),
    ("link of the uplink", message(16, struct.pack("=BxHiII", 0, 1, 2, 0, 0)), Seen(moved=True)),
    ("link of a container", message(16, struct.pack("=BxHiII", 0, 1, 9, 0, 0)), Seen()),
    ("bridge changes", message(16, struct.pack("=BxHiII", 0, 1, 5, 0, 0)), Seen()),
    ("bridge gone", message(17, struct.pack("=BxHiII", 0, 1, 5, 0, 0)), Seen(moved=True)),
    ("bridge's address gone", message(21, struct.pack("=BBBBi", 2, 24, 0, 0, 5)), Seen(moved=True)),
    ("global forwarding", message(80, struct.pack("=B3xHHi", 2, 8, 1, -1)), Seen(moved=True)),
    ("forwarding of a container", message(80, struct.pack("=B3xHHi", 2, 8, 1, 9)), Seen()),
    ("our table deleted", message(NFT | 2, table("banger")), Seen(rules_lost=True)),
    ("another's table deleted", message(NFT | 2, table("banger2")), Seen()),
    ("our load", message(NFT | 2, table("banger")) + message(NFT | 6, table("banger")), Seen()),
    ("our load, then a flush", message(NFT | 6, table("banger")) + message(NFT | 8, table("banger")),
     Seen(rules_lost=True)),
    ("end of a transaction", message(NFT | 2, table("banger")) + message(NFT | 15, table("banger")),
     Seen(rules_lost=True)),
    ("half a message", message(24, struct.pack("=BB10x", 2, 0))[:10], Seen()),
    ("a length of nothing", struct.pack("=IHHII", 0, 24, 0, 0, 0) + bytes(16), Seen()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("data", "seen"), [event[1:] for event in EVENTS], ids=[event[0] for event in EVENTS]
)
def test_events(data: bytes, seen: Seen) -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        here.settimeout(0)
        watch = Watch(lambda: None, _sockets=[here])
        watch.follow(5, [2])
        there.send(data)
        assert watch.drain() == seen
        assert watch.drain() == Seen()


def test_messages_of_one_datagram() -> None:
    data = message(24, b"12345") + message(25, b"") + message(26, b"1234")
    assert list(_messages(data)) == [(24, b"12345"), (25, b""), (26, b"1234")]


def chain(table_name: str, name: str, *, family: str = "inet", policy: str = "drop") -> dict[str, Any]:
    return {
        "chain": {"family": family, "table": table_name, "name": name, "hook": "forward", "policy": policy}
    }


def rule(name: str, *parts: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"chain": name, "expr": [*parts, {"counter": {"packets": 0, "bytes": 0}}]}}


def of(key: str, value: object = "banger0") -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": value}}


ACCEPT: dict[str, Any] = {"accept": None}
TABLES: list[tuple[str, list[dict[str, Any]], str | None]] = [
    ("nobody", [], None),
    ("accepts", [chain("f", "c", policy="accept")], None),
    ("drops", [chain("f", "c")], "nft insert rule inet f c iifname banger0 accept && nft insert rule inet f c"),
    ("ours", [chain("banger", "c")], None),
    ("IPv6 only", [chain("f", "c", family="ip6")], None),
    ("lets us in only", [chain("f", "c"), rule("c", of("iifname"), ACCEPT)], "nft insert rule"),
    ("lets us", [chain("f", "c"), rule("c", of("iifname"), ACCEPT), rule("c", of("oifname"), ACCEPT)], None),
    ("drops us", [chain("f", "c"), rule("c", of("iifname"), {"drop": None}),
                  rule("c", of("oifname"), {"drop": None})], "nft insert rule"),
    ("set", [chain("f", "c"), rule("c", of("iifname", {"set": ["a", "banger0"]}), ACCEPT),
             rule("c", of("oifname", {"set": ["banger0"]}), ACCEPT)], None),
    ("rejects at last", [chain("f", "c", policy="accept"), rule("c", {"reject": None})], "nft insert rule"),
    ("rejects some", [chain("f", "c", policy="accept"), rule("c", of("iifname", "x"), {"reject": None})], None),
    ("iptables", [chain("filter", "FORWARD", family="ip")], "iptables -I FORWARD -i banger0 -j ACCEPT"),
    ("docker", [chain("filter", "FORWARD", family="ip"), {"chain": {"name": "DOCKER-USER"}}],
     "iptables -I DOCKER-USER -i banger0 -j ACCEPT && iptables -I DOCKER-USER -o banger0 -j ACCEPT"),
    ("ufw", [chain("filter", "FORWARD", family="ip"), {"chain": {"name": "ufw-user-forward"}}],
     "ufw route allow in on banger0"),
    ("ufw told", [chain("filter", "FORWARD", family="ip"), {"chain": {"name": "ufw-user-forward"}},
                  rule("ufw-user-forward", of("iifname"), ACCEPT)], None),
    ("firewalld", [chain("firewalld", "filter_FORWARD", policy="accept"),
                   rule("filter_FORWARD", {"reject": {"type": "icmpx"}})], "firewall-cmd --permanent"),
    ("firewalld told", [chain("firewalld", "filter_FORWARD", policy="accept"),
                        rule("filter_FORWARD_POLICIES", of("iifname"), {"goto": {"target": "trusted"}}),
                        rule("filter_FORWARD", {"reject": {"type": "icmpx"}})], None),
]  # fmt: skip


@pytest.mark.parametrize(("objects", "told"), [row[1:] for row in TABLES], ids=[row[0] for row in TABLES])
async def test_other_firewalls(
    monkeypatch: pytest.MonkeyPatch, objects: list[dict[str, Any]], told: str | None
) -> None:
    async def listing(*what: str) -> list[dict[str, Any]]:
        return [thing for thing in objects if "chain" in thing] if what == ("chains",) else objects

    async def no_legacy() -> list[str]:
        return []

    monkeypatch.setattr(nft, "listing", listing)
    monkeypatch.setattr(firewalls, "_legacy_blockers", no_legacy)
    found = await firewalls.blockers()
    assert len(found) == (told is not None)
    assert all(str(told) in sentence for sentence in found)
