"""The measurements: each returns tables, and leaves goals and samples in the Bench."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import boots, completion, images, imports, phases, shim, stock, workspace
from tests.bench.floor import Floor, Run, disk_series
from tests.bench.guest import stretches
from tests.bench.host import HERE, Host
from tests.bench.stats import Goal, Series, Sheet, durations, milliseconds, ratio, table

HEADS = ("", "median ms", "least ms")
VM = "bench"
RUN, ANSWERED, FLOOR = "banger vm run --rm -- true", "… until `true` had run (traced)", "floor A"
# systemctl fails until systemd, and then the guest's bus, is up.
SETTLE = "until systemctl is-system-running --wait | grep -qE 'running|degraded'; do sleep 0.2; done"
STOCK = "stock way: until ssh answered"
POLKIT = "polkit"
TOGETHER = "all together"


@dataclass(slots=True)
class Bench:
    """What the parts share."""

    host: Host
    cache: Path
    library: Path
    kvm: bool
    folder: Path
    n: int
    stock_n: int
    goals: list[Goal] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    _floor: Floor | None = None

    @property
    def floor(self) -> Floor:
        if self._floor is None:
            self._floor = Floor(self.folder / "floor", self.host.machine.state)
        return self._floor

    @property
    def bare(self) -> list[str]:
        return [str(self.host.machine.layout.python), str(HERE / "bare.py")]

    def keep(self, *sheets: Sheet) -> None:
        self.series += [series for sheet in sheets for series in sheet.values()]

    def samples(self) -> dict[str, list[float]]:
        return {series.name: series.samples for series in self.series}

    def close(self) -> None:
        if self._floor is not None:
            self._floor.close()


def list_(bench: Bench) -> Iterator[str]:
    """`banger vm list` against the two ways to make the same call without banger's client."""
    busctl = ["busctl", "--system", "call", "com.thaloco.Banger1", "/com/thaloco/Banger1"]
    commands = {
        "banger vm list": ["banger", "vm", "list"],
        "bare script": bench.bare,
        "busctl call": [*busctl, "com.thaloco.Banger1.Manager", "ListVMs", "a{sv}", "0"],
    }
    found = bench.host.series(bench.n * 4, commands)
    bench.series += found.values()
    yield table(
        "banger vm list, no VMs", ("", "median ms", "least ms", "CPU ms", "x bare"), _client(found, commands)
    )
    bench.goals.append(ratio("vm list / bare script", found["banger vm list"], found["bare script"], 1.3))
    times = imports.own_times(bench.host, "vm", "list")
    rows = [(name, milliseconds(own)) for name, own in list(times.items())[:10]]
    rest = sum(list(times.values())[10:])
    yield table("its imports, by package", ("", "own ms"), [*rows, ("all others", milliseconds(rest))])


def _client(found: dict[str, Series], names: object) -> Iterator[tuple[str, ...]]:
    bare = found["bare script"]
    for name in names:  # type: ignore[attr-defined]
        one = found[name]
        share = ratio("", one, bare, 0).figure
        cpu = milliseconds(found[f"{name}.cpu"].median)
        yield name, milliseconds(one.median), milliseconds(one.least), cpu, f"{share:.2f}"


def exec_(bench: Bench) -> Iterator[str]:
    """`banger vm exec NAME -- true` in a VM that runs."""
    bench.host.once("banger", "vm", "run", "--name", VM, "--", "true")
    try:
        # Its services start for a while after the agent is ready, and would share the VM's CPU with what is measured.
        bench.host.once("banger", "vm", "exec", VM, "--", "sh", "-c", SETTLE)
        commands = {"banger vm exec": ["banger", "vm", "exec", VM, "--", "true"], "bare script": bench.bare}
        found = bench.host.series(bench.n * 4, commands)
        spans = Sheet()
        for _ in range(bench.n * 2):
            spans.add(
                {
                    **phases.traced_exec(bench.host, VM),
                    "the session alone, by the shim's socket": _session(bench.host),
                }
            )
    finally:
        bench.host.once("banger", "vm", "delete", VM)
    bench.series += found.values()
    bench.keep(spans)
    heads = ("", "median ms", "least ms", "CPU ms", "x bare")
    yield table("banger vm exec -- true, in a running VM", heads, _client(found, commands))
    yield table("its phases", HEADS, durations(spans.values()))
    bench.goals.append(
        ratio("vm exec -- true / bare script", found["banger vm exec"], found["bare script"], 1.5)
    )


