"""Somebody takes openme's rules away while it serves: they are back within a second, open doors included."""

import pytest

from support.netns import until
from support.server import ServerWorld

pytestmark = pytest.mark.root


def tables(world: ServerWorld) -> str:
    return world.server.ruleset()


@pytest.mark.parametrize(
    "damage",
    ["flush ruleset", "delete table inet openme", "flush chain inet openme input", "flush table inet openme"],
)
def test_rules_that_somebody_removed_are_back_with_the_open_doors(world: ServerWorld, damage: str) -> None:
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.knock(alice, "--check")
    before = tables(world)
    assert "drop" in before
    world.server.nft(damage)
    until(lambda: world.tcp(world.stranger, 22) == "filtered", 2)
    until(lambda: world.tcp(world.client, 22) == "open", 2)
    world.says("putting them back")


def test_a_host_firewall_that_is_loaded_while_we_serve_lets_knocks_and_doors_through(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.server.nft(
        "flush ruleset; add table ip host; add table inet host;"
        " add chain inet host input { type filter hook input priority 0; policy drop; };"
        " add rule inet host input icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept"
    )
    until(lambda: "openme" in tables(world), 2)
    world.knock(alice, "--check", code=0)
    assert world.tcp(world.client, 22) == "open"
    assert world.tcp(world.stranger, 22) == "filtered"
