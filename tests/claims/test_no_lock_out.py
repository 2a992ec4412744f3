"""`no_lock_out`: the operator's way in survives whatever happens to the server, the host's firewall and its network.

Two sessions are held throughout, as an operator holds them: one from before openme was ever started here, and one that
came in through a door whose time is over. After each blow both must still carry bytes, a stranger must find the port
hidden, and a knock must open it, all within about a second.
"""

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from support.claims import SSH, ClaimsWorld
from support.netns import connect, until, v4
from support.server import KNOCK_PORT, SERVER, ServerWorld, echoes

pytestmark = pytest.mark.root

ABOUT_A_SECOND = 1.5
REPAIRED = "putting openme's rules back"
HOST_RULES = """
flush ruleset
table inet host {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iif lo accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    }
}
"""


class Sessions:
    """The connections that must live through it all."""

    def __init__(self, world: ClaimsWorld) -> None:
        world.reset()
        world.edit(knock_timeout="1s")
        self.world = world
        self.from_before = world.connection(world.client, SSH)
        assert echoes(self.from_before)
        world.start()
        world.assert_opens(world.alice)
        self.through_the_door = world.connection(world.client, SSH)
        assert echoes(self.through_the_door)
        until(lambda: not world.is_in("alice"), 4)
        until(lambda: not connects(world), 1)  # the kernel counts from when it was told, some milliseconds later

    def hold(self) -> None:
        for name, session in (("from before", self.from_before), ("through the door", self.through_the_door)):
            assert echoes(session), f"the session {name} is dead:\n{self.world.log()}"


@pytest.fixture
def sessions(hosts: ClaimsWorld) -> Iterator[Sessions]:
    yield Sessions(hosts)
    hosts.kill()


def hidden(world: ClaimsWorld) -> bool:
    return world.tcp(world.stranger, SSH) == "filtered"


def knocks_in(world: ClaimsWorld, seconds: float = ABOUT_A_SECOND, subnet: int = 0) -> None:
    """A client that knocks as people do, again when nothing opens, is in before the time is over."""
    deadline = time.monotonic() + seconds
    while not _gets_in(world, subnet):
        assert time.monotonic() < deadline, f"nobody gets in\n{world.log()}\n{world.server.ruleset()}"


def _gets_in(world: ClaimsWorld, subnet: int) -> bool:
    with closing(world.socket_on(world.client, socket.SOCK_DGRAM)) as sender:
        try:
            sender.sendto(world.signed(world.alice), (v4(1, subnet), KNOCK_PORT))
        except OSError:  # no way there yet
            time.sleep(0.05)
            return False
    return any(connects(world, v4(1, subnet)) for _ in range(4))


def connects(world: ClaimsWorld, server: str = SERVER[4]) -> bool:
    """One attempt, so short that TCP does not repeat its first packet."""
    with closing(world.socket_on(world.client, socket.SOCK_STREAM)) as attempt:
        attempt.settimeout(0.05)
        try:
            attempt.connect((server, SSH))
        except OSError:
            return False
        return True


def flush(world: ClaimsWorld) -> None:
    world.server.nft("flush ruleset")


def reload_host_rules(world: ClaimsWorld) -> None:
    world.server.nft(HOST_RULES)


def reload_host_rules_twice(world: ClaimsWorld) -> None:
    world.server.nft(HOST_RULES)
    world.says(REPAIRED)
    world.server.nft(HOST_RULES)


def stop_and_start(world: ClaimsWorld) -> None:
    world.restart()


def kill_and_start(world: ClaimsWorld) -> None:
    world.kill()
    world.start()


def stop_flush_and_start(world: ClaimsWorld) -> None:
    assert world.stop() == 0
    world.server.nft("flush ruleset")
    world.start()


def link_down_and_up(world: ClaimsWorld) -> None:
    world.server.run("ip", "link", "set", "eth0", "down")
    until(lambda: not connects(world), 1)  # the kernel counts from when it was told, some milliseconds later
    link_up(world)


def link_up(world: ClaimsWorld) -> None:
    world.server.run("ip", "link", "set", "eth0", "up")
    # The kernel has taken the IPv6 address away with the link; whoever configures the host's network puts it back.
    world.server.run("ip", "address", "replace", f"{SERVER[6]}/64", "dev", "eth0", "nodad")


