"""`spoofing`: no limit on a source address locks out the client whose address somebody forges."""

import time
from collections.abc import Iterator

import pytest

from support.claims import SSH, ClaimsWorld
from support.flood import KINDS, flood, payloads, resident, tries_until_in
from support.netns import until
from support.server import CLIENT

pytestmark = pytest.mark.root

FEW = 40  # tries, of a quarter of a second each
RATE = 10_000  # datagrams a second with the victim's address


@pytest.fixture(scope="module")
def victim(hosts: ClaimsWorld) -> Iterator[ClaimsWorld]:
    hosts.reset()
    hosts.start(log_level="info")
    hosts.send(hosts.packet(hosts.alice))
    until(lambda: hosts.opened("alice"))
    yield hosts
    hosts.kill()


@pytest.mark.parametrize("kind", KINDS)
def test_the_victim_gets_in_while_its_address_is_forged(victim: ClaimsWorld, kind: str) -> None:
    copied = victim.packet(victim.alice)
    victim.send(copied)
    before = sum(map(resident, victim.pids()))
    with flood(victim, payloads(victim, kind, copied), source=CLIENT[4], rate=RATE) as running:
        until(lambda: victim.opened("alice"))
        tries = [tries_until_in(victim, victim.alice, "alice", FEW, wait=0.25) for _ in range(2)]
        assert victim.tcp(victim.client, SSH) == "open"
        after = sum(map(resident, victim.pids()))
    assert max(tries) <= FEW, f"knocks needed: {tries}\n{victim.log()[-2000:]}"
    assert running.rate > RATE / 4
    assert after - before < 16 << 10


def test_a_forged_address_holds_nobody_else_up(victim: ClaimsWorld) -> None:
    """Alice's address is forged; bob, known from another, gets in as if nothing were."""
    # What is left of an earlier flood may still fill the socket's queue, so bob becomes known with a few knocks.
    tries_until_in(victim, victim.bob, "bob", 20, host=victim.stranger)
    with flood(victim, payloads(victim, "shaped", b""), source=CLIENT[4]) as running:
        start = victim.opened("bob")
        for _ in range(10):
            victim.send(victim.packet(victim.bob), host=victim.stranger)
            time.sleep(0.05)
        # 80% to 90% of them on two shared cores; without a queue of his own next to none.
        until(lambda: victim.opened("bob") - start >= 4, 10)
    assert running.sent


def test_after_the_flood_nothing_is_held_against_the_address(victim: ClaimsWorld) -> None:
    with flood(victim, payloads(victim, "sealed", b"", 200), source=CLIENT[4]) as running:
        tries_until_in(victim, victim.alice, "alice", 1)
    assert running.sent
    assert tries_until_in(victim, victim.alice, "alice", 2) <= 2
