"""`relay`: whoever delays and resends a knock with a named target gains nothing.

The thief holds back what the client has sent, so that the server never saw it, and sends it himself: the worst case for
replay protection, which has nothing to compare with.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from itertools import count
from pathlib import Path

import pytest

from support.claims import on_one_processor
from support.entries import CLIENT_SEEN, STRANGER_SEEN, restrict
from support.netns import until
from support.server import CLIENT, ServerWorld

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerWorld]:
    with ExitStack() as stack:
        made = ServerWorld(stack, tmp_path_factory.mktemp("relay"))
        made.serve(tcp=[22])
        made.start()
        yield made


def client(world: ServerWorld, name: str, *lines: str) -> Path:
    profile = world.add(name)
    if lines:
        restrict(world, name, *lines)
    return profile


@pytest.mark.parametrize("version", [4, 6])
def test_a_stolen_knock_with_a_named_target_opens_for_that_target_alone(world: ServerWorld, version: int) -> None:
    stolen = world.packet(client(world, f"named{version}"), target=ip_address(CLIENT[version]))
    world.send(stolen, host=world.stranger, version=version)
    until(lambda: world.tcp(world.client, 22, version) == "open")
    assert world.tcp(world.stranger, 22, version) == "filtered"
    # The operator reads that it came from elsewhere.
    world.says(
        f"named{version}: opened 22/tcp for {CLIENT_SEEN[version]} for 30s, knock came from {STRANGER_SEEN[version]}"
    )

    # Once used, it is used, whoever sends it next.
    world.ask("close", name=f"named{version}")
    world.send(stolen, version=version)
    world.says(
        f"named{version}: refused: replay, first seen from {STRANGER_SEEN[version]}: somebody is on the path"
        f" (from {CLIENT_SEEN[version]})"
    )
    assert world.tcp(world.client, 22, version) == "filtered"


@pytest.mark.parametrize("version", [4, 6])
def test_a_knock_without_a_target_can_be_stolen(world: ServerWorld, version: int) -> None:
    """What version 1 and 2 alike cannot prevent: such a knock says "for whoever sends this"."""
    stolen = world.packet(client(world, f"wild{version}"))
    world.send(stolen, host=world.stranger, version=version)
    until(lambda: world.tcp(world.stranger, 22, version) == "open")
    # It does not go unseen once the client's own copy arrives.
    world.send(stolen, version=version)
    world.says(
        f"wild{version}: refused: replay, first seen from {STRANGER_SEEN[version]}: somebody is on the path"
        f" (from {CLIENT_SEEN[version]})"
    )
    world.ask("close", name=f"wild{version}")


@pytest.mark.parametrize("version", [4, 6])
def test_require_target_ip_ends_the_theft(world: ServerWorld, version: int) -> None:
    careful = client(world, f"careful{version}", "require_target_ip: true")
    world.send(world.packet(careful), host=world.stranger, version=version)
    world.says(f"careful{version}: refused: target_required (from {STRANGER_SEEN[version]})")
    assert world.tcp(world.stranger, 22, version) == "filtered"
    # The same client with a target is let in.
    world.send(world.packet(careful, target=ip_address(CLIENT[version])), version=version)
    until(lambda: world.tcp(world.client, 22, version) == "open")
    world.ask("close", name=f"careful{version}")


@pytest.mark.parametrize("version", [4, 6])
def test_a_copy_from_another_address_is_reported_with_both(world: ServerWorld, version: int) -> None:
    knock = world.packet(client(world, f"copied{version}"))
    world.send(knock, version=version)
    until(lambda: world.tcp(world.client, 22, version) == "open")
    world.send(knock, host=world.stranger, version=version)
    world.says(
        f"copied{version}: refused: replay, first seen from {CLIENT_SEEN[version]}: somebody is on the path"
        f" (from {STRANGER_SEEN[version]})"
    )
    assert world.tcp(world.stranger, 22, version) == "filtered"
    world.ask("close", name=f"copied{version}")


def test_sixteen_copies_within_a_second_keep_the_next_one_from_being_reported(world: ServerWorld) -> None:
    """The limit: from then on the kernel drops them, whoever they are from, and here the client's own is the last."""
    name, seconds = "", 1.0
    for number in count():
        name = f"drowned{number}"
        stolen = world.packet(client(world, name))
        with on_one_processor():  # on which the kernel delivers what is sent in order
            begun = time.monotonic()
            world.send(*[stolen] * 20, host=world.stranger)
            world.send(stolen)
            seconds = time.monotonic() - begun
        if seconds < 1:
            break
    world.opens(client(world, "afterwards"))
    assert f"{name}: opened 22/tcp for {STRANGER_SEEN[4]}" in world.log()
    assert f"{name}: refused: replay, first seen from {STRANGER_SEEN[4]}: somebody is on the path" not in world.log()
    for each in (name, "afterwards"):
        world.ask("close", name=each)