def _session(host: Host) -> float:
    """`true` in the one VM that runs, in milliseconds."""
    (folder,) = host.machine.run_folder.iterdir()
    start = time.perf_counter()
    shim.execute(folder, "true")
    return (time.perf_counter() - start) * 1000


def workspace_(bench: Bench) -> Iterator[str]:
    """A repository into a VM that runs, of 5,000 and of 50,000 files."""
    bench.host.once("banger", "vm", "run", "--name", VM, "--vcpu", "2", "--", "true")
    try:
        bench.host.once("banger", "vm", "exec", VM, "--", "sh", "-c", SETTLE)
        yield from _workspace(bench, 5_000, bench.n)
        # Minutes each where the CPU is emulated, so that a turn which does not count would not pay.
        yield from _workspace(bench, 50_000, 1, warm=True)
    finally:
        bench.host.once("banger", "vm", "delete", VM)


def _workspace(bench: Bench, files: int, turns: int, *, warm: bool = False) -> Iterator[str]:
    guest = workspace.Guest(bench.host, VM)
    found = Sheet()
    with workspace.made(bench.host, files) as repo:
        ways = dict(workspace.commands(guest, repo))
        for number in range(turns + (not warm)):
            times = {}
            for name, argv in ways.items():
                times[f"{name}, {files} files"] = guest.timed(*argv)
                guest.clear()
            if number or warm:
                found.add(times)
    bench.keep(found)
    yield table(f"A repository of {files:,} files into a VM", HEADS, durations(found.values()))
    ours, with_git, without = found.values()
    bench.goals.append(ratio(f"workspace of {files:,} files / tar | ssh with .git", ours, with_git, 1.1))
    bench.goals.append(ratio("… without .git (for comparison)", ours, without, 1.1))


def pull(bench: Bench) -> Iterator[str]:
    """An image of a registry, turn by turn with the tools that do it by hand."""
    sheet = Sheet()
    with images.served(bench.host, bench.folder / "pull"):
        images.by_banger(bench.host)
        for _ in range(bench.n):
            hand = images.by_hand(bench.host, bench.folder / "by-hand")
            sheet.add(
                {"banger image pull": images.by_banger(bench.host), "by hand": sum(hand.values()), **hand}
            )
    bench.keep(sheet)
    size = images.LAYERS * images.FILES * images.MEAN / 1e6
    title = f"An image of {images.LAYERS} layers, {images.LAYERS * images.FILES:,} files, {size:.0f} MB"
    yield table(title, HEADS, durations(sheet.values()))
    bench.goals.append(ratio("image pull / by hand", sheet["banger image pull"], sheet["by hand"], 1.1))


def disk(bench: Bench) -> Iterator[str]:
    """A VM's disk."""
    series = disk_series(bench.floor, bench.n * 4)
    bench.series.append(series)
    size = bench.floor.vm.spec.disk / 1024**3
    yield table(f"Disk of {size:g} GiB", HEADS, durations([series]))
    bench.goals.append(Goal("a VM's disk", series.median, 10, " ms"))


