"""What most tests of commands begin with."""

from pathlib import Path

import pytest

from support.command import Place, place


@pytest.fixture
def here(tmp_path: Path) -> Place:
    """A server's config with state, and a free port, in a directory of the test's own."""
    made = place(tmp_path)
    made.prepare()
    return made
