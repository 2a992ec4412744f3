"""The row `expiry` of the security model: an expired client opens nothing; a door never outlives its time.

Real: the server and its processes killed, frozen (SIGSTOP) and stopped, the kernel's own timeouts. Simulated: the
server's wall clock (libfaketime, see support/clock.py). A door's time runs in the kernel, on its monotonic clock.
"""

import itertools
import os
import signal
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from support.claims import SSH, ClaimsWorld
from support.handmade import FIN, PSH, SYN, URG, HandmadeConnection, conntrack_calls_it_established, wire
from support.kernel_doors import seconds_left, until_shut
from support.netns import until

pytestmark = pytest.mark.root

SHORT = 2.0  # seconds that a door stays open here


def _expire(world: ClaimsWorld, name: str, moment: datetime) -> None:
    """Give a client an expiry, by hand."""
    line = f"    expires: {moment.strftime('%Y-%m-%dT%H:%M:%S.%fZ')}\n"
    text = world.config.read_text()
    assert f"  {name}:\n" in text
    world.write_config(text.replace(f"  {name}:\n", f"  {name}:\n{line}"))


def _now(world: ClaimsWorld) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=world.clock.offset)


def _shut_after(world: ClaimsWorld, seconds: float) -> None:
    """The door is open now, for at most these seconds by the kernel's own clock, and shut when that has ended it."""
    assert world.tcp(world.client, SSH) == "open"
    until_shut(world.server, at_most=seconds)
    assert world.tcp(world.client, SSH) == "filtered"


def test_an_expired_client_opens_nothing(world: ClaimsWorld) -> None:
    _expire(world, "alice", _now(world) - timedelta(seconds=1))
    world.assert_refuses(*[world.signed(world.alice) for _ in range(5)])
    assert "alice: refused: expired" in world.log()
    assert world.opened("alice") == 0
    world.assert_opens(world.bob, "bob")


def test_expired_while_no_server_ran(world: ClaimsWorld) -> None:
    world.assert_opens(world.alice)
    world.kill()
    _expire(world, "alice", _now(world))
    world.start()
    assert world.tcp(world.client, SSH) == "filtered"
    world.assert_refuses(world.signed(world.alice))


def test_a_client_that_expires_while_its_door_is_open(world: ClaimsWorld) -> None:
    _expire(world, "alice", _now(world) + timedelta(seconds=2))
    world.assert_opens(world.alice)
    _shut_after(world, 2)
    until(lambda: not world.is_in("alice"))
    world.assert_refuses(world.signed(world.alice))


def test_an_expiry_written_while_the_door_is_open(world: ClaimsWorld) -> None:
    """Nothing knocks and nothing tells the server: it looks by itself."""
    world.assert_opens(world.alice)
    _expire(world, "alice", _now(world))
    until(lambda: world.tcp(world.client, SSH) == "filtered")  # its own time would be over much later
    assert "alice: closed for 192.0.2.2 (expired)" in world.log()


def test_expired_by_the_clock_that_is_turned_on(world: ClaimsWorld) -> None:
    _expire(world, "alice", _now(world) + timedelta(hours=1))
    world.assert_opens(world.alice)
    world.clock.step(3700)
    until(lambda: world.tcp(world.client, SSH) == "filtered")  # its own time would be over much later
    assert "alice: closed for 192.0.2.2 (expired)" in world.log()
    world.assert_refuses(world.signed(world.alice))


