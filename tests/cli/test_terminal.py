"""What somebody at a terminal sees besides: colours and progress; and that nobody else gets a byte of either."""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from support.command import Place, place
from support.screen import at_a_terminal

ESCAPE = "\x1b"
TERMINAL = {"TERM": "xterm"}


@pytest.fixture
def here(tmp_path: Path) -> Place:
    made = place(tmp_path)
    made.prepare()
    made.client("alice")
    return made


def seen(here: Place, more: Mapping[str, str], *words: str) -> str:
    """All that a command writes to a terminal, byte for byte."""
    with at_a_terminal(here.command(*words), {**here.environment, **more}, here.root) as terminal:
        return terminal.all().replace("\r\n", "\n")


def closed(here: Place) -> list[str]:
    return ["--client-config", str(here.root / "alice.yaml"), "knock", "--check"]


def test_at_a_terminal_headings_and_words_have_colours(here: Place) -> None:
    assert re.match(r"\x1b\[1mNAME +FINGERPRINT .*\x1b\[0m\nalice ", seen(here, TERMINAL, "list"))
    assert f"openme: {ESCAPE}[1;31merror: {ESCAPE}[0munknown command lisst\n" in seen(here, TERMINAL, "lisst")


@pytest.mark.parametrize("more", [{}, {"TERM": "dumb"}, {"TERM": "xterm", "NO_COLOR": "1"}])
def test_who_wants_no_colours_gets_none(here: Place, more: dict[str, str]) -> None:
    assert ESCAPE not in seen(here, more, "list")
    assert ESCAPE not in seen(here, more, "lisst")
    assert ESCAPE in seen(here, {"TERM": "xterm", "NO_COLOR": ""}, "list")


def test_what_is_waited_for_is_said_at_a_terminal_and_taken_away(here: Place) -> None:
    text = seen(here, TERMINAL, *closed(here))
    assert re.search(rf"\r\x1b\[Kopenme: waiting for 127\.0\.0\.1 port {here.port}/tcp \(\d s\)", text)
    assert re.search(r"\r\x1b\[K\x1b\[1;31mclosed\x1b\[0m\n", text)
    port = str(here.port)
    text = seen(here, TERMINAL, "--client-config", str(here.root / "alice.yaml"), "connect", "127.0.0.1", port)
    assert f"openme: waiting for 127.0.0.1 port {port} (" in text


def test_elsewhere_not_a_byte_of_it_is_written(here: Place) -> None:
    done = here.run(*closed(here))
    assert done.out == "closed\n"
    assert ESCAPE not in done.err
    assert "waiting" not in done.err
    assert "waiting" not in seen(here, {**TERMINAL, "TERM": "dumb"}, *closed(here))
    assert "waiting" not in seen(here, TERMINAL, "--log-level", "warning", *closed(here))
