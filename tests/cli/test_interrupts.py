"""Ctrl-C and SIGTERM, whenever they come: heard at once, in silence, and with nothing left half done."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import openme
from openme.cli.commands import COMMANDS
from support import interrupting
from support.command import DEADLINE, OPENME, Done, Place, place, until
from support.interrupting import ANY, AT_THE_END

BOTH = (signal.SIGINT, signal.SIGTERM)
SCRIPT = interrupting.__file__

# While modules are imported. The first two are where Python's own handler loses Ctrl-C or turns it into a RuntimeError:
# the callback of a weakref to a module's lock, of which each import has one, and a class that is made with an enum's
# members. The others are a module being looked for and being run, and any place at all.
IMPORTING = [("cb", 1), ("cb", 35), ("__set_name__", 1), ("find_spec", 9), ("exec_module", 30)]
ANYWHERE = [(ANY, 3), (ANY, 30), (ANY, 3_000), (ANY, 18_000)]
WORDS = {
    "help": ["--help"],
    "list": ["list"],
    "add": ["add", "alice", "--out", "alice.yaml"],
    "init": ["init", "--server", "192.0.2.1", "--config", "new.yaml", "--state-dir", "new"],
    "knock": ["knock"],
    "connect": ["connect", "127.0.0.1", "22"],
    "continuous": ["knock", "--continuous"],
    "sessions": ["sessions", "-w"],
    "serve": ["serve", "--state-file", ""],
    "try": ["try", "2m", "--yes", "--state-file", ""],
    "demo": ["demo"],
}


def command(number: int, where: tuple[str, int], *words: str, python: str = sys.executable) -> list[str]:
    name, count = where
    return [python, SCRIPT, str(int(number)), name, str(count), *words]


def run(here: Place, number: int, where: tuple[str, int], *words: str, ignored: bool = False) -> Done:
    """`openme WORD...`, in the place's folder and with its config, with the signal there."""
    done = subprocess.run(
        command(number, where, "--config", str(here.config), *words),
        env=here.environment,
        cwd=here.root,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
        preexec_fn=(lambda: signal.signal(number, signal.SIG_IGN)) if ignored else None,  # no thread
    )
    return Done(done.returncode, done.stdout, done.stderr)


def files(here: Place) -> dict[str, bytes]:
    return {str(p.relative_to(here.root)): p.read_bytes() for p in here.root.rglob("*") if p.is_file()}


# -- while nothing has been made yet


@pytest.mark.parametrize("where", IMPORTING + ANYWHERE, ids=str)
@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_ctrl_c_while_it_loads_ends_it_by_that_signal_in_silence(
    here: Place, words: list[str], where: tuple[str, int]
) -> None:
    before = files(here)
    assert run(here, signal.SIGINT, where, *words) == Done(-signal.SIGINT, "", "")
    assert files(here) == before


@pytest.mark.parametrize("where", [IMPORTING[0], IMPORTING[2], ANYWHERE[2]], ids=str)
@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
def test_sigterm_while_it_loads_does_the_same(here: Place, words: list[str], where: tuple[str, int]) -> None:
    before = files(here)
    assert run(here, signal.SIGTERM, where, *words) == Done(-signal.SIGTERM, "", "")
    assert files(here) == before


@pytest.mark.parametrize("call", ["getsignal", "signal"])
def test_ctrl_c_in_the_very_lines_that_let_go_of_pythons_handler_is_not_lost(here: Place, call: str) -> None:
    assert run(here, signal.SIGINT, (call, 1), "--help") == Done(-signal.SIGINT, "", "")


def interpreters() -> list[str]:
    """Those of this machine that openme is for."""
    found = {os.path.realpath(sys.executable): sys.executable}
    for name in (f"python3.{minor}" for minor in range(11, 20)):
        places = [shutil.which(name), *Path.home().glob(f".pyenv/versions/*/bin/{name}")]
        for candidate in map(str, filter(None, places)):
            asked = [candidate, "-c", "import os, sys; print(os.path.realpath(sys.executable))"]
            started = subprocess.run(asked, capture_output=True, text=True, check=False)
            if started.returncode == 0:  # pyenv has links to what is not switched on, and does not start it
                found.setdefault(started.stdout.strip(), candidate)
    return list(found.values())


