from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from support.claims import ClaimsWorld


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


@pytest.fixture(scope="module", params=[1, 2], ids=["v1", "v2"])
def hosts(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[ClaimsWorld]:
    """The namespaces, clients and services that the tests of a file share, once for each wire version."""
    with ExitStack() as made:
        world = ClaimsWorld(made, tmp_path_factory.mktemp("world"))
        world.populate(request.param)
        yield world


@pytest.fixture
def world(hosts: ClaimsWorld) -> Iterator[ClaimsWorld]:
    """A server that has just been started for the first time, alice and bob, and port 22 behind it."""
    hosts.reset()
    hosts.start()
    yield hosts
    hosts.kill()
