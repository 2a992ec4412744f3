"""A command whose standard streams are closed, or that is given the other side's file, says so or does its work."""

from pathlib import Path

import pytest

from support.command import Place, place


@pytest.fixture
def here(tmp_path: Path) -> Place:
    made = place(tmp_path)
    made.prepare()
    return made


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- 2>&-"])
@pytest.mark.parametrize("words", ["--version", "list", "check-config --json", "add bob --out bob.yaml", "profiles"])
def test_what_is_asked_for_is_done_without_stdin_and_stderr(here: Place, closed: str, words: str) -> None:
    if words == "profiles":
        here.shell("openme add alice > alice.yaml")
        words = "--client-config alice.yaml profiles"
    usual = here.shell(f"openme {words}".replace("bob", "ben"))
    done = here.shell(f"openme {words} {closed}")
    assert (done.code, done.out) == (0, usual.out)
    assert "bob" not in words or (here.root / "bob.yaml").stat().st_size > 0


@pytest.mark.parametrize("words", ["--version", "list", "profiles"])
def test_without_stdout_it_says_so(here: Place, words: str) -> None:
    done = here.shell(f"openme {words} >&-")
    assert (done.code, done.error) == (1, "stdout is closed")


def test_a_file_opened_later_does_not_take_the_place_of_a_closed_stream(here: Place) -> None:
    """What is said on stderr must not land in the client's file."""
    done = here.shell("openme add alice --out alice.yaml <&- 2>&-; grep -c '^openme:' alice.yaml")
    assert done.out == "0\n"


def test_the_other_sides_file_is_not_ignored_in_silence(here: Place) -> None:
    here.shell("openme add alice > alice.yaml")
    done = here.run("--client-config", str(here.root / "alice.yaml"), "profiles")
    assert done.code == 0
    assert f"profiles does not read {here.config}" in done.err
    done = here.run("list", "--client-config", "alice.yaml")
    assert done.code == 0
    assert "list does not read alice.yaml" in done.err
