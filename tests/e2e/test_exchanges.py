"""UDP has no beginning: who loses a right loses the exchanges with it, and keeps them when a door's time is over.

Half-open TCP handshakes are beginnings that have not been yet: none comes to stand after `revoke` has answered.
"""

import os
import re
import signal
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest

from openme.config.edit import remove_client
from support.netns import until
from support.server import CLIENT, SERVER, STRANGER, ServerWorld, echoes

pytestmark = pytest.mark.root

VPN, OTHER, SSH = 51820, 51821, 22
both_versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture
def served(world: ServerWorld) -> Iterator[ServerWorld]:
    """A server that is up, with services on UDP and TCP."""
    ports = f"[{VPN}/udp, {OTHER}/udp, {SSH}/tcp]"
    world.set_ports(default=ports)
    world.serve(udp=[VPN, OTHER], tcp=[SSH])
    yield world
    world.kill()


class Exchange:
    """A UDP exchange with the server, begun when it is made."""

    def __init__(self, world: ServerWorld, version: int = 4, port: int = VPN, *, stranger: bool = False) -> None:
        host = world.stranger if stranger else world.client
        self.socket = world.socket_on(host, socket.SOCK_DGRAM, version)
        world.stack.callback(self.socket.close)
        self.socket.connect((SERVER[version], port))
        until(self.goes_on)

    def goes_on(self) -> bool:
        """Whether a datagram reaches the service, and its echo us."""
        self.socket.send(b"echo")
        try:
            return self.socket.recv(10) == b"echo"
        except TimeoutError:
            return False


def serve_and_open(world: ServerWorld, profile: Path, version: int = 4) -> None:
    world.start()
    world.opens(profile, version=version, port=SSH)


def without(world: ServerWorld, name: str) -> str:
    """The config's text without a client."""
    found = re.search(rf"^  {name}:\n(?:    .*\n)*", world.config.read_text(), re.MULTILINE)
    assert found is not None
    return world.config.read_text().replace(found[0], "")


@both_versions
@pytest.mark.parametrize("command", ["revoke", "close"])
def test_revoke_and_close_end_udp_and_leave_tcp(served: ServerWorld, version: int, command: str) -> None:
    alice, bob = served.add("alice"), served.add("bob")
    serve_and_open(served, alice, version)
    served.opens(bob, version=version, host=served.stranger, port=SSH)
    of_alice, of_bob = Exchange(served, version), Exchange(served, version, stranger=True)
    session = served.connection(served.client, SSH, version)
    done = served.openme(served.server, "--config", served.config, command, "alice", code=0)
    assert "alice" in done.stderr
    assert not of_alice.goes_on()
    assert echoes(session)
    until(of_bob.goes_on)
    if command == "close":
        served.opens(alice, version=version, port=SSH)
        until(of_alice.goes_on)


def test_the_client_that_the_door_was_shut_to_long_ago(served: ServerWorld) -> None:
    """The end of a door's time ends no exchange; a revocation after it does."""
    served.edit(knock_timeout="1s")
    alice = served.add("alice")
    serve_and_open(served, alice)
    exchange = Exchange(served)
    until(lambda: not served.sessions() and served.udp(served.client, VPN) == "filtered")
    until(exchange.goes_on)
    served.revoke("alice")
    assert not exchange.goes_on()


def test_edited_by_hand(served: ServerWorld) -> None:
    alice = served.add("alice")
    serve_and_open(served, alice)
    exchange = Exchange(served)
    served.write_config(without(served, "alice"))
    until(lambda: not exchange.goes_on())


def test_a_port_taken_away_by_hand(served: ServerWorld) -> None:
    alice = served.add("alice")
    serve_and_open(served, alice)
    lost, kept = Exchange(served), Exchange(served, port=OTHER)
    served.set_ports(default=f"[{OTHER}/udp, {SSH}/tcp]", rest=f"[{VPN}/udp]")
    until(lambda: not lost.goes_on())
    until(kept.goes_on)


