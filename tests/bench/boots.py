"""`banger vm run -- true` turn by turn with the bare VMM, for each VMM that works here, in phases."""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench import direct, phases
from tests.bench.direct import Boot
from tests.bench.floor import Ground
from tests.bench.guest import TOLD
from tests.bench.host import Host, running
from tests.bench.stats import Goal, Sheet, durations, milliseconds, ratio, table

VM = "bench-boot"
BARE, KEPT, DELETED = "bare {}", "banger vm run -- true, {}", "banger vm run --rm -- true, {}, traced"
LIMIT = 1.3
# Turns that are not counted. Caches need one; where the CPU is emulated the emulator's translations take several.
WARMING = 3
HEADS = ("", "median ms", "least ms", "bare ms")


@dataclass(frozen=True, slots=True)
class Pair:
    """What is compared of one VMM."""

    name: str
    host: Host
    ground: Ground

    def turn(self) -> tuple[dict[str, float], Boot]:
        """Whole times, and the bare VMM's boot."""
        bare = direct.boot(self.ground)
        kept = self.host.once("banger", "vm", "run", "--quiet", "--name", VM, "--", "true")
        self.host.once("banger", "vm", "delete", VM)
        whole = {BARE: bare.answered - bare.start, KEPT: kept.end - kept.start}
        named = {text.format(self.name): length * 1000 for text, length in whole.items()}
        return named, bare


def _spans(bare: Boot) -> dict[str, float]:
    """The phases that a bare VMM has too."""
    marks = (bare.start, bare.configured, bare.ready, bare.answered)
    names = (phases.VMM, phases.BOOT, phases.SESSION)
    return {name: (end - at) * 1000 for name, at, end in zip(names, marks, marks[1:], strict=False)}


@contextmanager
def pairs(folder: Path, library: Path, host: Host, *, kvm: bool) -> Iterator[list[Pair]]:
    """Firecracker, if FIRECRACKER_BIN names it and KVM works, and QEMU with whatever works, for which `host` is."""
    binary = os.environ.get("FIRECRACKER_BIN", "")
    with ExitStack() as stack:
        hosts = {"qemu": host}
        if binary and kvm:
            config = f'vmm = "firecracker"\nfirecracker_bin = "{binary}"\n'
            # Their VMs have the same uids, of which never two are in use: turns are taken one after the other.
            microvms = stack.enter_context(running(folder / "microvms", library, config))
            hosts = {"firecracker": microvms, **hosts}
        made = []
        for name, its in hosts.items():
            ground = direct.ground(name, folder / f"bare-{name}", its.machine.state, binary)
            stack.callback(ground.close)
            made.append(Pair(name, its, ground))
        yield made


def measure(made: list[Pair], rounds: int, sheets: list[Sheet], goals: list[Goal]) -> Iterator[str]:
    whole, cpu = Sheet(), Sheet()
    ours, bare = {pair.name: Sheet() for pair in made}, {pair.name: Sheet() for pair in made}
    for pair in made * WARMING:
        pair.turn()
    for turn in range(rounds):
        for pair in made[::-1] if turn % 2 else made:
            times, boot = pair.turn()
            said = ", ".join(f"{name} {milliseconds(length)}" for name, length in times.items())
            print(f"turn {turn + 1}: {said} ms", file=sys.stderr, flush=True)
            whole.add(times)
            bare[pair.name].add({**_spans(boot), **boot.guest})
            cpu.add({f"{BARE.format(pair.name)}: the VMM": boot.cpu})
            if turn % 2 == 0:
                traced = phases.traced(pair.host)
                ours[pair.name].add({**traced.phases, **traced.guest})
                cpu.add({f"{pair.name}: {name}": used for name, used in traced.cpu.items()})
                whole.add({DELETED.format(pair.name): traced.total})
    sheets += [whole, cpu]
    yield table("From nothing to the status of `true`", HEADS[:3], durations(whole.values()))
    for pair in made:
        yield _phases(pair.name, ours[pair.name], bare[pair.name])
        name = KEPT.format(pair.name)
        goals.append(ratio(f"{name} / bare", whole[name], whole[BARE.format(pair.name)], LIMIT))
    yield table("CPU time of a run, of the witnesses' too", HEADS[:3], durations(cpu.values()))
    if len(made) > 1:
        one, other = (KEPT.format(pair.name) for pair in made)
        goals.append(ratio("banger vm run -- true, Firecracker / QEMU", whole[one], whole[other], 1))


def _phases(vmm: str, ours: Sheet, bare: Sheet) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for name in (*phases.PHASES, *TOLD.values()):
            if name not in ours:
                continue
            floor = milliseconds(bare[name].median) if name in bare else ""
            yield name, milliseconds(ours[name].median), milliseconds(ours[name].least), floor

    return table(f"Phases with {vmm}; those of the guest are part of its boot", HEADS, rows())
