"""`--log-level`: what every command leaves out on stderr, and what it never does."""

import subprocess

import pytest

from support.command import DEADLINE, OPENME, Done, Place, until

NOBODY = "NOBODY CAN OPEN WHAT IS HIDDEN: no client is registered"


def kinds(done: Done) -> set[str]:
    """What the lines on stderr are: a progress line has no word in front."""
    words = {line.removeprefix("openme: ").partition(":")[0] for line in done.err.splitlines()}
    return {word if word in {"warning", "hint", "error"} else "progress" for word in words}


def client(here: Place, *words: str) -> Done:
    """A client's command with alice's file, and without the server's."""
    command = [OPENME, "--client-config", str(here.client("alice")), *words]
    done = subprocess.run(command, env=here.environment, capture_output=True, text=True, check=False, timeout=DEADLINE)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("debug", {"progress", "warning", "hint"}),
        ("info", {"progress", "warning", "hint"}),
        ("warn", {"warning"}),
        ("warning", {"warning"}),
        ("error", set()),
    ],
)
def test_a_server_command_says_nothing_that_matters_less(here: Place, level: str, heard: set[str]) -> None:
    words = ["add", "alice", "--out", str(here.root / "alice.yaml"), "--expires", "2020-01-01"]
    assert kinds(here.ok("--log-level", level, *words)) == heard


@pytest.mark.parametrize(
    ("level", "heard"),
    [("debug", {"progress", "hint"}), ("info", {"progress", "hint"}), ("warn", set()), ("error", set())],
)
def test_a_client_command_says_nothing_that_matters_less(here: Place, level: str, heard: set[str]) -> None:
    done = client(here, "status", "--knock", "--log-level", level)
    assert (done.code, done.out) == (3, "closed\n")
    assert kinds(done) == heard


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_an_error_is_always_told_with_its_cure(here: Place, level: str) -> None:
    done = client(here, "profiles", "defalt", "--log-level", level)
    assert (done.code, kinds(done)) == (1, {"error", "hint"})


def test_a_post_knock_that_fails_is_told_at_every_level(here: Place) -> None:
    alice = here.client("alice")
    alice.write_text(alice.read_text() + "    post_knock: exit 7\n")
    done = here.run("knock", "--client-config", str(alice), "--log-level", "error")
    assert (done.code, done.error) == (1, "post_knock ended with status 7")


@pytest.mark.parametrize("level", ["info", "error"])
def test_that_nobody_can_open_is_told_at_every_level(here: Place, level: str) -> None:
    checked = here.ok("check-config", "--log-level", level)
    assert f"openme: warning: {NOBODY}" in checked.err
    assert here.ok("check-config", "--json", "--log-level", level).json()["warnings"][0].startswith(NOBODY)
    log = here.root / "log"
    words = ["serve", "--state-file", "", "--log-level", level]
    with log.open("wb") as stderr, subprocess.Popen(here.command(*words), stderr=stderr) as server:
        try:
            # Before it hides them, and behind the lines of the start, where it is seen.
            until(lambda: log.read_text().count(NOBODY) == 2, "it is said twice")
        finally:
            server.terminate()
            server.wait(DEADLINE)
    assert ("serving: " in log.read_text()) == (level == "info")


def test_a_trial_does_not_say_that_always_open_from_has_no_effect(here: Place) -> None:
    here.set("drop_ports", "false\n  always_open_from: [192.0.2.0/24]")
    assert "always_open_from: has no effect while drop_ports is false" in here.ok("check-config").err
    done = here.run("try", "1s", "--yes", "--state-file", "")
    assert (done.code, "nobody has knocked in time" in done.err) == (1, True)
    assert NOBODY in done.err
    assert "has no effect" not in done.err
