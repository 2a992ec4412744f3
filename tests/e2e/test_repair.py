"""Somebody takes openme's rules away while it serves: they are back within a second, open doors included."""

import os
import signal
from pathlib import Path

import pytest

from support.entries import restrict
from support.kernel_doors import seconds_left
from support.netns import until
from support.server import ServerWorld, echoes

pytestmark = pytest.mark.root


def tables(world: ServerWorld) -> str:
    return world.server.ruleset()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("flush ruleset", "openme's table was removed"),
        ("delete table inet openme", "openme's table was removed"),
        ("flush chain inet openme input", "rules were removed from openme's table"),
        ("flush table inet openme", "rules were removed from openme's table"),
    ],
)
def test_rules_that_somebody_removed_are_back_with_the_open_doors(world: ServerWorld, damage: str, said: str) -> None:
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.knock(alice, "--check")
    before = tables(world)
    assert "drop" in before
    world.server.nft(damage)
    until(lambda: world.tcp(world.stranger, 22) == "filtered", 2)
    until(lambda: world.tcp(world.client, 22) == "open", 2)
    world.says(f"warning: {said}: putting openme's rules back")


def test_the_log_says_what_somebody_has_changed(world: ServerWorld) -> None:
    world.server.nft("table ip host { chain input { type filter hook input priority 0; }; }")
    world.serve(tcp=[22])
    world.start()
    for change, said in (
        ("add rule inet openme input counter", "rules were added to openme's table"),
        ("flush chain ip host input", "openme's rule has gone from ip host input"),
        (
            "table inet more { chain inbound { type filter hook input priority 5; }; }",
            "the host has a new input chain, inet more inbound",
        ),
    ):
        world.server.nft(change)
        world.says(f"warning: {said}: putting openme's rules back")
        until(lambda: "counter" not in tables(world), 2)


SAVE = "echo 'flush ruleset'; nft list ruleset | grep -v openme-mark-; echo 'delete table inet openme'"


def test_the_page_shows_how_a_ruleset_is_saved() -> None:
    assert SAVE.replace("|", "\\|") in (Path(__file__).parents[2] / "docs/operating.md").read_text()


def test_a_ruleset_saved_without_our_table_hides_nothing_where_it_is_loaded(world: ServerWorld) -> None:
    """As docs/operating.md shows it, while the server runs."""
    world.server.nft("table inet host { chain input { type filter hook input priority 0; tcp dport 80 accept; }; }")
    world.serve(tcp=[22])
    world.start()
    saved = world.server.run("sh", "-c", SAVE)
    assert world.stop() == 0
    world.server.run("nft", "-f", "-", stdin=saved)
    assert "openme" not in world.server.ruleset()
    assert "tcp dport 80 accept" in tables(world)
    assert world.tcp(world.stranger, 22) == "open"


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


def test_a_flush_and_a_knock_before_the_repair_lose_nobodys_door(world: ServerWorld) -> None:
    alice, bob = world.add("alice"), world.add("bob")
    world.serve(tcp=[22])
    world.start()
    world.opens(alice, port=22)
    keeper = world.pids()[0]
    os.kill(keeper, signal.SIGSTOP)
    world.server.nft("flush ruleset")
    world.send(world.packet(bob), host=world.stranger)
    os.kill(keeper, signal.SIGCONT)
    until(lambda: world.tcp(world.stranger, 22) == "open", 5)
    world.says("bob: opened")
    until(lambda: "drop" in tables(world), 5)
    assert world.tcp(world.client, 22) == "open"


@pytest.mark.parametrize("event", ["flush", "group"])
def test_a_single_use_door_that_is_used_up_does_not_come_back(world: ServerWorld, event: str) -> None:
    world.set_ports(default="[22/tcp]")
    alice = world.add("alice")
    restrict(world, "alice", "single_use: true")
    world.serve(tcp=[22, 80])
    world.start()
    world.send(world.packet(alice))
    world.says("alice: opened")
    connection = world.connection(world.client, 22)
    assert echoes(connection)
    assert world.tcp(world.client, 22) == "filtered"
    if event == "flush":
        world.server.nft("flush ruleset")
        world.says("putting openme's rules back")
    else:
        world.set_ports(default="[22/tcp, 80/tcp]")
        world.says("config in force")
    until(lambda: "drop" in tables(world), 5)
    assert world.tcp(world.client, 22) == "filtered"
    assert echoes(connection)
    world.send(world.packet(alice))
    until(lambda: world.log().count("alice: opened") == 2)
    assert world.tcp(world.client, 22) == "open"


def test_a_saved_ruleset_that_is_loaded_again_opens_no_door(world: ServerWorld) -> None:
    """Neither of who was revoked since it was saved, nor one that was used up. The others' doors are back."""
    alice, bob = world.add("alice"), world.add("bob")
    world.serve(tcp=[22])
    world.start()
    world.opens(alice, port=22)
    world.opens(bob, host=world.stranger, port=22)
    saved = world.server.ruleset()
    world.revoke("alice")
    assert world.tcp(world.client, 22) == "filtered"
    world.server.nft("flush ruleset\n" + saved)
    until(lambda: world.tcp(world.client, 22) == "filtered", 5)
    assert world.tcp(world.stranger, 22) == "open"
    assert len(seconds_left(world.server)) == 1


def test_a_flush_and_a_change_of_the_rules_before_the_repair_lose_nobodys_door(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    world.opens(alice, port=22)
    keeper = world.pids()[0]
    os.kill(keeper, signal.SIGSTOP)
    world.server.nft("flush ruleset")
    world.set_ports(default="[22/tcp]", more="[8080/tcp]")
    world.send(world.packet(alice)[:50])
    os.kill(keeper, signal.SIGCONT)
    until(lambda: "8080" in tables(world), 5)
    until(lambda: world.tcp(world.client, 22) == "open", 5)
