"""The measurements: each returns tables, and leaves goals and samples in the Bench."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import imports, phases, stock
from tests.bench.floor import Floor, disk_series
from tests.bench.host import HERE, Host
from tests.bench.stats import Goal, Series, durations, milliseconds, ratio, table

HEADS = ("", "median ms", "least ms")
VM = "bench"


@dataclass(slots=True)
class Bench:
    """What the parts share."""

    host: Host
    cache: Path
    library: Path
    folder: Path
    n: int
    stock_n: int
    goals: list[Goal] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    _floor: Floor | None = None

    @property
    def floor(self) -> Floor:
        if self._floor is None:
            self._floor = Floor(self.folder / "floor", self.library)
        return self._floor

    @property
    def bare(self) -> list[str]:
        return [str(self.host.machine.layout.python), str(HERE / "bare.py")]

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
        "banger vm list, no VMs", ("", "median ms", "least ms", "CPU ms", "× bare"), _client(found, commands)
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
        commands = {"banger vm exec": ["banger", "vm", "exec", VM, "--", "true"], "bare script": bench.bare}
        found = bench.host.series(bench.n * 4, commands)
    finally:
        bench.host.once("banger", "vm", "delete", VM)
    bench.series += found.values()
    heads = ("", "median ms", "least ms", "CPU ms", "× bare")
    yield table("banger vm exec -- true, in a running VM", heads, _client(found, commands))
    bench.goals.append(
        ratio("vm exec -- true / bare script", found["banger vm exec"], found["bare script"], 1.5)
    )


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
    total, answered, floor = (
        Series("banger vm run --rm -- true"),
        Series("… until answered"),
        Series("floor A"),
    )
    parts = {name: Series(name) for name in (*phases.PHASES, "polkit")}
    boots = {name: Series(f"floor: {name}") for name in phases.PHASES[8:11]}
    checks = 0
    for _ in range(bench.n):
        done = bench.floor.run()
        floor.add((done.answered - done.start) * 1000)
        marks = (done.boot.spawned, done.boot.configured, done.boot.hello, done.boot.ready)
        for series, one, other in zip(boots.values(), marks, marks[1:], strict=False):
            series.add((other - one) * 1000)
        plain = bench.host.once(*phases.COMMAND)
        total.add((plain.end - plain.start) * 1000)
        cold = phases.traced(bench.host)
        answered.add(cold.answered)
        for name, length in (*cold.phases.items(), ("polkit", cold.polkit)):
            parts[name].add(length)
        checks = cold.checks
    bench.series += [total, answered, floor, *parts.values(), *boots.values()]
    rows = [
        (
            name,
            milliseconds(s.median),
            milliseconds(s.least),
            milliseconds(boots[name].median) if name in boots else "",
        )
        for name, s in parts.items()
        if name != "polkit"
    ]
    whole = sum(s.median for name, s in parts.items() if name != "polkit")
    rows.append(("sum of the medians (traced)", milliseconds(whole), "", ""))
    rows.append((f"of which {checks} polkit checks", *durations([parts["polkit"]])[0][1:], ""))
    yield table("Phases of a cold `banger vm run --rm -- true`", (*HEADS, "floor A ms"), rows)
    yield table("Whole", HEADS, durations([total, answered, floor]))
    bench.goals.append(ratio("vm run --rm -- true / floor A", total, floor, 1.3))
    bench.goals.append(ratio("… until answered / floor A (no goal of its own)", answered, floor, 1.3))


def stock_(bench: Bench) -> Iterator[str]:
    """The stock way, turn by turn with `banger vm run`."""
    begun = time.monotonic()
    built = stock.prepare(bench.cache)
    yield f"stock image: {built.folder.name}, kernel {built.release}, {time.monotonic() - begun:.0f} s to prepare\n"
    machine = bench.floor.machine()
    stock.run(built, bench.folder, machine)
    bench.host.once(*phases.COMMAND)
    copy, whole, banger = (
        Series("stock: copy of the image"),
        Series("stock: until ssh answered"),
        Series("banger vm run"),
    )
    for _ in range(bench.stock_n):
        one = stock.run(built, bench.folder, machine)
        copy.add(one.copied)
        whole.add(one.answered)
        ours = bench.host.once(*phases.COMMAND)
        banger.add((ours.end - ours.start) * 1000)
    bench.series += [copy, whole]
    yield table("The stock way", HEADS, durations([copy, whole, banger]))
    bench.goals.append(ratio("vm run --rm -- true / stock way", banger, whole, 0.15))


@dataclass(frozen=True, slots=True)
class Part:
    run: Callable[[Bench], Iterator[str]]
    needs_image: bool = True


PARTS = {
    "list": Part(list_, needs_image=False),
    "disk": Part(disk),
    "exec": Part(exec_),
    "run": Part(run),
    "stock": Part(stock_),
}
