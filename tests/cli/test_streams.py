"""A command whose standard streams are closed, or that is given the other side's file, says so or does its work."""

import subprocess

import pytest

from openme.config.server import load_server_config
from openme.keys.ed25519 import ClientPrivateKey
from support.command import Place, until

OWN = ClientPrivateKey(b"\x21" * 32).public


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


ANSWERS = ["--version", "-v list", "--help", "help add", "add --help", "list", "list --json", "sessions", "epochs"]
ANSWERS += ["profiles", "demo", "check-config --json", "status --json"]


@pytest.mark.parametrize("words", ANSWERS)
def test_without_stdout_a_question_is_refused(here: Place, words: str) -> None:
    done = here.shell(f"openme {words} >&-")
    assert (done.code, done.error) == (1, "stdout is closed")
    assert "hint: send it to /dev/null instead" in done.err


@pytest.mark.parametrize("words", ["add bob", "add bob --out -", f"add bob --pubkey {OWN}", "renew alice"])
def test_without_stdout_a_file_for_it_is_refused_before_anything_is_done(here: Place, words: str) -> None:
    here.ok("add", "alice")
    before = {path: path.stat().st_mtime_ns for path in here.root.rglob("*")}
    done = here.shell(f"openme {words} >&-")
    assert (done.code, done.error) == (1, "stdout is closed")
    assert "hint: name a file: --out FILE" in done.err
    assert {path: path.stat().st_mtime_ns for path in here.root.rglob("*")} == before


def test_without_stdout_work_is_done(here: Place) -> None:
    done = here.shell("openme add alice --out alice.yaml >&-")
    assert done.code == 0, done.err
    assert (here.root / "alice.yaml").read_text().startswith("profiles:\n")
    for words, code in {
        "check-config": 0,
        "renew alice --out again.yaml": 0,
        "rotate v1-key": 0,
        f"init --server localhost --force --state-dir {here.state} --firewall memory": 0,
        "revoke nobody": 1,
        "status --client-config alice.yaml": 3,
        "init --upgrade": 0,
    }.items():
        done = here.shell(f"openme {words} >&-")
        assert done.code == code, (words, done.err)
        assert "stdout is closed" not in done.err


def test_a_server_serves_without_stdout(here: Place) -> None:
    here.ok("add", "alice", "--out", str(here.root / "alice.yaml"))
    log = here.root / "log"
    with log.open("wb") as stderr:
        words = here.command("serve", "--state-file", "")
        serving = subprocess.Popen(["sh", "-c", 'exec "$@" >&-', "sh", *words], env=here.environment, stderr=stderr)
    try:
        until(lambda: "serving: " in log.read_text() or serving.poll() is not None, "the server serves")
        done = here.shell("openme --client-config alice.yaml knock --check --ip 203.0.113.5 >&-")
        assert done.code == 0, done.err
    finally:
        serving.terminate()
    assert serving.wait(20) == 0
    assert "alice: opened 22/tcp" in log.read_text()


@pytest.mark.parametrize("words", [*ANSWERS[:-1], "", "add bob", "renew alice", "check-config", "rotate v1-key"])
def test_what_could_not_be_written_is_an_error(here: Place, words: str) -> None:
    here.shell("openme add alice --out alice.yaml")
    more = "--client-config alice.yaml" if words == "profiles" else ""
    done = here.shell(f"openme {words} {more} >/dev/full")
    assert "Exception ignored" not in done.err
    if words == "sessions":
        assert done.code == 1  # there is no server
    elif words == "":
        assert done.code == 2
    else:
        assert (done.code, "no space left on device" in done.error.lower()) == (1, True)


@pytest.mark.parametrize("words", ["check-config", "list", "revoke alice", "add bob --out bob.yaml"])
def test_a_full_stderr_stops_no_work_and_is_an_error(here: Place, words: str) -> None:
    here.shell("openme add alice --out alice.yaml --ports ''")
    here.shell("openme add alice --out alice.yaml")
    done = here.shell(f"openme {words} 2>/dev/full")
    clients = set(load_server_config(here.config).clients)
    if words in {"list", "check-config"}:
        assert (done.code, clients) == (0, {"alice"})  # nothing was to be said there
    else:
        assert (done.code, done.out, clients) == (1, "", set() if "revoke" in words else {"alice", "bob"})


@pytest.mark.parametrize("words", ["--version", "--help", "list", "help add"])
def test_who_reads_no_further_is_no_error(here: Place, words: str) -> None:
    here.ok("add", "alice")
    done = here.shell(f"{{ openme {words}; echo $? >&2; }} | true")
    assert done.err == "0\n"


@pytest.mark.parametrize(
    "words",
    [
        "help add",
        "help --config x add",
        "help --config=x add",
        "--config x help add",
        "help --log-level error --config x add",
        "help add --config x",
        "add --help",
    ],
)
def test_help_and_a_command_is_that_commands_help_wherever_options_stand(here: Place, words: str) -> None:
    done = here.run(*words.split())
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("usage: openme add ")


@pytest.mark.parametrize(
    "words", ["help", "help help", "help --config x", "help --help", "--help help", "-h", "-h add"]
)
def test_help_alone_is_the_overview(here: Place, words: str) -> None:
    done = here.run(*words.split())
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("usage: openme [--config PATH]")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("help --cnfig x add", "unknown option --cnfig"),
        ("help ad", "unknown command ad"),
        ("help --config", "--config: expected one argument"),
        ("help --config x ad", "unknown command ad"),
    ],
)
def test_what_is_wrong_behind_help_is_said(here: Place, words: str, says: str) -> None:
    done = here.run(*words.split())
    assert (done.code, done.error, done.out) == (2, says, "")


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
