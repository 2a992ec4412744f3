from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.claims import ClaimsWorld


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClaimsWorld]:
    """The namespaces, clients and services that the tests of a file share."""
    with ExitStack() as made:
        world = ClaimsWorld(made, tmp_path_factory.mktemp("world"))
        world.populate()
        yield world


@pytest.fixture
def world(hosts: ClaimsWorld) -> Iterator[ClaimsWorld]:
    """A server that has just been started for the first time, alice and bob, and port 22 behind it."""
    hosts.reset()
    hosts.start()
    yield hosts
    hosts.kill()
