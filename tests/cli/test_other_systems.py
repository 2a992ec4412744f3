"""The client where only what Windows or macOS has can be used: a real server, and a client process without the rest.

What this cannot show is said in docs/install.md: nobody has tried it on those systems.
"""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from openme.cli.commands import COMMANDS
from support.command import Done, Place, place

SYSTEMS = ("windows", "macos")
TESTS = Path(__file__).parents[1]
ADDRESS = "203.0.113.5"


@pytest.fixture
def here(tmp_path: Path) -> Place:
    """A server's config, and a client's file where a user has it."""
    made = place(tmp_path)
    made.prepare()
    (tmp_path / ".openme").mkdir(0o700)
    made.client("alice").rename(tmp_path / ".openme/config.yaml")
    return made


def run(here: Place, system: str, what: str, *words: str) -> Done:
    environment = {**here.environment, "PYTHONPATH": str(TESTS)}
    done = subprocess.run(
        [sys.executable, "-m", "support.other_systems", system, what, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        cwd=here.root,
        timeout=60,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def command(here: Place, system: str, *words: str) -> Done:
    done = run(here, system, "command", *words)
    assert "Traceback" not in done.err
    assert "internal error" not in done.err
    return done


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_knock_opens_and_is_proven(here: Place, system: str) -> None:
    with here.serving():
        done = command(here, system, "knock", "--check", "--ip", ADDRESS)
        assert (done.code, done.out.split()[0]) == (0, "open")
        status = command(here, system, "status", "--json")
    assert status.code == 0
    assert status.json()["receipts"][0]["proven"]
    assert command(here, system, "status").out == "closed\n"


@pytest.mark.parametrize("system", SYSTEMS)
def test_what_a_client_does_without_a_server(here: Place, system: str) -> None:
    assert command(here, system, "profiles", "--names").out == "default\n"
    assert "ProxyCommand" in command(here, system, "ssh-config").out
    assert command(here, system, "completion", "bash").code == 0
    assert command(here, system, "--help").code == 0
    made = command(here, system, "keygen", "laptop")
    assert made.code == 0, made.err
    assert "laptop" in command(here, system, "profiles").out
    agent = command(here, system, "keygen", "--identity", "ssh-agent", "other")
    assert agent.code == 1
    if system == "windows":
        assert "on this system" in agent.error


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_profile_is_imported(here: Place, system: str) -> None:
    here.client("bob", "--profile", "office").rename(here.root / "bob.yaml")
    done = command(here, system, "import", "bob.yaml")
    assert done.code == 0, done.err
    assert command(here, system, "profiles", "--names").out == "default\noffice\n"


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_connection_is_carried(here: Place, system: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"welcome\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        done = command(here, system, "connect", "127.0.0.1", str(listening.getsockname()[1]))
        thread.join(10)
    assert (done.code, done.out) == (0, "welcome\n")


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_library_keeps_a_door_open(here: Place, system: str) -> None:
    code = (
        "import openme\n"
        f"with openme.keep_open(ip={ADDRESS!r}) as door:\n"
        "    print(door.outcome.state.value, openme.knock(ip='203.0.113.6').is_open)\n"
    )
    with here.serving():
        done = run(here, system, "program", code)
    assert (done.code, done.out, done.err) == (0, "open True\n", "")


def test_the_library_under_asyncio_on_macos(here: Place) -> None:
    """The loop that Windows has cannot be made here."""
    code = f"import asyncio\nfrom openme import aknock\nprint(asyncio.run(aknock(ip={ADDRESS!r})).is_open)\n"
    with here.serving():
        done = run(here, "macos", "program", code)
    assert (done.code, done.out, done.err) == (0, "True\n", "")


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", [command.name for command in COMMANDS if command.group == "server"] + ["demo"])
def test_a_command_of_the_server_says_that_it_needs_linux(here: Place, system: str, name: str) -> None:
    done = command(here, system, name)
    assert (done.code, done.error) == (1, f"{name} needs Linux, as the server does")


TEXT_MODE = """
import os
wanted = 1 << 30
os.O_BINARY = wanted  # as Windows has it; here it is only looked for
opened = os.open
seen = []

def note(path, flags, *rest, **more):
    seen.append(flags & wanted != 0)
    return opened(path, flags & ~wanted, *rest, **more)

os.open = note
from pathlib import Path
from openme.config.files import open_regular
from openme.files import write_new

write_new(Path("key"), b"a\\n")
os.close(open_regular(Path("key"), "-"))
print(seen)
"""


def test_where_files_have_a_text_mode_they_are_read_and_written_without(here: Place) -> None:
    """Windows would put a carriage return before each line feed of a key."""
    done = run(here, "windows", "program", TEXT_MODE)
    assert (done.out, done.err) == ("[True, True]\n", "")
