"""Bridge, taps and rules as one thing: what the VMs given shall have, and nothing else, whatever was before."""

import asyncio
import logging
import re
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from bangerd.host import conntrack, firewalls, netlink, nft, resolvers, tun
from bangerd.host.forwarding import Forwarding
from bangerd.host.netwatch import Watch
from bangerd.model.errors import BangerError, HostNotReady, StepFailed
from bangerd.model.network import BRIDGE, TAP_PREFIX, check_free, parse_subnet
from bangerd.model.ruleset import Uplink, ruleset, takedown
from bangerd.model.vm import VM

log = logging.getLogger(__name__)

# A tap in the making: not yet one of those that list_sids() reports.
_DRAFT_PREFIX = "bgr_"
_TAP = re.compile(re.escape(TAP_PREFIX) + "[0-9a-f]{8}")
# Where "out" leads is where the host would send this to.
_FAR_AWAY = "1.1.1.1"
# More repairs than this within this many seconds is a fight with another program, or a flapping link.
_REPAIRS, _REPAIRS_WITHIN_S = 10, 60.0


class HostNetwork:
    """core.ports.Network on the kernel of this host, in the network namespace of this process.

    `uplinks`: the interfaces through which guests may leave; empty: that of the host's default route, as it is
    at the time. Calls may overlap: they wait for one another, and apply() calls that wait become one. While VMs
    are connected, what another program takes away is put back.

    Raises InvalidSpec if `subnet` is no fit network.
    """

    def __init__(self, subnet: str, runtime_dir: Path, *, uplinks: Sequence[str] = ()) -> None:
        self.pool = parse_subnet(subnet)
        self._uplinks = tuple(uplinks)
        self._forwarding = Forwarding(runtime_dir / "forwarding.json")
        self._lock = asyncio.Lock()
        self._wanted: tuple[VM, ...] = ()
        self._asked = self._served = 0
        self._loaded = ""  # the rules that are in the kernel, as far as known
        # Taps that wait for their rules before they come up; None: those of the service's earlier life, all.
        self._down: set[str] | None = None
        self._watch = Watch(self._mend_soon)
        self._mending: asyncio.Task[None] | None = None
        self._mended: deque[float] = deque(maxlen=_REPAIRS)

    async def ensure_tap(self, vm: VM) -> None:
        """Make the VM's tap unless it is there, whole and its own. It passes frames after the next apply().

        Raises HostNotReady when the pool collides with the host's networks, StepFailed.
        """
        async with self._lock:
            if not netlink.exists(BRIDGE):
                await self._make_bridge()
            if netlink.exists(vm.tap):
                if await self._is_whole(vm):
                    return
                await netlink.delete(vm.tap)
            make = netlink.create_tap(vm.tap, _DRAFT_PREFIX + vm.sid, vm.uid, vm.mac)
            # Flows of whoever had the address before are not this VM's.
            forget = conntrack.forget(vm.address) if vm.address else asyncio.sleep(0)
            await asyncio.gather(make, forget)
            if self._down is not None:
                self._down.add(vm.tap)

    async def remove_tap(self, sid: str) -> None:
        """Remove a VM's tap; no error if there is none. After the last one of all, take down the rest too."""
        async with self._lock:
            await netlink.delete(TAP_PREFIX + sid)
            if self._down is not None:
                self._down.discard(TAP_PREFIX + sid)
            if not self._wanted and not _taps():
                await self._take_down()

    async def list_sids(self) -> frozenset[str]:
        """All taps, those that still wait for their rules included."""
        return frozenset(name.removeprefix(TAP_PREFIX) for name in _taps())

    async def apply(self, vms: Sequence[VM]) -> None:
        """Make bridge and rules fit exactly these VMs; without VMs and taps: take all down.

        A tap that is not of these VMs stays, and passes nothing. Raises HostNotReady, StepFailed.
        """
        self._wanted = tuple(vms)
        self._asked += 1
        mine = self._asked
        async with self._lock:
            if self._served >= mine:  # one that came later has been served while this one waited
                return
            serving = self._asked
            await self._fit()
            self._served = serving
            self._mended.clear()

    def nameservers(self) -> tuple[str, ...]:
        return resolvers.read()

    async def problems(self) -> list[str]:
        """What on this host will keep guests off the network, each with what to do about it."""
        found = []
        try:
            check_free(self.pool, await netlink.host_addresses(), await netlink.host_routes())
        except HostNotReady as exc:
            found.append(str(exc))
        if not await self._uplink_links():
            found.append(
                "this host has no default IPv4 route: guests reach nothing outside; `ip route` shows all"
            )
        if not resolvers.read():
            found.append(
                "no DNS resolver that guests can reach is in /etc/resolv.conf; guests resolve no names"
            )
        if missing := tun.missing():
            found.append(missing)
        try:
            await nft.check(ruleset([], self.pool))
            found += await firewalls.blockers()
        except StepFailed as exc:
            found.append(f"nft, of which all rules are made, does not work here: {exc}")
        return found

    async def close(self) -> None:
        """Stop watching. All that is set up stays: guests go on."""
        self._stop_watching()
        if self._mending is not None:
            self._mending.cancel()
            await asyncio.gather(self._mending, return_exceptions=True)

    async def _fit(self) -> None:
        if self._wanted or _taps():
            await self._bring_up(self._wanted)
        else:
            await self._take_down()

    async def _is_whole(self, vm: VM) -> bool:
        bridge, tap = await netlink.find(BRIDGE), await netlink.find(vm.tap)
        return bool(bridge and tap and tap.master == bridge.index and tap.owner == vm.uid)

    async def _make_bridge(self) -> netlink.Link:
        check_free(self.pool, await netlink.host_addresses(), await netlink.host_routes())
        return await netlink.ensure_bridge(self.pool)

    async def _bring_up(self, vms: Sequence[VM]) -> None:
        """In the order that keeps each state in between closed: rules, then forwarding, then taps."""
        self._watch.start()
        if self._watch.drain().rules_lost:
            self._loaded = ""
        await self._drop_drafts()
        fresh = not netlink.exists(BRIDGE)
        bridge = await (self._make_bridge() if fresh else netlink.ensure_bridge(self.pool))
        links = await self._uplink_links()
        self._watch.follow(bridge.index, [link.index for link in links])
        await self._load(vms, links)
        if not bridge.forwarding:
            await netlink.set_forwarding(bridge, on=True)
        await self._forwarding.turn_on(links)
        await netlink.set_neighbours({vm.address: vm.mac for vm in vms if vm.address})
        if fresh or self._down is None:
            # Another program may have removed the bridge: running VMs hold on to their taps.
            await netlink.attach_taps({vm.tap: vm.mac for vm in vms})
        await netlink.set_up(_taps() if self._down is None else sorted(self._down))
        self._down = set()

    async def _load(self, vms: Sequence[VM], links: Sequence[netlink.Link]) -> None:
        guarded = self._forwarding.only_for_guests(links)
        uplinks = [Uplink(link.name, link.name in guarded, link.kind == "bridge") for link in links]
        link_local = [address for address in resolvers.read() if address.startswith("169.254.")]
        text = ruleset(vms, self.pool, uplinks, link_local)
        if text != self._loaded:
            self._loaded = ""
            await nft.load(text)
            self._loaded = text

    async def _uplink_links(self) -> list[netlink.Link]:
        names = self._uplinks or await netlink.uplink_names(_FAR_AWAY)
        links = [await netlink.find(name) for name in names]
        return [link for link in links if link is not None]

    async def _take_down(self) -> None:
        """Rules last: while the bridge exists they hold."""
        self._stop_watching()
        await self._drop_drafts()
        await self._forwarding.restore()
        await netlink.remove_bridge()
        await nft.load(takedown())
        self._down = None

    async def _drop_drafts(self) -> None:
        for draft in [name for name in netlink.names() if name.startswith(_DRAFT_PREFIX)]:
            await netlink.delete(draft)

    def _mend_soon(self) -> None:
        if self._mending is None or self._mending.done():
            self._mending = asyncio.create_task(self._mend())

    async def _mend(self) -> None:
        """See whether what another program did matters, and put right what does, until it is quiet."""
        while True:
            await self._cool_down()
            async with self._lock:
                seen = self._watch.drain()
                if not seen:  # apply() has seen to it
                    return
                if seen.rules_lost:
                    self._loaded = ""
                    log.warning("another program removed banger's nft rules; loading them again")
                try:
                    await self._fit()
                except BangerError as exc:
                    log.warning("cannot mend the network of VMs: %s", exc)

    async def _cool_down(self) -> None:
        """Wait if there was too much to mend of late: the host is there for more than a fight."""
        now = asyncio.get_running_loop().time()
        if len(self._mended) == _REPAIRS and now - self._mended[0] < _REPAIRS_WITHIN_S:
            pause = self._mended[0] + _REPAIRS_WITHIN_S - now
            log.warning(
                "another program changed the network of VMs %d times in %.0f s; looking again in %.0f s,"
                " or when a VM starts or stops", _REPAIRS, now - self._mended[0], pause,
            )  # fmt: skip
            await asyncio.sleep(pause)
        self._mended.append(now)

    def _stop_watching(self) -> None:
        """What is loaded is not known from here on."""
        self._watch.close()
        self._loaded = ""


def _taps() -> list[str]:
    return [name for name in netlink.names() if _TAP.fullmatch(name)]
