"""The IPv4 forwarding switches of single interfaces: what banger set is recorded first, and set back at the end.

The global switch (net.ipv4.ip_forward) is never touched: it would turn the host into a router for everybody.
"""

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass
from pathlib import Path

from bangerd.host import ethtool, netlink

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Entry:
    """An interface on which banger switched forwarding on: its index then, and the global switch then."""

    index: int
    globally: bool
    lro: bool  # large receive offload was on


class Forwarding:
    """`record` is a file that lives as long as the kernel's settings: in the runtime folder, gone after a reboot."""

    def __init__(self, record: Path) -> None:
        self._record = record

    def only_for_guests(self, links: Iterable[netlink.Link]) -> frozenset[str]:
        """Names of those that forward, or will after turn_on(), for banger's sake alone."""
        if globally_on():
            return frozenset()
        recorded = self._load()
        return frozenset(link.name for link in links if link.name in recorded or not link.forwarding)

    async def turn_on(self, links: Iterable[netlink.Link]) -> None:
        """Let these forward, and set back those that did for banger and are not among them. Raises StepFailed."""
        links = list(links)
        recorded = self._load()
        for link in links:
            if link.forwarding:
                continue
            entry = recorded.get(link.name)
            if entry is None or entry.index != link.index:
                # Recorded before it is changed: a crash in between sets back what was not changed.
                recorded[link.name] = _Entry(link.index, globally_on(), lro=ethtool.lro(link.name))
                self._save(recorded)
            ethtool.set_lro(link.name, on=False)
            await netlink.set_forwarding(link, on=True)
            log.info(
                "IPv4 forwarding switched on for %s; it was off, and will be after the last VM", link.name
            )
        await self._set_back(recorded.keys() - {link.name for link in links}, recorded)

    async def restore(self) -> None:
        """Set back all that turn_on() changed. Raises StepFailed."""
        recorded = self._load()
        await self._set_back(set(recorded), recorded)
        self._record.unlink(missing_ok=True)

    async def _set_back(self, names: Iterable[str], recorded: dict[str, _Entry]) -> None:
        for name in sorted(names):
            entry = recorded[name]
            link = await netlink.find(name)
            # Somebody who set the global switch since then wants all interfaces to forward.
            wanted_by_others = globally_on() and not entry.globally
            if link is not None and link.index == entry.index and link.forwarding and not wanted_by_others:
                await netlink.set_forwarding(link, on=False)
                if entry.lro:
                    ethtool.set_lro(name, on=True)
                log.info("IPv4 forwarding switched off again for %s", name)
            del recorded[name]
            self._save(recorded)

    def _load(self) -> dict[str, _Entry]:
        try:
            items = json.loads(self._record.read_bytes())
        except FileNotFoundError:
            return {}
        return {name: _Entry(*values) for name, values in items.items()}

    def _save(self, recorded: dict[str, _Entry]) -> None:
        items = {name: astuple(entry) for name, entry in recorded.items()}
        draft = self._record.with_suffix(".new")
        draft.write_text(json.dumps(items), encoding="utf-8")
        os.replace(draft, self._record)  # noqa: PTH105, as in every atomic write


def globally_on() -> bool:
    """Whether net.ipv4.ip_forward is set. Read where a service with ProcSubset=pid can."""
    with Path("/proc/thread-self/net/snmp").open(encoding="ascii") as lines:
        names, values = (next(lines).split() for _ in range(2))
    return dict(zip(names, values, strict=True))["Forwarding"] == "1"
