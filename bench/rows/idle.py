"""What does a server use that has nothing to do?"""

import time
from contextlib import ExitStack
from dataclasses import dataclass

from bench import fwknop
from bench.figures import Goal, Report, Table, number, percent
from bench.world import world

TITLE = "Nothing to do"
_REST = 2.0  # seconds after its start


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    clients: int = 500
    seconds: float = 30.0


SMALL = Sizes(clients=5, seconds=0.5)


def measure(sizes: Sizes) -> Report:
    """Openme and fwknop beside each other."""
    with ExitStack() as stack:
        servers = {"openme": stack.enter_context(world(sizes.clients)).serve_openme()}
        if fwknop.is_there():
            hosts = stack.enter_context(world(1))
            servers["fwknop 2.6"] = stack.enter_context(fwknop.Fwknop(hosts, sizes.clients))
        time.sleep(_REST)
        before = {name: subject.used() for name, subject in servers.items()}
        begin = time.monotonic()
        time.sleep(sizes.seconds)
        seconds = time.monotonic() - begin
        used = {name: subject.used() - before[name] for name, subject in servers.items()}
    rows = [(name, percent(one.seconds / seconds), number(one.wakings / seconds)) for name, one in used.items()]
    ours = used["openme"].seconds / seconds
    return Report(
        [
            Goal("idle cost", "below 0.1% of a core", percent(ours), ours < 0.001),
            Goal(
                "idle, wake-ups",
                "those that the clock needs",
                f"{number(used['openme'].wakings / seconds)} a second",
                None,
            ),
        ],
        [Table(("server", "of a core", "wake-ups a second"), rows, f"Over {seconds:.0f} s, all processes.")],
    )