@pytest.mark.parametrize("who", ["keeper", "listener", "both"])
def test_killed_while_a_door_is_open(world: ClaimsWorld, who: str) -> None:
    world.edit(knock_timeout="2s")
    world.assert_opens(world.alice)
    keeper, listener = world.pids()[:2]
    for pid in {"keeper": [keeper], "listener": [listener], "both": [keeper, listener]}[who]:
        os.kill(pid, signal.SIGKILL)
    _shut_after(world, SHORT)
    assert world.wait() != 0
    until(lambda: not _is_there(listener))


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_frozen_while_a_door_is_open(world: ClaimsWorld) -> None:
    world.edit(knock_timeout="2s")
    world.assert_opens(world.alice)
    pids = world.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        _shut_after(world, SHORT)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    until(lambda: not world.is_in("alice"))
    until(lambda: world.tcp(world.client, SSH) == "filtered", 1)  # the kernel's clock may be milliseconds behind ours
    world.assert_opens(world.alice)


def test_a_frozen_server_opens_late_knocks_for_no_longer(world: ClaimsWorld) -> None:
    """What waited while the server was frozen is judged by the time at which it wakes."""
    world.edit(knock_timeout="2s", replay_window="1s")
    world.judged()
    packet = world.signed(world.alice)
    pids = world.pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    world.send(packet)
    time.sleep(1.2)  # the knock grows older than the window
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    world.says("alice: refused: time")
    assert world.tcp(world.client, SSH) == "filtered"


def test_stopped_while_a_door_is_open(world: ClaimsWorld) -> None:
    """A stopped server leaves nothing in the firewall: the port is then as the host's own rules have it."""
    before = world.server.ruleset()
    world.assert_opens(world.alice)
    assert "openme" in before
    assert world.stop() == 0
    assert world.server.ruleset() == ""
    world.start()
    assert world.tcp(world.client, SSH) == "filtered"  # and the door does not come back


@pytest.mark.parametrize("step", [-3600, 3600, -365 * 86400])
def test_clock_stepped_while_a_door_is_open(world: ClaimsWorld, step: int) -> None:
    world.edit(knock_timeout="2s")
    world.assert_opens(world.alice)
    world.clock.step(step)
    _shut_after(world, SHORT)
    until(lambda: not world.is_in("alice"))


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_restarted_with_the_clock_back_while_a_door_is_open(world: ClaimsWorld, how: str) -> None:
    """What is taken over keeps the kernel's remaining time, whatever the wall clock says by then."""
    world.edit(knock_timeout="6s")
    world.assert_opens(world.alice)
    left = max(seconds_left(world.server))
    world.kill() if how == "kill" else world.stop()
    world.clock.step(-86400)
    world.start()
    until_shut(world.server, at_most=left)
    assert world.tcp(world.client, SSH) == "filtered"  # stopped in order, the door has gone with the rules
    until(lambda: not world.is_in("alice"))


def test_knocking_again_starts_the_time_afresh_and_no_more(world: ClaimsWorld) -> None:
    world.edit(knock_timeout="2s")
    for _ in range(5):
        world.judged(world.signed(world.alice))
    world.assert_opens(world.alice)
    _shut_after(world, SHORT)


def test_max_timeout_is_the_shorter_of_the_two(world: ClaimsWorld) -> None:
    text = world.config.read_text().replace("  alice:\n", "  alice:\n    max_timeout: 2s\n")
    world.write_config(text.replace("  bob:\n", "  bob:\n    max_timeout: 1h\n"))
    world.assert_opens(world.alice)
    assert "alice: opened 22/tcp for 192.0.2.2 for 2s" in world.log()
    _shut_after(world, SHORT)
    world.assert_opens(world.bob, "bob")
    assert "bob: opened 22/tcp for 192.0.2.2 for 30s" in world.log()


def test_a_shorter_time_of_one_does_not_shorten_anothers_on_the_same_door(world: ClaimsWorld) -> None:
    """One address, two clients: the door lasts as long as the longer grant, and falls back to it."""
    world.write_config(world.config.read_text().replace("  alice:\n", "  alice:\n    max_timeout: 1s\n"))
    world.assert_opens(world.bob, "bob")
    world.assert_opens(world.alice)
    until(lambda: not world.is_in("alice"))
    assert world.tcp(world.client, SSH) == "open"
    world.close("bob")
    assert world.tcp(world.client, SSH) == "filtered"


