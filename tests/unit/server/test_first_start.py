"""A first start that fails leaves the ports as they were; a later one leaves them hidden."""

from pathlib import Path

import pytest

from openme.firewall.base import FirewallError, Rules
from openme.firewall.memory import MemoryFirewall
from openme.keeper.rules import rules_for
from openme.server.first_start import FirstStart
from openme.server.hidden_ports import FILE_NAME, HiddenPorts
from support.knocks import config

CONFIG = config(server="drop_ports: true")


def begun(firewall: MemoryFirewall, hidden: HiddenPorts, *, serving: bool = False) -> FirstStart:
    """As `serve` does it: the rules are in force, and then something fails."""
    first = FirstStart(firewall, hidden, lambda: serving)
    hidden.note(CONFIG)
    firewall.start(rules_for(CONFIG, hidden.ports))
    hidden.took(CONFIG)
    return first


def test_nothing_is_left_of_a_first_start_that_fails(tmp_path: Path) -> None:
    firewall = MemoryFirewall()
    first = begun(firewall, HiddenPorts(tmp_path))
    assert (tmp_path / FILE_NAME).exists()
    assert first.undo()
    assert not firewall.is_there()
    assert list(tmp_path.iterdir()) == []
    assert HiddenPorts(tmp_path).is_first, "and the next one is a first start again"


def test_once_strangers_are_let_in_what_is_hidden_stays_hidden(tmp_path: Path) -> None:
    firewall = MemoryFirewall()
    assert not begun(firewall, HiddenPorts(tmp_path), serving=True).undo()
    assert firewall.is_there()
    assert (tmp_path / FILE_NAME).exists()


def test_who_served_before_on_this_state_dir_stays_hidden(tmp_path: Path) -> None:
    begun(MemoryFirewall(), HiddenPorts(tmp_path))
    firewall = MemoryFirewall()
    assert not begun(firewall, HiddenPorts(tmp_path)).undo()
    assert firewall.is_there()


def test_who_found_rules_of_ours_stays_hidden(tmp_path: Path) -> None:
    firewall = MemoryFirewall()
    firewall.start(rules_for(CONFIG))
    assert not begun(firewall, HiddenPorts(tmp_path)).undo()
    assert firewall.is_there()


def test_rules_that_cannot_be_taken_back_are_said_to_stay(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    firewall = MemoryFirewall()
    first = begun(firewall, HiddenPorts(tmp_path))

    def refuses(_self: object, _rules: Rules | None = None) -> None:
        raise FirewallError("not now")

    monkeypatch.setattr(MemoryFirewall, "stop", refuses)
    assert not first.undo()
    assert (tmp_path / FILE_NAME).exists()
    assert "could not be taken back: not now" in caplog.text
