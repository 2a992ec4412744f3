"""Changing keys of `server:` in a file: those lines change, and every other byte stays."""

from pathlib import Path

import pytest

from openme.config.edit import set_server_keys
from openme.config.faults import ConfigError

PATH = Path("config.yaml")
FILE = """\
# our server
server:
  host: knock.example.org  # public
  private_key: "AAAA" # secret
  # about versions
  protocols: [v1] # for now
  'replay_window': 60s
ports: {default: [22/tcp]}

clients: {}
# end
"""


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize(
    ("values", "old", "new"),
    [
        ({"private_key": "BBBB"}, '"AAAA"', "BBBB"),
        ({"protocols": ["v1", "v2"]}, "[v1]", "[v1, v2]"),
        ({"replay_window": "90s"}, "60s", "90s"),
        ({"previous_private_key": "CCCC"}, "# secret\n", "# secret\n  previous_private_key: CCCC\n"),
        ({"protocols": None}, "  protocols: [v1] # for now\n", ""),
        ({"host": None}, "  host: knock.example.org  # public\n", ""),
        ({"previous_private_key": None}, "", ""),
        ({"host": "h", "replay_window": None}, "", None),
    ],
)
def test_only_what_was_asked_for_changes(
    values: dict[str, str | list[str] | None], old: str, new: str | None, newline: str, bom: str
) -> None:
    expected = FILE.replace(old, new, 1) if new is not None else FILE.replace("knock.example.org", "h")
    if new is None:
        expected = expected.replace("  'replay_window': 60s\n", "")
    before, after = (bom + text.replace("\n", newline) for text in (FILE, expected))
    assert set_server_keys(before, PATH, values) == after


def test_a_value_that_yaml_would_read_otherwise_is_quoted() -> None:
    text = set_server_keys(FILE, PATH, {"host": "2001:db8::1", "run_as": "no"})
    assert set_server_keys(text, PATH, {"host": "knock.example.org", "run_as": None}) == FILE
    assert "'no'" in text or '"no"' in text


def test_a_file_without_a_last_line_break_keeps_to_that() -> None:
    text = "server:\n  private_key: A"
    assert set_server_keys(text, PATH, {"host": "h"}) == "server:\n  private_key: A\n  host: h"
    assert set_server_keys(f"{text}\n  host: h", PATH, {"host": None}) == f"{text}\n"


@pytest.mark.parametrize(
    "text",
    [
        "server: {private_key: A, protocols: [v1]}\n",
        "server:\n  private_key: |\n    A\n  protocols: [v1]\n",
        "server:\n  private_key: A\n  protocols:\n    - v1\n",
        "server:\n  private_key: A\n  protocols: [v1,\n    v2]\n",
        "server:\n  private_key: A\n  protocols: &anchor [v1]\n  other: *anchor\n",
        "server: {}\n",
        "server:\n",
        "clients: {}\n",
        "server:\n  ? private_key\n  : A\n  ? protocols\n  : [v1]\n",
        "[]\n",
        "server:\n  private_key: 'A\n",
    ],
)
def test_an_unusual_notation_is_refused_and_never_guessed_at(text: str) -> None:
    with pytest.raises(ConfigError):
        set_server_keys(text, PATH, {"private_key": "B", "protocols": ["v1", "v2"]})
