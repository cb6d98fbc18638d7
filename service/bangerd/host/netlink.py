"""Links, addresses and forwarding switches over netlink; the only module that knows pyroute2.

Every function is idempotent, and does one thing; host/network.py decides what is wanted.
"""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from typing import Any

from pyroute2 import AsyncIPRoute, IPRoute
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST, nla, nlmsg
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.nlsocket import NetlinkRequest
from pyroute2.netlink.rtnl import RTM_NEWLINK, ndmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from bangerd.host import tun
from bangerd.model.errors import StepFailed
from bangerd.model.network import BRIDGE, BRIDGE_MAC, HostAddress, HostRoute, Pool

_NO_IPV6 = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", 1)]})]}  # no link-local address
_ANY = "0.0.0.0"  # noqa: S104, a default route has no destination
_PERMANENT = ndmsg.states["permanent"]
_STATIC = ndmsg.states["noarp"] | ndmsg.states["reachable"]  # a permanent one would mean the host itself

# The policy rule that keeps the host from routing between VMs. systemd-networkd removes rules that it does not
# know, unless their protocol is "kernel".
_RULE_PRIORITY = 100
_PROTO_KERNEL = 2

# enum in linux/ip.h: places in the kernel's per-interface IPv4 configuration.
_DEVCONF = {
    "forwarding": 1,
    "accept_redirects": 4,
    "send_redirects": 6,
    "rp_filter": 8,
    "accept_source_route": 9,
    "arp_ignore": 19,
    "route_localnet": 26,
}
_BRIDGE_CONF = {
    "accept_redirects": 0,
    "send_redirects": 0,
    "rp_filter": 1,
    "accept_source_route": 0,
    "arp_ignore": 1,
    "route_localnet": 0,
}


@dataclass(frozen=True, slots=True)
class Link:
    """What matters of an interface."""

    name: str
    index: int
    kind: str  # "" for hardware
    forwarding: bool
    master: int = 0
    owner: int = -1  # of a tap: the uid that may open it
    address: str = ""


class _Conf(nla):  # type: ignore[misc]
    """IFLA_INET_CONF to set; pyroute2's own class only reads it, from another shape."""

    nla_map = tuple((number, name.upper(), "uint32") for name, number in _DEVCONF.items())


class _Inet(nla):  # type: ignore[misc]
    nla_map = ((1, "IFLA_INET_CONF", "conf"),)
    conf = _Conf


class _Spec(nla):  # type: ignore[misc]
    nla_map = ((socket.AF_INET, "AF_INET", "inet"),)
    inet = _Inet


class _SetConf(nlmsg):  # type: ignore[misc]
    """A link message with nothing but IFLA_AF_SPEC. Not a subclass of pyroute2's: that would share its codecs."""

    fields = ifinfmsg.fields
    nla_map = ((26, "IFLA_AF_SPEC", "spec"),)
    spec = _Spec


@asynccontextmanager
async def _netlink(step: str) -> AsyncIterator[AsyncIPRoute]:
    """A netlink socket for one step; errors say which step it was."""
    try:
        async with AsyncIPRoute() as ipr:
            yield ipr
    except NetlinkError as exc:
        raise StepFailed(f"cannot {step}: {os.strerror(exc.code)} (netlink error {exc.code})") from exc
    except OSError as exc:
        raise StepFailed(f"cannot {step}: {exc.strerror or exc}") from exc


async def _set_conf(ipr: AsyncIPRoute, index: int, values: dict[str, int]) -> None:
    conf = [(name.upper(), value) for name, value in values.items()]
    message = _SetConf()
    message["index"] = index
    message["attrs"] = [
        ("IFLA_AF_SPEC", {"attrs": [("AF_INET", {"attrs": [("IFLA_INET_CONF", {"attrs": conf})]})]})
    ]
    request = NetlinkRequest(ipr, message, msg_type=RTM_NEWLINK, msg_flags=NLM_F_REQUEST | NLM_F_ACK)
    await request.send()
    async for _ in request.response():
        pass


def names() -> list[str]:
    """Names of all interfaces. One dump, in libc: a fraction of a millisecond."""
    return [name for _, name in socket.if_nameindex()]


