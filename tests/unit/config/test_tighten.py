"""`serve` as root makes a config's mode strict, and of nothing that somebody else has put in its place."""

import os
import stat
from pathlib import Path

import pytest

from openme.config.faults import ConfigError
from openme.config.server import load_server_config
from openme.config.trusted_path import changeable_by_others
from support.keeper_process import config_text

SOMEBODY = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes files of another user")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(config_text(tmp_path))
    path.chmod(0o640)
    return path


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A directory of somebody else's."""
    path = tmp_path / "theirs"
    path.mkdir()
    os.chown(path, SOMEBODY, SOMEBODY)
    return path


def test_a_config_of_our_own_in_a_directory_of_our_own_is_made_strict(config: Path) -> None:
    assert load_server_config(config, tighten=True).warnings == ()
    assert mode(config) == 0o600


def test_nothing_is_changed_unless_asked_for(config: Path) -> None:
    (warning,) = load_server_config(config).warnings
    assert "chmod 600" in warning
    assert mode(config) == 0o640


@pytest.mark.parametrize("text", ["root:*:19000:0:99999:7:::\n", "", "server: {}\n", "\0"])
def test_a_file_that_is_no_config_keeps_its_mode(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(ConfigError):
        load_server_config(config, tighten=True)
    assert mode(config) == 0o640


@needs_root
@pytest.mark.parametrize("through", ["link", "directory link", "hard link"])
def test_another_file_of_roots_keeps_its_mode_though_it_is_a_config(config: Path, theirs: Path, through: str) -> None:
    """Somebody leads `serve` to a config that its group is meant to read."""
    named = theirs / "config.yaml"
    if through == "link":
        named.symlink_to(config)
        os.lchown(named, SOMEBODY, SOMEBODY)
    elif through == "hard link":
        named.hardlink_to(config)
    else:
        (theirs / "etc").symlink_to(config.parent)
        named = theirs / "etc" / "config.yaml"
    warnings = load_server_config(named, tighten=True).warnings
    assert len(warnings) == 2
    assert f"others can change {theirs}" in warnings[0]
    assert mode(config) == 0o640


@needs_root
def test_a_link_of_roots_own_is_followed(config: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "c.yaml"
    for target in (config, Path("../config.yaml"), Path("./.././links/../config.yaml")):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        assert changeable_by_others(link, os.geteuid()) is None
    config.chmod(0o640)
    assert load_server_config(link, tighten=True).warnings == ()
    assert mode(config) == 0o600


@needs_root
@pytest.mark.parametrize(("directory_mode", "trusted"), [(0o755, True), (0o777, False), (0o775, False), (0o1777, True)])
def test_who_may_write_to_the_directory_decides(config: Path, directory_mode: int, *, trusted: bool) -> None:
    config.parent.chmod(directory_mode)
    assert (changeable_by_others(config, os.geteuid()) is None) == trusted


@needs_root
def test_in_a_sticky_directory_the_entry_decides(tmp_path: Path, config: Path) -> None:
    tmp_path.chmod(0o1777)
    link = tmp_path / "link"
    link.symlink_to(config)
    assert changeable_by_others(link, os.geteuid()) is None
    os.lchown(link, SOMEBODY, SOMEBODY)
    assert changeable_by_others(link, os.geteuid()) == link


@needs_root
def test_a_way_back_from_a_link_is_the_way_back_from_where_it_leads(config: Path, theirs: Path, tmp_path: Path) -> None:
    """`link/../config.yaml` is in the directory above the link's target, and not beside the link."""
    (theirs / "below").mkdir()
    (tmp_path / "link").symlink_to(theirs / "below")
    assert changeable_by_others(tmp_path / "link" / ".." / config.name, os.geteuid()) == theirs


def test_a_way_that_has_no_end_is_trusted_by_nobody(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    assert changeable_by_others(loop, os.geteuid()) == loop
    assert changeable_by_others(tmp_path / "missing", os.geteuid()) == tmp_path / "missing"