def run(bench: Bench) -> Iterator[str]:
    """A cold `banger vm run --rm -- true`, whole and in phases, turn by turn with floor A."""
    bench.host.once(*phases.COMMAND)
    bench.floor.run()
    whole, parts, boots, guest, cpu = Sheet(), Sheet(), Sheet(), Sheet(), Sheet()
    checks = 0
    for _ in range(bench.n):
        done = bench.floor.run()
        plain = bench.host.once(*phases.COMMAND)
        cold = phases.traced(bench.host)
        whole.add(
            {
                FLOOR: (done.answered - done.start) * 1000,
                RUN: (plain.end - plain.start) * 1000,
                f"{RUN}, traced": cold.total,
                ANSWERED: cold.answered,
            }
        )
        parts.add({**cold.phases, POLKIT: cold.polkit})
        boots.add(floor_phases(done))
        guest.add(stretches(done.kernel_log))
        cpu.add({**cold.cpu, TOGETHER: sum(cold.cpu.values()), f"{FLOOR}: {phases.VMM_CPU}": done.boot.cpu})
        checks = cold.checks
    bench.keep(whole, parts, guest, cpu)
    yield table("Whole", HEADS, durations(whole.values()))
    yield table(
        "Phases of a cold `banger vm run --rm -- true`",
        (*HEADS, "floor A ms"),
        _phases(parts, boots, checks),
    )
    yield table("Inside the guest, on its own clock (floor A)", HEADS, durations(guest.values()))
    yield table("CPU time of one run", HEADS, durations(cpu.values()))
    bench.goals.append(ratio("vm run --rm -- true / floor A", whole[RUN], whole[FLOOR], 1.3))
    bench.goals.append(
        ratio("… until answered / floor A (for comparison)", whole[ANSWERED], whole[FLOOR], 1.3)
    )


def floor_phases(done: Run) -> dict[str, float]:
    """The phases that floor A has too."""
    marks = (done.start, done.boot.spawned, done.boot.configured, done.boot.ready, done.answered)
    names = (phases.UNIT, phases.VMM, phases.BOOT, phases.SESSION)
    return {name: (end - at) * 1000 for name, at, end in zip(names, marks, marks[1:], strict=False)}


def _phases(parts: Sheet, boots: Sheet, checks: int) -> Iterator[tuple[str, ...]]:
    for name in phases.PHASES:
        floor = milliseconds(boots[name].median) if name in boots else ""
        yield name, milliseconds(parts[name].median), milliseconds(parts[name].least), floor
    total = sum(parts[name].median for name in phases.PHASES)
    yield "sum of the medians", milliseconds(total), "", milliseconds(sum(s.median for s in boots.values()))
    (row,) = durations([parts[POLKIT]])
    yield f"of which {checks} polkit checks", *row[1:], ""


def boot(bench: Bench) -> Iterator[str]:
    """The same with each VMM that works here, turn by turn with the VMM alone."""
    with boots.pairs(bench.folder, bench.library, bench.host, kvm=bench.kvm) as made:
        sheets: list[Sheet] = []
        yield from boots.measure(made, bench.n, sheets, bench.goals)
        bench.keep(*sheets)


def stock_(bench: Bench) -> Iterator[str]:
    """The stock way, turn by turn with `banger vm run`."""
    begun = time.monotonic()
    built = stock.prepare(bench.cache)
    yield f"stock image: {built.folder.name}, kernel {built.release}, {time.monotonic() - begun:.0f} s to prepare\n"
    machine = bench.floor.machine()
    stock.run(built, bench.folder, machine)
    bench.host.once(*phases.COMMAND)
    sheet = Sheet()
    for _ in range(bench.stock_n):
        one = stock.run(built, bench.folder, machine)
        ours = bench.host.once(*phases.COMMAND)
        sheet.add(
            {
                STOCK: one.answered,
                "… of which copying the image": one.copied,
                RUN: (ours.end - ours.start) * 1000,
            }
        )
    bench.keep(sheet)
    yield table("The stock way", HEADS, durations(sheet.values()))
    bench.goals.append(ratio("vm run --rm -- true / stock way", sheet[RUN], sheet[STOCK], 0.15))


def completion_(bench: Bench) -> Iterator[str]:
    """A press of TAB."""
    yield from completion.measure(bench.host, bench.n * 2, bench.series, bench.goals)


@dataclass(frozen=True, slots=True)
class Part:
    run: Callable[[Bench], Iterator[str]]
    needs_image: bool = True


PARTS = {
    "list": Part(list_, needs_image=False),
    "disk": Part(disk),
    "exec": Part(exec_),
    "run": Part(run),
    "boot": Part(boot),
    "workspace": Part(workspace_),
    "pull": Part(pull),
    "stock": Part(stock_),
    "completion": Part(completion_),  # the last: it leaves VMs behind
}
