"""A server that has nothing to do sleeps, and what concerns it wakes it: long before it looks by itself, once a minute.

Every wait here is shorter than that minute, so that it fails where nobody is woken.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from openme.server.config_watch import LARGE
from openme.server.file_changes import LOOK_INTERVAL, FileChanges
from support.command import DEADLINE, Place, Server, place, until

REST = 3.0  # seconds; who looks twice a second wakes six times

assert DEADLINE < LOOK_INTERVAL


@pytest.fixture
def at(tmp_path: Path) -> Place:
    made = place(tmp_path)
    made.init()
    changes = FileChanges([made.config, made.state / "revoked"])
    told = changes.tells
    changes.close()
    if not told:
        pytest.skip("this machine keeps temporary files where the kernel tells nothing")
    return made


@pytest.fixture
def server(at: Place) -> Iterator[Server]:
    """Two clients, of whom one is revoked, and a server that sleeps."""
    at.client("alice")
    at.client("bob")
    at.ok("revoke", "bob")
    with at.serving() as made:
        until(lambda: sleeps(made), "it sleeps", 2 * DEADLINE)
        yield made


def processes(server: Server) -> list[int]:
    """Keeper, listener, guardian."""
    keeper = server.process.pid
    return [keeper, *map(int, Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split())]


def wakings(server: Server) -> int:
    """How often its processes have gone to sleep."""
    statuses = [Path(f"/proc/{pid}/status").read_text() for pid in processes(server)]
    return sum(
        int(line.split()[1]) for status in statuses for line in status.splitlines() if line.startswith("voluntary_ctxt")
    )


def sleeps(server: Server) -> bool:
    """Whether none of its processes wakes for a while."""
    before = wakings(server)
    time.sleep(REST)  # that nothing happens can only be seen by waiting
    return wakings(server) == before


def test_with_nothing_to_do_none_of_its_processes_wakes(server: Server) -> None:
    assert len(processes(server)) == 3


def edited(at: Place, _server: Server) -> None:
    at.set("knock_timeout", "17s")


def edited_in_place(at: Place, _server: Server) -> None:
    at.config.write_text(at.config.read_text() + "# more\n")


def broken(at: Place, _server: Server) -> None:
    at.write("server: [")


def away(at: Place, _server: Server) -> None:
    at.config.unlink()


def opened_to_others(at: Place, _server: Server) -> None:
    at.config.chmod(0o666)


def large(at: Place, _server: Server) -> None:
    at.write(at.config.read_text() + f"# {'x' * LARGE}\n")


def no_more_revoked(at: Place, _server: Server) -> None:
    (at.state / "revoked").unlink()
    (at.state / "revoked.copy").unlink()


def guardian_killed(_at: Place, server: Server) -> None:
    os.kill(processes(server)[2], signal.SIGKILL)


def asked(_at: Place, server: Server) -> None:
    server.process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (edited, "config in force: "),
        (edited_in_place, "config in force: "),
        (broken, "the config on disk is NOT in force"),
        (away, "the config on disk is NOT in force"),
        (opened_to_others, "the config on disk is NOT in force"),
        (large, "config in force: "),
        (no_more_revoked, "the list of revoked keys is damaged"),
        (guardian_killed, "the guardian was killed"),
        (asked, "asked to look at the config"),
    ],
)
def test_what_concerns_it_wakes_it(
    at: Place, server: Server, event: Callable[[Place, Server], None], said: str
) -> None:
    assert said not in server.log
    event(at, server)
    server.logs(said)


def has_followed(server: Server, times: int) -> bool:
    return server.log.count("config in force: ") == times


def test_what_was_changed_while_it_slept_through_another_change_is_seen_too(at: Place, server: Server) -> None:
    """Each is told anew: a wake-up takes nothing from the next one."""
    for changes in range(1, 4):
        at.set("knock_timeout", f"{10 + changes}s")
        until(partial(has_followed, server, changes), "each is in force")