def exists(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


def _index(name: str) -> int:
    """The index of an interface that has to exist."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise StepFailed(
            f"the interface {name} is gone: another program removed it; start the VM again"
        ) from None


async def find(name: str) -> Link | None:
    """The interface with this name, if there is one. Raises StepFailed."""
    async with _netlink(f"look at {name}") as ipr:
        return await _find(ipr, name)


async def _find(ipr: AsyncIPRoute, name: str) -> Link | None:
    try:
        (message,) = await ipr.link("get", ifname=name)
    except NetlinkError as exc:
        if exc.code == errno.ENODEV:
            return None
        raise
    return _link(message)


def _link(message: Any) -> Link:
    info = message.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA") if info else None
    kind = (info.get_attr("IFLA_INFO_KIND") or "") if info else ""
    owner = data.get_attr("IFLA_TUN_OWNER") if kind == "tun" and data else None
    inet = message.get_attr("IFLA_AF_SPEC").get_attr("AF_INET")
    return Link(
        name=message.get_attr("IFLA_IFNAME"),
        index=message["index"],
        kind=kind,
        forwarding=bool(inet and inet["forwarding"]),
        master=message.get_attr("IFLA_MASTER") or 0,
        owner=-1 if owner is None else owner,
        address=message.get_attr("IFLA_ADDRESS") or "",
    )


async def host_addresses() -> list[HostAddress]:
    """All IPv4 addresses of the host."""
    async with _netlink("list the host's addresses") as ipr:
        return [
            HostAddress(
                _name_of(message["index"]),
                IPv4Interface(f"{message.get_attr('IFA_ADDRESS')}/{message['prefixlen']}"),
            )
            async for message in await ipr.addr("dump", family=socket.AF_INET)
        ]


async def host_routes() -> list[HostRoute]:
    """All IPv4 routes of the host, in all tables. Costly on a machine with a full routing table."""
    kinds = {1: "unicast", 2: "local", 3: "broadcast"}
    async with _netlink("list the host's routes") as ipr:
        return [
            HostRoute(
                IPv4Network(f"{message.get_attr('RTA_DST') or _ANY}/{message['dst_len']}"),
                _name_of(message.get_attr("RTA_OIF") or 0),
                kinds.get(message["type"], "other"),
            )
            async for message in await ipr.route("dump", family=socket.AF_INET)
        ]


def _name_of(index: int) -> str:
    try:
        return socket.if_indextoname(index) if index else ""
    except OSError:  # gone meanwhile
        return ""


async def uplink_names(destination: str) -> list[str]:
    """Interfaces through which the host would send to `destination` (no packet is sent); [] without a route."""
    try:
        async with AsyncIPRoute() as ipr:
            (message,) = await ipr.route("get", dst=destination)
    except NetlinkError as exc:
        if exc.code in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}:
            return []
        raise StepFailed(f"cannot find the way to {destination}: {os.strerror(exc.code)}") from exc
    name = _name_of(message.get_attr("RTA_OIF") or 0)
    return [name] if name and name not in {"lo", BRIDGE} else []


async def ensure_bridge(pool: Pool) -> Link:
    """Make banger's bridge with its address, up, and with the rule that nothing is routed back into it.

    It does not forward yet. Raises StepFailed, also when the name is taken by something that is no bridge.
    """
    async with _netlink(f"set up the bridge {BRIDGE}") as ipr:
        bridge = await _find(ipr, BRIDGE)
        if bridge is None:
            await ipr.link(
                "add", ifname=BRIDGE, kind="bridge", address=BRIDGE_MAC,
                br_stp_state=0, br_forward_delay=0, br_mcast_snooping=0,
            )  # fmt: skip
            bridge = await _find(ipr, BRIDGE)
        if bridge is None or bridge.kind != "bridge":
            raise StepFailed(f"an interface {BRIDGE} exists and is not banger's bridge; rename or remove it")
        # Before it has an address: guests reach nothing of the host through it, and nothing routes between them.
        await _set_conf(ipr, bridge.index, _BRIDGE_CONF)
        await _ensure_rule(ipr, pool)
        await ipr.link("set", index=bridge.index, address=BRIDGE_MAC, state="up", IFLA_AF_SPEC=_NO_IPV6)
        await _ensure_address(ipr, bridge.index, pool)
        return bridge


async def _ensure_address(ipr: AsyncIPRoute, index: int, pool: Pool) -> None:
    wanted = (pool.gateway, pool.prefix)
    held = [
        (message.get_attr("IFA_ADDRESS"), message["prefixlen"])
        async for message in await ipr.addr("dump", family=socket.AF_INET, match={"index": index})
    ]
    for address, prefix in held:
        if (address, prefix) != wanted:  # of another configured subnet
            await ipr.addr("del", index=index, address=address, prefixlen=prefix)
    if wanted not in held:
        await ipr.addr("add", index=index, address=pool.gateway, prefixlen=pool.prefix)


async def _our_rules(ipr: AsyncIPRoute) -> list[tuple[str, int]]:
    return [
        (message.get_attr("FRA_DST"), message["dst_len"])
        async for message in await ipr.rule("dump", family=socket.AF_INET)
        if message.get_attr("FRA_IIFNAME") == BRIDGE and message.get_attr("FRA_PRIORITY") == _RULE_PRIORITY
    ]


async def _rule(ipr: AsyncIPRoute, command: str, dst: str, dst_len: int) -> None:
    await ipr.rule(
        command, family=socket.AF_INET, iifname=BRIDGE, dst=dst, dst_len=dst_len,
        priority=_RULE_PRIORITY, action="FR_ACT_PROHIBIT", FRA_PROTOCOL=_PROTO_KERNEL, table=0,
    )  # fmt: skip


async def _ensure_rule(ipr: AsyncIPRoute, pool: Pool) -> None:
    wanted = (str(pool.network.network_address), pool.prefix)
    held = await _our_rules(ipr)
    if wanted not in held:
        await _rule(ipr, "add", *wanted)
    for other in held:
        if other != wanted:
            await _rule(ipr, "del", *other)


async def set_forwarding(link: Link, *, on: bool) -> None:
    """Set IPv4 forwarding of packets that arrive on this interface. Raises StepFailed."""
    async with _netlink(f"switch forwarding on {link.name}") as ipr:
        await _set_conf(ipr, link.index, {"forwarding": int(on)})


async def remove_bridge() -> None:
    """Remove banger's bridge and its policy rule; nothing if they are gone."""
    async with _netlink(f"remove the bridge {BRIDGE}") as ipr:
        bridge = await _find(ipr, BRIDGE)
        if bridge is not None and bridge.kind == "bridge":
            await delete(BRIDGE)
        for rule in await _our_rules(ipr):
            await _rule(ipr, "del", *rule)


async def create_tap(name: str, draft: str, uid: int, mac: str) -> None:
    """Make a persistent tap on the bridge that `uid` may open, isolated from other ports; it stays down.

    It has the name `draft` until all of it is right, so whatever has the final name is whole. The guest's MAC is
    a static entry of the bridge, which learns nothing. Raises StepFailed.
    """
    await delete(draft)
    try:
        async with _netlink(f"make the tap {name}") as ipr:
            tun.create_tap(draft, uid)
            tap = _index(draft)
            await _attach(ipr, tap, _index(BRIDGE), mac)
            await ipr.link("set", index=tap, ifname=name)
    except BaseException:
        await delete(draft)
        raise


async def _attach(ipr: AsyncIPRoute, tap: int, bridge: int, mac: str) -> None:
    await ipr.link("set", index=tap, master=bridge, IFLA_AF_SPEC=_NO_IPV6)
    # Nothing is flooded: the host knows its guests (set_neighbours), and they have no others to hear.
    await ipr.brport("set", index=tap, isolated=1, learning=0, unicast_flood=0, mcast_flood=0, bcast_flood=0)
    await ipr.fdb("replace", ifindex=tap, lladdr=mac, flags=ndmsg.flags["master"], state=_STATIC)


async def attach_taps(macs: dict[str, str]) -> None:
    """Put those of these taps (name to guest's MAC) that exist back on the bridge if they are not. StepFailed."""
    async with _netlink(f"put taps back on {BRIDGE}") as ipr:
        bridge = _index(BRIDGE)
        for name, mac in macs.items():
            tap = await _find(ipr, name)
            if tap is not None and tap.master != bridge:
                # Down first: as a port that is not yet isolated it would reach others.
                await ipr.link("set", index=tap.index, state="down")
                await _attach(ipr, tap.index, bridge, mac)
                await ipr.link("set", index=tap.index, state="up")


async def set_up(wanted: Iterable[str]) -> None:
    """Bring interfaces up; those that are gone are no error."""
    async with _netlink("bring taps up") as ipr:
        indexes = {name: index for index, name in socket.if_nameindex()}
        for name in wanted:
            if name in indexes:
                await ipr.link("set", index=indexes[name], state="up")


def _delete(name: str) -> None:
    with IPRoute() as ipr:
        try:
            ipr.link("del", ifname=name)
        except NetlinkError as exc:
            if exc.code != errno.ENODEV:
                raise StepFailed(f"cannot remove {name}: {os.strerror(exc.code)}") from exc


async def delete(name: str) -> None:
    """Remove an interface; nothing if there is none. In a thread: the kernel takes 20 ms for one, and waits."""
    if exists(name):
        await asyncio.to_thread(_delete, name)


async def set_neighbours(wanted: dict[str, str]) -> None:
    """Make the bridge's static ARP entries exactly these (address to MAC): nobody is asked, nobody can claim."""
    async with _netlink("set the guests' ARP entries") as ipr:
        bridge = _index(BRIDGE)
        held = {
            message.get_attr("NDA_DST"): message.get_attr("NDA_LLADDR")
            async for message in await ipr.neigh("dump", family=socket.AF_INET, match={"ifindex": bridge})
            if message["state"] & _PERMANENT
        }
        for address in held.keys() - wanted.keys():
            await ipr.neigh("del", ifindex=bridge, dst=address)
        for address, mac in wanted.items():
            if held.get(address) != mac:
                await ipr.neigh("replace", ifindex=bridge, dst=address, lladdr=mac, state=_PERMANENT)