SILENCE = 0.3  # seconds without an answer that mean silence: between namespaces a packet needs microseconds
_source_ports = itertools.count(40000)  # the service outlives the tests, and so do connections that were left there


def _door_for(world: ClaimsWorld, address: str, name: str = "alice") -> None:
    """Open port 22 for an address, by a knock that names it."""
    before = world.opened(name)
    profile = {"alice": world.alice, "bob": world.bob}[name]
    world.judged(world.packet(profile, target=ip_address(address), late=-world.clock.offset))
    until(lambda: world.opened(name) == before + 1)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("end", ["closed", "expired", "timed out", "killed"])
def test_what_was_let_in_goes_on_and_begins_nothing_new(world: ClaimsWorld, version: int, end: str) -> None:
    """A SYN over an entry that conntrack calls established, for the connection has ended behind its back."""
    if end in ("timed out", "killed"):
        world.edit(knock_timeout="2s")
    with wire(world.client, world.server, version) as cable:
        _door_for(world, cable.source)
        client = HandmadeConnection(cable, next(_source_ports), SSH)
        assert client.begin(1000)
        if end == "closed":
            world.close("alice")
        elif end == "expired":
            _expire(world, "alice", _now(world))
        elif end == "killed":
            world.kill()
        stranger = HandmadeConnection(cable, next(_source_ports), SSH)
        if end == "killed":
            until(lambda: "expires" not in world.server.run("nft", "list", "table", "inet", "openme"))
        else:
            until(lambda: not world.is_in("alice"))
        until(lambda: not stranger.begin(5, seconds=SILENCE))
        assert client.echoes(b"goes on")
        client.end_behind_conntracks_back(world.server)
        for isn, flags in enumerate((SYN, SYN | URG | PSH, SYN | FIN), 1):
            assert not client.begin(isn * 1_000_000, flags=flags, seconds=SILENCE)
        assert conntrack_calls_it_established(world.server, *client.ports), "which is what this is about"


@pytest.mark.parametrize("version", [4, 6])
def test_a_single_use_door_that_was_used_begins_nothing_new(world: ClaimsWorld, version: int) -> None:
    world.write_config(world.config.read_text().replace("  alice:\n", "  alice:\n    single_use: true\n"))
    with wire(world.client, world.server, version) as cable:
        _door_for(world, cable.source)
        client = HandmadeConnection(cable, next(_source_ports), SSH)
        syn = cable.tcp(*client.ports, SYN, seq=1000)
        cable.send(syn, syn)  # repeated, as by a client that hears nothing
        assert client.begin(1000)
        assert client.echoes(b"once")
        client.end_behind_conntracks_back(world.server)
        assert not client.begin(1_000_000, seconds=SILENCE)
        assert not client.begin(1000, seconds=SILENCE), "nor by the SYN that took the door"
        assert not HandmadeConnection(cable, next(_source_ports), SSH).begin(1000, seconds=SILENCE)
        _door_for(world, cable.source)
        assert client.begin(2_000_000)
        assert client.echoes(b"and once more")


@pytest.mark.parametrize("version", [4, 6])
def test_a_stranger_from_before_the_first_start_begins_nothing_new(world: ClaimsWorld, version: int) -> None:
    """Who got one connection in while no server ran needs no key to keep its entry."""
    assert world.stop() == 0
    world.server.nft("add table inet early; add chain inet early in { type filter hook input priority 0; };")
    world.server.nft("add rule inet early in ct state new accept")
    with wire(world.stranger, world.server, version) as cable:
        client = HandmadeConnection(cable, next(_source_ports), SSH)
        assert client.begin(1000)
        assert client.echoes(b"hello")
        world.start()
        assert client.echoes(b"lives on")
        client.end_behind_conntracks_back(world.server)
        assert not client.begin(1_000_000, seconds=SILENCE)
