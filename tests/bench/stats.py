"""Samples, their median and least, and tables of them for people."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Series:
    """Durations of one thing, in milliseconds, in the order in which they were measured."""

    name: str
    samples: list[float] = field(default_factory=list)

    def add(self, milliseconds: float) -> None:
        self.samples.append(milliseconds)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def least(self) -> float:
        return min(self.samples)


class Sheet(dict[str, Series]):
    """Series by name."""

    def add(self, turn: Mapping[str, float]) -> None:
        """One turn's durations, in milliseconds."""
        for name, length in turn.items():
            self.setdefault(name, Series(name)).add(length)


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure shall be at most. `figure` and `limit` are both ratios, or both milliseconds (`unit` " ms")."""

    text: str
    figure: float
    limit: float
    unit: str = ""

    @property
    def met(self) -> bool:
        return self.figure <= self.limit

    def row(self) -> tuple[str, ...]:
        digits = 1 if self.unit else 2
        return (
            self.text,
            f"{self.figure:.{digits}f}{self.unit}",
            f"≤ {self.limit:g}{self.unit}",
            "met" if self.met else "MISSED",
        )


def ratio(text: str, one: Series, other: Series, limit: float) -> Goal:
    """A goal on two series that were measured turn by turn: the median of the turns' own ratios, so that a change
    of the machine's load between turns cancels out."""
    pairs = zip(one.samples, other.samples, strict=True)
    return Goal(text, statistics.median(a / b for a, b in pairs), limit)


def pairs(title: str, rows: Iterable[tuple[str, str]]) -> str:
    """Names with their values."""
    lines = list(rows)
    width = max(len(name) for name, _ in lines)
    return "\n".join([title, "", *(f"{name.ljust(width)}  {value}" for name, value in lines), ""])


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Plain text; the first column to the left, all others to the right."""
    lines = [tuple(heads), *map(tuple, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]

    def drawn(line: Sequence[str]) -> str:
        cells = [line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([title, "", drawn(lines[0]), rule, *map(drawn, lines[1:]), ""])


def durations(series: Iterable[Series]) -> list[tuple[str, ...]]:
    """Rows of name, median, least."""
    return [(s.name, milliseconds(s.median), milliseconds(s.least)) for s in series]


def milliseconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"
