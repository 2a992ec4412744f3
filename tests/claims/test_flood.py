"""`flood`: noise, right-shaped noise, copies of real knocks and knocks sealed by strangers keep no known client out.

All from thousands of forged addresses, as fast as one processor sends them. docs/performance.md has the figures.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.claims import ClaimsWorld
from support.flood import KINDS, flood, payloads, resident, sealed, tries_until_in
from support.netns import add_addresses, until, v4

pytestmark = pytest.mark.root

MEMBERS = 1000
FEW = 6  # tries, of a second each
GROWTH = 16 << 10  # KiB, both processes together
ROUNDS = 4
ENOUGH = 5000  # datagrams a second below which this would show nothing


@pytest.fixture(scope="module", params=[1, 2], ids=["v1", "v2"])
def crowded(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ClaimsWorld]:
    """A server with a thousand clients, all of them tried before alice and bob when a version 1 stranger knocks."""
    with ExitStack() as stack:
        world = ClaimsWorld(stack, tmp_path_factory.mktemp("crowded"))
        world.populate(request.param)
        world.crowd(MEMBERS)
        world.start(log_level="info")
        yield world


def known(world: ClaimsWorld) -> bytes:
    """Alice knocks from her address in peace; the packet."""
    before = world.opened("alice")
    packet = world.packet(world.alice)
    world.send(packet)
    until(lambda: world.opened("alice") > before)
    return packet


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_known_by_its_address_gets_in(crowded: ClaimsWorld, kind: str) -> None:
    copied = known(crowded)
    opened = crowded.opened("alice")
    before = sum(map(resident, crowded.pids()))
    with flood(crowded, payloads(crowded, kind, copied)) as running:
        tries = [tries_until_in(crowded, crowded.alice, "alice", FEW) for _ in range(ROUNDS)]
        after = sum(map(resident, crowded.pids()))
    assert running.rate > ENOUGH, f"{running.rate:.0f} a second are no flood"
    assert max(tries) <= FEW, f"knocks needed: {tries}\n{crowded.log()[-2000:]}"
    assert tries.count(1) >= ROUNDS / 2, f"knocks needed: {tries}"
    assert crowded.opened("alice") - opened <= sum(tries), "more doors than knocks"
    assert after - before < GROWTH, f"grew by {after - before} KiB"


@pytest.mark.parametrize("kind", ["noise", "shaped"])
def test_a_client_that_comes_from_a_new_address_gets_in(crowded: ClaimsWorld, kind: str) -> None:
    number = 40 + KINDS.index(kind)
    add_addresses(crowded.client, number)
    with flood(crowded, payloads(crowded, kind, b""), rate=20_000) as running:
        tries = tries_until_in(crowded, crowded.bob, "bob", FEW, source=v4(number))
    assert tries <= FEW
    assert running.rate > ENOUGH


@pytest.mark.parametrize("crowded", [2], indirect=True, ids=["v2"])
def test_who_holds_e_i_keeps_out_no_new_address_of_another_network(crowded: ClaimsWorld) -> None:
    """Only the listener's arithmetic tells what he sends from a knock; it is done for each network in its turn."""
    add_addresses(crowded.client, 45)
    with flood(crowded, payloads(crowded, "sealed", b""), rate=20_000) as running:
        tries = [tries_until_in(crowded, crowded.bob, "bob", FEW, source=v4(45)) for _ in range(ROUNDS)]
    assert tries.count(1) >= ROUNDS / 2, f"knocks needed: {tries}"
    assert running.rate > ENOUGH


def test_the_search_for_strangers_is_bounded_and_ends(crowded: ClaimsWorld) -> None:
    """When the flood is over, a client from a new address is found among the thousand at once."""
    with flood(crowded, sealed(crowded, 500)) as running:
        tries_until_in(crowded, crowded.alice, "alice", 1)
    assert running.rate > ENOUGH
    add_addresses(crowded.client, 50)
    assert tries_until_in(crowded, crowded.bob, "bob", FEW, source=v4(50)) <= FEW


def test_the_connection_table_does_not_fill(crowded: ClaimsWorld) -> None:
    count = ["sysctl", "-n", "net.netfilter.nf_conntrack_count"]
    before = int(crowded.server.run(*count))
    with flood(crowded, payloads(crowded, "shaped", b""), sources=8192):
        tries_until_in(crowded, crowded.alice, "alice", 2)
        during = int(crowded.server.run(*count))
    assert during - before < 1000, f"{during - before} connections of forged addresses are in the table"
