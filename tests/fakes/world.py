"""The state of a host in memory, which the fakes of the ports share: to be looked at and broken."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from bangerd.core.ports import UnitSpec
from bangerd.model import mise
from bangerd.model.image import Image, Kernel
from bangerd.model.vm import VM, ExitRecord, Unit

IMAGE = Image(
    "aaaaaaaaaaaa",
    "debian-bookworm",
    "sha256:" + "a" * 64,
    300_000_000,
    1,
    0,
    "fake archive",
    packages=(mise.package(mise.NPM),),
)
KERNEL = Kernel(
    "bbbbbbbbbbbb",
    "debian-bookworm",
    "6.1.0-0-cloud-amd64",
    "sha256:" + "b" * 64,
    9_000_000,
    1,
    "fake archive",
)


@dataclass
class FakeGuest:
    """One running unit. `boots`: whether its guest program ever answers."""

    spec: UnitSpec
    lifeline: int | None
    ready: bool = False
    paused: bool = False


@dataclass
class World:
    """The host's state, which outlives any core built on it, as the real one outlives bangerd."""

    units: dict[str, Unit] = field(default_factory=dict)
    guests: dict[str, FakeGuest] = field(default_factory=dict)
    taps: set[str] = field(default_factory=set)
    disks: set[str] = field(default_factory=set)
    run_dirs: dict[str, bytes] = field(default_factory=dict)
    stale: set[str] = field(default_factory=set)  # run dirs in which something ran
    caches: dict[tuple[int, str], int] = field(default_factory=dict)  # owner and name -> holder's uid
    exits: dict[str, ExitRecord] = field(default_factory=dict)
    rows: dict[str, VM] = field(default_factory=dict)
    rules: tuple[str, ...] = ()
    last_uid: int = 0
    boot: str = "boot-1"
    boots: bool = True  # guests come up
    stops: bool = True  # guests heed a request to power off
    heeds_button: bool = False  # ... or the power button
    kvm: tuple[bool, str] = (True, "fake")
    console: tuple[str, ...] = ()
    vmm_words: tuple[str, ...] = ()
    memory_lacked: bool = False  # what the supervisor says of a unit that failed
    broken: dict[str, Exception] = field(default_factory=dict)  # effect name -> what it raises
    log: list[str] = field(default_factory=list)
    images: list[Image] = field(default_factory=lambda: [IMAGE])
    kernels: list[Kernel] = field(default_factory=lambda: [KERNEL])
    changed: Callable[[str], None] = lambda _sid: None

    def effect(self, name: str, sid: str) -> None:
        self.log.append(f"{name} {sid}")
        if name in self.broken:
            raise self.broken[name]

    def end(self, sid: str, record: ExitRecord | None, *, failed: bool = False) -> None:
        """The VMM of `sid` ends."""
        guest = self.guests.pop(sid, None)
        if guest is not None and guest.lifeline is not None:
            os.close(guest.lifeline)
        self.units[sid] = Unit.FAILED if failed else Unit.ABSENT
        self.stale.add(sid)
        if record is not None:
            self.exits[sid] = record
        self.changed(sid)

    def nothing_left(self) -> bool:
        live = {sid for sid, unit in self.units.items() if unit is not Unit.ABSENT}
        return not (
            live
            or any(self.caches.values())
            or self.guests
            or self.taps
            or self.disks
            or self.run_dirs
            or self.rows
            or self.rules
        )
