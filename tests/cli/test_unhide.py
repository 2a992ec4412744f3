"""`openme unhide`, and what `check-config` and `sessions` list, as transcripts of the real command."""

import os
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from openme.cli import running_server, unhide
from openme.cli.main import main
from openme.config.server import load_server_config
from openme.errors import OpenmeError
from openme.ports import parse_port_spec
from openme.server.hidden_ports import read_hidden_ports, write_hidden_ports
from openme.server.start import state_lock
from support.command import Place, place


@pytest.fixture
def here(tmp_path: Path) -> Place:
    made = place(tmp_path)
    made.prepare()
    write_hidden_ports(made.state, [*parse_port_spec("22/tcp"), *parse_port_spec("8080-8090/tcp")])
    return made


def hide(here: Place, value: str) -> None:
    text = here.config.read_text()
    here.config.write_text(text.replace("\nclients:", f"\nhide: {value}\nclients:", 1))


def kept(here: Place) -> list[str]:
    return [str(item) for item in read_hidden_ports(here.state) or ()]


def test_without_a_server_it_takes_a_port_out_of_the_set_and_of_the_list(here: Place) -> None:
    hide(here, "[8085/tcp, 9/udp]")
    done = here.ok("unhide", "8085/tcp")
    assert done.out == ""
    assert f"{here.config}: taken off hide: 8085/tcp\n" in done.err
    assert "8085/tcp is not hidden any more: no server is running" in done.err
    assert "hide: [9/udp]\n" in here.config.read_text()
    assert kept(here) == ["22/tcp", "8080-8084/tcp", "8086-8090/tcp"]


@pytest.mark.parametrize("command", [("unhide", "8085"), ("add", "carol")])
def test_a_server_with_another_state_dir_is_not_taken_for_none(
    here: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: tuple[str, ...]
) -> None:
    """As after an edit of `state_dir`, which needs a restart."""
    monkeypatch.setattr(running_server, "firewall_holder", os.geteuid)
    words = "a server is running on this machine, but not on"
    if command[0] == "add":
        monkeypatch.setattr("sys.stdout", sys.__stdout__)
        assert main(["--config", str(here.config), *command]) == 0
        assert words in capfd.readouterr().err
        return
    with pytest.raises(OpenmeError, match=words):
        unhide.UNHIDE.run(Namespace(config=here.config, port="8085"))
    assert "not hidden any more" not in capfd.readouterr().err


def test_with_a_server_it_shows_at_once(here: Place) -> None:
    with here.serving():
        assert "8080-8090/tcp" in here.ok("sessions").out
        assert here.ok("sessions", "--json").json()["hidden_though_unnamed"] == ["8080-8090/tcp"]
        done = here.ok("unhide", "8080-8090")
        assert done.err.endswith("8080-8090/tcp is not hidden any more\n")
        assert here.ok("sessions", "--json").json()["hidden_though_unnamed"] == []
        assert kept(here) == ["22/tcp"]


@pytest.mark.parametrize(
    ("word", "code", "error", "hint"),
    [
        ("22", 1, "22/tcp is still named by group default", "nothing was changed"),
        ("20-30/tcp", 1, "22/tcp is still named by group default", "nothing was changed"),
        ("808", 1, "808 is not hidden", "did you mean 8080-8090/tcp?"),
        ("9999/tcp", 1, "9999/tcp is not hidden", "8080-8090/tcp"),
        ("8080-8090/tpc", 2, "PORT: expected a port such as", "did you mean 8080-8090/tcp?"),
        ("ssh", 2, "PORT: expected a port such as", None),
    ],
)
def test_what_cannot_be_taken_off_changes_nothing(
    here: Place, word: str, code: int, error: str, hint: str | None
) -> None:
    before = here.config.read_bytes()
    done = here.run("unhide", word)
    assert done.code == code
    assert done.error.startswith(error)
    assert hint is None or hint in done.err
    assert (here.config.read_bytes(), kept(here)) == (before, ["22/tcp", "8080-8090/tcp"])


def test_a_server_that_does_not_answer_yet_is_not_written_past(here: Place) -> None:
    with state_lock(here.state):
        done = here.run("unhide", "8080/tcp")
    assert done.code == 1
    assert done.error == f"the server did not answer: one holds {here.state / 'lock'}, but nobody listens"
    assert kept(here) == ["22/tcp", "8080-8090/tcp"]


def test_a_server_that_starts_once_nobody_has_answered_is_not_written_past(here: Place) -> None:
    config = load_server_config(here.config)
    with state_lock(here.state), pytest.raises(OpenmeError, match=r"^a server is just starting or ending$"):
        unhide._take_out(config, parse_port_spec("8080/tcp"))
    assert kept(here) == ["22/tcp", "8080-8090/tcp"]


def test_a_port_is_needed(here: Place) -> None:
    assert here.run("unhide").code == 2


def test_a_list_that_cannot_be_edited_is_refused_and_the_set_stays(here: Place) -> None:
    hide(here, "&x [8085/tcp]")
    done = here.run("unhide", "8085/tcp")
    assert done.code == 1
    assert "cannot be edited safely" in done.error
    assert kept(here) == ["22/tcp", "8080-8090/tcp"]


def test_check_config_lists_what_is_hidden_though_nobody_names_it(here: Place) -> None:
    assert "hidden, but no longer in the config (openme unhide PORT): 8080-8090/tcp" in here.ok("check-config").err
    assert here.ok("check-config", "--json").json()["hidden_though_unnamed"] == ["8080-8090/tcp"]


def test_check_config_warns_of_a_damaged_set(here: Place) -> None:
    (here.state / "hidden_ports").write_bytes(b"8080/tcp\n")
    done = here.ok("check-config")
    assert "damaged" in done.err
    assert "8080/tcp" in done.err


def test_a_server_with_drop_ports_false_forgets_the_set(here: Place) -> None:
    here.config.write_text(here.config.read_text().replace("drop_ports: true", "drop_ports: false"))
    with here.serving():
        assert kept(here) == []