@pytest.mark.parametrize(
    ("blow", "said"),
    [
        (flush, REPAIRED),
        (reload_host_rules, REPAIRED),
        (reload_host_rules_twice, REPAIRED),
        (stop_and_start, "serving:"),
        (kill_and_start, "serving:"),
        (stop_flush_and_start, "serving:"),
        (link_down_and_up, "serving:"),
    ],
)
def test_sessions_live_and_knocking_works_after(
    sessions: Sessions, blow: Callable[[ClaimsWorld], None], said: str
) -> None:
    world = sessions.world
    sessions.hold()
    blow(world)
    knocks_in(world)
    sessions.hold()
    until(lambda: hidden(world), ABOUT_A_SECOND)
    world.says(said, ABOUT_A_SECOND)
    until(lambda: not world.is_in("alice"), 4)
    until(lambda: not connects(world), 1)  # the kernel counts from when it was told, some milliseconds later
    sessions.hold()


def test_a_session_from_before_the_first_start_lives_whoever_speaks_first(hosts: ClaimsWorld) -> None:
    hosts.reset()
    for version in (4, 6):
        idle = hosts.connection(hosts.client, SSH, version)
        hosts.start()
        assert hosts.tcp(hosts.client, SSH, version) == "filtered"
        assert echoes(idle), "the client speaks first, to a host that did not track connections when it came"
        hosts.kill()
        hosts.server.nft("flush ruleset")


def test_a_session_during_a_stop_lives_after_the_start(sessions: Sessions) -> None:
    world = sessions.world
    assert world.stop() == 0
    while_stopped = world.connection(world.client, SSH)
    world.start()
    assert echoes(while_stopped)
    sessions.hold()


def test_a_named_interface_that_is_deleted_and_made_again(hosts: ClaimsWorld) -> None:
    hosts.reset()
    hosts.edit(interface="eth1")
    hosts.start()
    hosts.says("interface eth1 is not there")
    assert hosts.tcp(hosts.client, SSH) == "open", "the rules are for another interface"
    for _ in range(2):
        connect(hosts.server, hosts.client, "eth1", subnet=1)
        assert not connects(hosts, v4(1, 1))
        knocks_in(hosts, subnet=1)
        with closing(hosts.socket_on(hosts.client, socket.SOCK_STREAM)) as session:
            session.connect((v4(1, 1), SSH))
            hosts.close("alice")
            assert not connects(hosts, v4(1, 1))
            assert echoes(session)
        hosts.server.run("ip", "link", "delete", "eth1")
    assert hosts.process is not None
    assert hosts.process.poll() is None


def test_a_boot_without_network(hosts: ClaimsWorld) -> None:
    hosts.reset()
    for device in ("eth0", "lo"):
        hosts.server.run("ip", "link", "set", device, "down")
    try:
        hosts.start()
        assert not connects(hosts)
    finally:
        hosts.server.run("ip", "link", "set", "lo", "up")
        link_up(hosts)
    until(lambda: hidden(hosts))
    assert not connects(hosts)
    knocks_in(hosts)
    assert hosts.tcp(hosts.client, SSH) == "open"


def test_a_first_start_that_fails_leaves_nothing_behind(hosts: ClaimsWorld) -> None:
    """The firewall refuses the rules: one line, no rule, nothing kept hidden, and the next start works."""
    hosts.reset()
    hosts.server.nft(HOST_RULES)
    before = hosts.server.ruleset()
    hosts.edit(interface="a!b")
    session = hosts.connection(hosts.server, SSH)
    hosts.begin()
    assert hosts.wait() == 1
    errors = [line for line in hosts.log().splitlines() if "openme: error:" in line]
    assert len(errors) == 1
    assert "'a!b' is not a usable interface name" in errors[0]
    assert "Traceback" not in hosts.log()
    assert hosts.server.ruleset() == before
    assert not {"hidden_ports", "control"} & {path.name for path in hosts.state_dir.iterdir()}
    assert echoes(session)
    hosts.edit(interface=None)
    hosts.start()
    knocks_in(hosts)


def test_a_first_start_that_is_refused_does_not_make_the_next_one_a_later_one(stack: ExitStack, tmp_path: Path) -> None:
    """Without `init` the first start makes the replay memory: else nobody would get in for the replay window."""
    world = ServerWorld(stack, tmp_path)
    shutil.rmtree(world.state_dir)
    world.folder.chmod(0o777)
    assert world.begin().wait(20) == 1
    assert "could write" in world.log()
    world.folder.chmod(0o700)
    world.start()
    assert "replay memory" not in world.log()
