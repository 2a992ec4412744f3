"""What a row of the benchmark reports: tables, plots, and what was to be reached. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not exceeded by this share of all (nearest rank). ValueError if there is none."""
    if not values:
        raise ValueError("nothing was measured")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median(values: Sequence[float]) -> float:
    """The middle one, by nearest rank."""
    return percentile(values, 0.5)


def number(value: float) -> str:
    """Three digits that count, and no more than are there: 4,321, 43.2, 4.32, 0.043."""
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(places, 3)}f}"


def percent(share: float) -> str:
    """A share of 1, as exact as what it lacks to none or all of it asks for: 34%, 3.4%, 99.96%."""
    text = ""
    for places in range(4):
        text = f"{share:.{places}%}"
        if abs(float(text[:-1]) / 100 - share) <= 0.1 * min(share, 1 - share):
            break
    return text


def milliseconds(seconds: float) -> str:
    """With the unit."""
    return f"{number(seconds * 1000)} ms"


def microseconds(seconds: float) -> str:
    """With the unit."""
    return f"{number(seconds * 1e6)} µs"


def mebibytes(size: float) -> str:
    """Of bytes, with the unit."""
    return f"{number(size / 2**20)} MiB"


@dataclass(frozen=True)
class Goal:
    """One line of what was to be reached. `reached`: None where there is a figure to state and none to reach."""

    what: str
    to_reach: str
    measured: str
    reached: bool | None


@dataclass(frozen=True)
class Table:
    """Cells are text, as many in each row as there are headings. `note`: a sentence or two below."""

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def markdown(self) -> str:
        """Aligned, so that it can be read as it is."""
        lines = [list(self.headings), *map(list, self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [_line(line, widths) for line in lines]
        text.insert(1, "|".join(["", *("-" * (width + 2) for width in widths), ""]))
        return "\n".join(text) + ("\n" if not self.note else f"\n\n{self.note}\n")


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


@dataclass(frozen=True)
class Bars:
    """A picture of one figure for several things. `values` by name; `other`: those that are not openme's."""

    name: str
    title: str
    axis: str
    values: dict[str, float]
    other: frozenset[str] = frozenset()
    logarithmic: bool = False


@dataclass(frozen=True)
class Curves:
    """A picture of curves. Each by its name, as points (x, y); a name in `other` is not openme's."""

    name: str
    title: str
    axes: tuple[str, str]
    curves: dict[str, Sequence[tuple[float, float]]]
    other: frozenset[str] = frozenset()
    logarithmic: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class Report:
    """What one row has measured."""

    goals: Sequence[Goal]
    tables: Sequence[Table]
    plots: Sequence[Bars | Curves] = field(default_factory=tuple)

    def markdown(self) -> str:
        """All of its tables."""
        return "\n".join(table.markdown() for table in self.tables)


def goals_table(goals: Sequence[Goal]) -> Table:
    """What was to be reached, and what was."""
    said = {True: "yes", False: "no", None: "stated"}
    return Table(
        ("what", "to reach", "measured", "reached"),
        [(goal.what, goal.to_reach, goal.measured, said[goal.reached]) for goal in goals],
    )


def cumulative(values: Sequence[float]) -> list[tuple[float, float]]:
    """Points (value, percent of all that are not above it)."""
    ordered = sorted(values)
    return [(value, 100 * (place + 1) / len(ordered)) for place, value in enumerate(ordered)]