@pytest.mark.parametrize(
    "where", [("cb", 1), ("cb", 20), ("__set_name__", 1), ("exec_module", 9), *ANYWHERE[:3]], ids=str
)
@pytest.mark.parametrize("python", interpreters())
def test_so_it_is_with_every_python_of_this_machine(python: str, where: tuple[str, int]) -> None:
    path = str(Path(openme.__file__).parents[1])
    done = subprocess.run(
        command(signal.SIGINT, where, "--help", python=python),
        env={"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_as_a_module_it_is_the_same_program() -> None:
    as_module = subprocess.run([sys.executable, "-m", "openme", "--help"], capture_output=True, text=True, check=False)
    by_name = subprocess.run([OPENME, "--help"], capture_output=True, text=True, check=False)
    assert (as_module.returncode, as_module.stdout) == (by_name.returncode, by_name.stdout) == (0, by_name.stdout)
    assert {command.name for command in COMMANDS} <= set(as_module.stdout.split())


@pytest.mark.parametrize("words", [["list"], ["add", "alice"], ["rotate", "ratchet"]], ids=" ".join)
@pytest.mark.parametrize("where", [("cb", 5), ("replace", 1), ("flock", 1), ("answer_lines", 1)], ids=str)
def test_what_was_ignored_when_it_started_stays_ignored(here: Place, words: list[str], where: tuple[str, int]) -> None:
    """As with nohup, or in the background of a shell without job control."""
    for number in BOTH:
        done = run(here, number, where, *words, ignored=True)
        assert (done.code, "Traceback" in done.err) == (0, False), done.err
        here.run("revoke", "alice")


# -- add and init: all of it or nothing


UNDONE = "openme: error: interrupted: nothing was added\n"


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("out", [["--out", "alice.yaml"], []], ids=["to a file", "to stdout"])
@pytest.mark.parametrize(
    "where", [("write_files", 1), ("_add_entry", 1), ("fsync", 1), ("_tell_of_client", 1), ("print", 1)], ids=str
)
def test_add_is_undone(here: Place, where: tuple[str, int], out: list[str], number: int) -> None:
    here.ok("add", "somebody")  # what the first client of a server needs is made
    before = files(here)
    assert run(here, number, where, "add", "alice", *out) == Done(-number, "", UNDONE)
    assert files(here) == before


def test_add_stands_once_the_profile_is_out(here: Place) -> None:
    done = run(here, signal.SIGINT, ("_note_file", 1), "add", "alice", "--out", "alice.yaml")
    assert done.code == -signal.SIGINT
    assert (here.root / "alice.yaml").exists()
    assert "alice" in here.ok("list").out


@pytest.mark.parametrize("number", BOTH)
def test_add_that_waits_for_its_reader_is_undone_at_once(here: Place, number: signal.Signals) -> None:
    here.ok("add", "somebody")
    before = files(here)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, bytes(1 << 12))
    os.set_blocking(writer, True)
    waiting = subprocess.Popen(
        here.command("add", "alice"), env=here.environment, stdout=writer, stderr=subprocess.PIPE, text=True
    )
    try:
        until(lambda: is_asleep_in(waiting.pid, "pipe"), "it waits for its reader")
        assert b"alice" in here.config.read_bytes()
        waiting.send_signal(number)
        _, err = waiting.communicate(timeout=DEADLINE)
    finally:
        waiting.kill()
        os.close(reader)
        os.close(writer)
    assert (waiting.returncode, err) == (-number, UNDONE)
    assert files(here) == before


def is_asleep_in(pid: int, what: str) -> bool:
    return what in Path(f"/proc/{pid}/wchan").read_text()


@pytest.mark.parametrize("number", BOTH)
def test_whoever_waits_for_another_writer_is_heard(here: Place, number: int) -> None:
    here.ok("add", "somebody")
    before = files(here)
    directory = os.open(here.root, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        began = time.monotonic()
        assert run(here, number, ("sleep", 3), "add", "alice", "--out", "alice.yaml") == Done(-number, "", UNDONE)
        assert time.monotonic() - began < 15, "it would have waited 30 s for the other one"
    finally:
        os.close(directory)
    assert files(here) == before


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize(
    ("where", "is_done"),
    [("make_memory", False), ("replace_ratchet", False), ("check", False), ("_keep_old", True)],
)
def test_init_is_undone_or_whole(tmp_path: Path, where: str, number: int, *, is_done: bool) -> None:
    here = place(tmp_path)
    words = ["init", "--server", "192.0.2.1", "--state-dir", str(here.state), "--firewall", "memory"]
    assert run(here, number, (where, 1), *words) == Done(-number, "", "")
    if is_done:
        here.ok("check-config")
    else:
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("call", ["write_new", "fchmod", "fsync", "sync_directory"])
def test_a_file_is_the_old_or_the_new_one_and_no_half_of_it_stays(here: Place, call: str, number: int) -> None:
    old = here.config.read_bytes()
    assert run(here, number, (call, 1), "rotate", "v1-key").code == -number
    assert here.config.read_bytes() != old
    assert set(files(here)) == {"config.yaml"}


@pytest.mark.parametrize("number", BOTH)
def test_a_clients_file_is_whole_or_not_there(here: Place, number: int) -> None:
    here.ok("add", "alice")
    assert run(here, number, ("fchmod", 1), "renew", "alice", "--out", "alice.yaml").code == -number
    assert (here.root / "alice.yaml").read_text().startswith("profiles:")


# -- what goes on until Ctrl-C


def test_sessions_ends_with_0_wherever_ctrl_c_finds_it(here: Place) -> None:
    here.sessions.write_text('{"active_sessions": []}')
    words = ["sessions", "-w", "--json", "--state-file", str(here.sessions)]
    for where in (("_show", 2), ("sleep", 1), ("read_text", 1), ("flush", 1)):
        done = run(here, signal.SIGINT, where, *words)
        assert (done.code, done.err) == (0, ""), where
    assert run(here, signal.SIGTERM, ("_show", 2), *words).code == -signal.SIGTERM


def test_a_client_that_knocks_until_ctrl_c_ends_with_0(here: Place) -> None:
    alice = here.client("alice")
    words = ["--client-config", str(alice), "knock", "--continuous", "--interval", "1s"]
    for where in (("wait", 1), ("readable", 1), ("_reached", 2), ("remember", 2)):
        done = run(here, signal.SIGINT, where, *words)
        assert (done.code, "Traceback" in done.err) == (0, False), (where, done.err)
    before = set(files(here))
    assert run(here, signal.SIGTERM, ("wait", 1), *words).code == -signal.SIGTERM
    assert run(here, signal.SIGINT, ("getaddrinfo", 1), *words).code == -signal.SIGINT, "its first knock is not out yet"
    assert set(files(here)) == before


def test_it_ends_with_the_code_of_a_post_knock_that_has_failed(here: Place) -> None:
    alice = here.client("alice")
    alice.write_text(alice.read_text() + "    post_knock: exit 7\n")
    words = ["--client-config", str(alice), "knock", "--continuous", "--interval", "1s"]
    assert run(here, signal.SIGINT, ("_reached", 2), *words).code == 1


# -- serve: nothing is left, or it has served and stopped

STARTING = [
    *("state_lock", "bind_health", "fork", "pidfd_open", "start_guardian"),
    *("confine", "_await_listener", "watch_interfaces"),
]
STARTED = ["_start_firewall", "take_over", "set_wakeup_fd", "_say_ready", "next_at", "turn"]


def is_free(here: Place) -> bool:
    """Whether nobody holds the knock port or the state any more, and nobody can ask there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.bind(("0.0.0.0", here.port))  # as the server does
        except OSError:
            return False
    return not (here.state / "control").exists() and not here.sessions.exists()


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("where", STARTING)
@pytest.mark.parametrize("words", [["serve"], ["try", "1m", "--yes"]], ids=lambda words: words[0])
def test_a_server_that_is_told_to_end_while_it_starts_undoes_it(
    here: Place, words: list[str], where: str, number: int
) -> None:
    done = run(here, number, (where, 1), *words, "--state-file", str(here.sessions))
    assert done.code == -number, done.err
    assert "Traceback" not in done.err
    assert "serving" not in done.err
    until(lambda: is_free(here), "listener and guardian are gone")


@pytest.mark.parametrize("number", BOTH)
def test_a_server_that_is_told_to_end_before_it_has_made_anything_makes_nothing(here: Place, number: int) -> None:
    before = files(here)
    assert run(here, number, ("say", 1), "serve", "--state-file", str(here.sessions)).code == -number
    assert files(here) == before


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("where", STARTED)
@pytest.mark.parametrize("words", [["serve"], ["try", "1m", "--yes"]], ids=lambda words: words[0])
def test_a_server_that_is_told_to_end_once_it_hides_ports_stops_with_0(
    here: Place, words: list[str], where: str, number: int
) -> None:
    done = run(here, number, (where, 1), *words, "--state-file", str(here.sessions))
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert done.err.endswith("stopped; the firewall is as it was before\n")
    until(lambda: is_free(here), "listener and guardian are gone")


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize(
    "where",
    [("_end_processes", 1), ("close_channel", 1), ("say", 2), ("_give_up", 1), ("shutdown", 2), (AT_THE_END, 0)],
    ids=str,
)
def test_a_second_request_changes_nothing_once_it_stops(here: Place, where: tuple[str, int], number: int) -> None:
    """At the places that come after the loop, up to what the interpreter does last."""
    log = here.root / "log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command(number, where, "--config", str(here.config), "serve", "--state-file", str(here.sessions)),
            env=here.environment,
            stderr=stderr,
        )
    try:
        until(lambda: "serving: " in log.read_text(), "it serves")
        process.terminate()
        assert process.wait(DEADLINE) == 0
    finally:
        process.kill()
        process.wait()
    assert log.read_text().endswith("stopped; the firewall is as it was before\n")
    assert is_free(here)


def test_a_server_whose_ctrl_c_is_ignored_goes_on_until_sigterm(here: Place) -> None:
    process = subprocess.Popen(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *here.command("serve", "--state-file", str(here.sessions))],
        env=here.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: here.run("sessions").code == 0, "it serves")
        process.send_signal(signal.SIGINT)
        here.ok("sessions")
        here.ok("add", "alice")  # two turns of its loop at least
        here.ok("sessions")
        process.terminate()
        _, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0
    assert "stopped;" in err
