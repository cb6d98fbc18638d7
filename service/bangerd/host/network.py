"""Bridge, taps and rules as one thing: what the VMs given shall have, and nothing else, whatever was before."""

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from bangerd.host import netlink, nft, resolvers
from bangerd.host.forwarding import Forwarding
from bangerd.model.network import BRIDGE, TAP_PREFIX, Pool, check_free
from bangerd.model.ruleset import Uplink, ruleset, takedown
from bangerd.model.vm import VM

log = logging.getLogger(__name__)

# A tap in the making: not yet one of those that list_sids() reports.
_DRAFT_PREFIX = "bgr_"
# Where "out" leads is where the host would send this to.
_FAR_AWAY = "1.1.1.1"


class HostNetwork:
    """core.ports.Network on the kernel of this host, in the network namespace of this process.

    `uplinks`: the interfaces through which guests may leave; empty: that of the host's default route, as it is
    at the time. Calls may overlap: they wait for one another, and apply() calls that wait become one.
    """

    def __init__(self, pool: Pool, runtime_dir: Path, *, uplinks: Sequence[str] = ()) -> None:
        self.pool = pool
        self.gateway = pool.gateway
        self.prefix = pool.prefix
        self._uplinks = tuple(uplinks)
        self._forwarding = Forwarding(runtime_dir / "forwarding.json")
        self._lock = asyncio.Lock()
        self._wanted: tuple[VM, ...] = ()
        self._asked = self._served = 0
        # Taps that wait for their rules before they come up; None: those of the service's earlier life, all.
        self._down: set[str] | None = None

    async def ensure_tap(self, vm: VM) -> None:
        """Make the VM's tap unless it is there, whole and its own. It passes frames after the next apply().

        Raises HostNotReady when the pool collides with the host's networks, StepFailed.
        """
        async with self._lock:
            bridge = await netlink.find(BRIDGE) or await self._make_bridge()
            tap = await netlink.find(vm.tap)
            if tap is not None:
                if tap.owner == vm.uid and tap.master == bridge.index:
                    return
                await netlink.delete(vm.tap)
            await netlink.create_tap(vm.tap, _DRAFT_PREFIX + vm.sid, vm.uid, vm.mac)
            if self._down is not None:
                self._down.add(vm.tap)

    async def remove_tap(self, sid: str) -> None:
        """Remove a VM's tap; no error if there is none. After the last one of all, take down the rest too."""
        async with self._lock:
            await netlink.delete(TAP_PREFIX + sid)
            if self._down is not None:
                self._down.discard(TAP_PREFIX + sid)
            if not self._wanted and not netlink.names(TAP_PREFIX):
                await self._take_down()

    async def list_sids(self) -> frozenset[str]:
        return frozenset(name.removeprefix(TAP_PREFIX) for name in netlink.names(TAP_PREFIX))

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
            serving, wanted = self._asked, self._wanted
            if wanted or netlink.names(TAP_PREFIX):
                await self._bring_up(wanted)
            else:
                await self._take_down()
            self._served = serving

    def nameservers(self) -> tuple[str, ...]:
        return resolvers.read()

    async def _make_bridge(self) -> netlink.Link:
        check_free(self.pool, await netlink.host_addresses(), await netlink.host_routes())
        return await netlink.ensure_bridge(self.pool)

    async def _bring_up(self, vms: Sequence[VM]) -> None:
        """In the order that keeps each state in between closed: rules, then forwarding, then taps."""
        for draft in netlink.names(_DRAFT_PREFIX):
            await netlink.delete(draft)
        if await netlink.find(BRIDGE) is None:
            bridge = await self._make_bridge()
        else:
            bridge = await netlink.ensure_bridge(self.pool)
        links = await self._uplink_links()
        guarded = self._forwarding.only_for_guests(links)
        uplinks = [Uplink(link.name, link.name in guarded, link.kind == "bridge") for link in links]
        link_local = [address for address in resolvers.read() if address.startswith("169.254.")]
        await nft.load(ruleset(vms, self.pool, uplinks, link_local))
        if not bridge.forwarding:
            await netlink.set_forwarding(bridge, on=True)
        await self._forwarding.turn_on(links)
        await netlink.set_neighbours({vm.address: vm.mac for vm in vms if vm.address})
        down = netlink.names(TAP_PREFIX) if self._down is None else sorted(self._down)
        for name in down:
            await netlink.set_up(name)
        self._down = set()

    async def _uplink_links(self) -> list[netlink.Link]:
        names = self._uplinks or await netlink.uplink_names(_FAR_AWAY)
        links = [await netlink.find(name) for name in names]
        return [link for link in links if link is not None]

    async def _take_down(self) -> None:
        """Rules last: while the bridge exists they hold."""
        for draft in netlink.names(_DRAFT_PREFIX):
            await netlink.delete(draft)
        await self._forwarding.restore()
        await netlink.remove_bridge()
        await nft.load(takedown())
        self._down = None