def test_a_client_that_expires(served: ServerWorld) -> None:
    """Also one whose door was shut before."""
    served.edit(knock_timeout="1s")
    alice = served.add("alice")
    text = served.config.read_text()
    ends = datetime.now(UTC) + timedelta(seconds=6)
    line = f"    expires: {ends.strftime('%Y-%m-%dT%H:%M:%S.%fZ')}\n"
    served.write_config(text.replace("  alice:\n", f"  alice:\n{line}", 1))
    serve_and_open(served, alice)
    exchange = Exchange(served)
    until(lambda: served.udp(served.client, VPN) == "filtered")
    until(exchange.goes_on)
    assert datetime.now(UTC) < ends, "this machine is too slow for this test"
    until(lambda: datetime.now(UTC) > ends and not exchange.goes_on())


def test_revoked_while_no_server_ran(served: ServerWorld) -> None:
    alice, bob = served.add("alice"), served.add("bob")
    serve_and_open(served, alice)
    served.opens(bob, host=served.stranger, port=SSH)
    of_alice, of_bob = Exchange(served), Exchange(served, stranger=True)
    served.kill()
    remove_client(served.config, "alice")
    until(of_alice.goes_on)
    served.start()
    until(lambda: not of_alice.goes_on())
    until(of_bob.goes_on)


def test_begun_without_a_right_while_somebody_had_taken_the_rules_away(served: ServerWorld) -> None:
    alice = served.add("alice")
    serve_and_open(served, alice)
    exchange = Exchange(served)
    served.revoke("alice")
    assert not exchange.goes_on()
    keeper = served.pids()[0]
    os.kill(keeper, signal.SIGSTOP)
    served.server.nft("flush ruleset")
    until(exchange.goes_on)
    os.kill(keeper, signal.SIGCONT)
    until(lambda: not exchange.goes_on())


def test_another_client_behind_the_same_address(served: ServerWorld) -> None:
    """His open door lets his next datagram in. Otherwise his exchange ends too: the two cannot be told apart."""
    alice, bob, carol = (served.add(name) for name in ("alice", "bob", "carol"))
    serve_and_open(served, alice)
    served.opens(bob, port=SSH)
    exchange = Exchange(served)
    served.revoke("alice")
    until(exchange.goes_on)
    served.opens(carol, port=SSH)
    served.ask("close", name="bob")
    until(exchange.goes_on)
    served.ask("close", name="carol")
    assert not exchange.goes_on()


def test_no_handshake_under_way_comes_to_stand(served: ServerWorld) -> None:
    alice = served.add("alice")
    serve_and_open(served, alice)
    served.client.nft(
        "add table ip t; add chain ip t o { type filter hook output priority 0; };"
        f"add rule ip t o tcp dport {SSH} tcp flags & (syn | ack) == ack drop"
    )
    client = served.socket_on(served.client, socket.SOCK_STREAM)
    served.stack.callback(client.close)
    client.connect((SERVER[4], SSH))
    assert "SYN-RECV" in served.server.run("ss", "-Htn", "state", "syn-recv", "-o", "state", "all")
    served.revoke("alice")
    served.client.nft("flush ruleset")
    client.settimeout(0.5)
    client.sendall(b"echo")
    with pytest.raises(OSError, match=r"timed out|reset"):
        client.recv(10)
    assert CLIENT[4] not in served.server.run("ss", "-Htn", "state", "established")


def test_connections_are_cut_at_a_client_with_hundreds_of_addresses_while_others_knock(served: ServerWorld) -> None:
    """Answered when it is done, with the number of what was cut.

    The exchange is among it, unless the server has ended it when it saw the key in the list of those revoked.
    """
    alice, bob = served.add("alice"), served.add("bob")
    serve_and_open(served, alice)
    sessions = [served.connection(served.client, SSH) for _ in range(3)]
    exchange = Exchange(served)
    for number in range(250):
        served.send(served.packet(alice, target=ip_address(f"2001:db8:0:9::{number + 1:x}")))
    until(lambda: len(served.sessions()) >= 251)
    done = served.openme(served.server, "--config", served.config, "revoke", "--cut", "alice", code=0)
    assert re.search("connections cut: [34]\n", done.stderr)
    assert not exchange.goes_on()
    for session in sessions:
        with pytest.raises(ConnectionResetError):
            session.recv(1)
    served.opens(bob, host=served.stranger, port=SSH)
    assert STRANGER[4] in {session["ip"] for session in served.sessions()}
