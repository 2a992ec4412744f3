"""The rows of the benchmark's table, each by its name: what it measures at full size and, to try it out, with few."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeVar

from bench.figures import Report
from bench.rows import clients, command, flood, idle, large_file, latency, memory, throughput

Sizes = TypeVar("Sizes")


class Row(NamedTuple):
    """`measure` takes what stands in the documents, `try_out` a second or two, with figures that say nothing.

    `part`: what has these words in its name, at full size, where a row can be had in parts.
    """

    title: str
    measure: Callable[[], Report]
    try_out: Callable[[], Report]
    part: Callable[[str], Report] | None = None


def _row(title: str, measure: Callable[[Sizes], Report], full: Sizes, small: Sizes) -> Row:
    return Row(title, partial(measure, full), partial(measure, small))


ROWS = {
    "throughput": _row(throughput.TITLE, throughput.measure, throughput.Sizes(), throughput.SMALL),
    "latency": _row(latency.TITLE, latency.measure, latency.Sizes(), latency.SMALL),
    "clients": _row(clients.TITLE, clients.measure, clients.Sizes(), clients.SMALL),
    "large_file": _row(large_file.TITLE, large_file.measure, large_file.Sizes(), large_file.SMALL),
    "flood": _row(flood.TITLE, flood.measure, flood.Sizes(), flood.SMALL)._replace(
        part=partial(flood.measure, flood.Sizes())
    ),
    "memory": _row(memory.TITLE, memory.measure, memory.Sizes(), memory.SMALL),
    "command": _row(command.TITLE, command.measure, command.Sizes(), command.SMALL),
    "idle": _row(idle.TITLE, idle.measure, idle.Sizes(), idle.SMALL),
}
