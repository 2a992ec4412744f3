"""What a start does to its state directory before it knows that it is one."""

import os
import stat
from pathlib import Path

import pytest

from openme.errors import OpenmeError
from openme.server.start import state_lock
from openme.store.places import has_lived

STRANGER = 4711

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_closed_to_others(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    with state_lock(state):
        assert mode(state) == 0o700


@needs_root
def test_one_that_is_somebody_elses_is_left_as_it_is(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    os.chown(state, STRANGER, STRANGER)
    with pytest.raises(OpenmeError, match="belongs to another user"), state_lock(state):
        pass
    assert mode(state) == 0o755
    os.chown(state, 0, 0)
    assert not has_lived(state)


@needs_root
@pytest.mark.parametrize("within", [False, True], ids=["link", "folder"])
def test_what_somebody_elses_name_leads_to_keeps_its_mode(tmp_path: Path, *, within: bool) -> None:
    """Root's own directory, named by a link of a user's, or by a link of root's in a user's directory."""
    target, theirs = tmp_path / "etc", tmp_path / "home"
    target.mkdir(mode=0o755)
    theirs.mkdir()
    link = theirs / "state"
    link.symlink_to(target)
    os.chown(theirs if within else link, STRANGER, STRANGER, follow_symlinks=False)
    with pytest.raises(OpenmeError, match="it may lead anywhere"), state_lock(link):
        pass
    assert mode(target) == 0o755
    assert list(target.iterdir()) == []


@needs_root
def test_a_link_of_roots_own_is_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "disk", tmp_path / "state"
    target.mkdir(mode=0o777)
    target.chmod(0o777)
    link.symlink_to(target)
    with state_lock(link):
        assert mode(target) == 0o700
