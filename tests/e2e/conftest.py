"""What every end-to-end test starts from (support/server.py draws it)."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.server import ServerWorld

MakeWorld = Callable[..., ServerWorld]


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[MakeWorld]:
    """Makes a world with the given settings of `server:`; nothing serves yet."""
    with ExitStack() as stack:
        yield lambda **settings: ServerWorld(stack, tmp_path, **settings)


@pytest.fixture
def world(make_world: MakeWorld) -> ServerWorld:
    """A world with the settings that `init` writes; nothing serves yet."""
    return make_world()
