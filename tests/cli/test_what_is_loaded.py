"""What a command loads: nothing of other commands, and a client's nothing that only Linux has."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import openme
from support.command import Place

ELSEWHERE = """
import sys

REFUSED = {"fcntl", "pwd", "grp", "resource", "termios", "nftables", "ctypes", "syslog", "spwd", "pty"}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"only Linux has {name}", name=name)


import os, select

del os.splice, select.poll
told = os.fdopen(os.dup(1), "w")  # `connect` lets go of stdout
sys.meta_path.insert(0, Refuse())
for name in REFUSED:
    sys.modules.pop(name, None)
from openme.cli.main import main

try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code or 0
sys.stdout.flush()
print("LOADED", *sorted(sys.modules), file=told, flush=True)
sys.exit(code)
"""

NEEDED = """
import argparse, gc, importlib, ipaddress, json, pathlib, signal, socket
import monocypher, nacl.bindings, yaml
import sys

argparse.ArgumentParser(add_help=False).parse_args([])  # what it loads to speak the language of the user
print(*sys.modules)
"""
SOURCE = Path(openme.__file__).parent
ROOMS = {"cli", "client", "config", "keys", "wire"}
CONFIG = {
    f"openme.config.{name}"
    for name in ("faults", "files", "keys", "nodes", "profile", "profile_keys", "profile_model", "section")
}
LATE = {"openme.client.address_page", "openme.client.async_session", "openme.client.waiting"}
"""For a page that tells our address, for asyncio, for a network with IPv6."""


def run_elsewhere(here: Place, *words: str) -> set[str]:
    """Run a command where only what every system has can be imported; the modules it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *words],
        env=here.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_a_command_is_found_without_loading_any(here: Place) -> None:
    """The overview, and a word that is none, need the list alone."""
    loaded = {name for name in run_elsewhere(here, "--help") if name.startswith("openme.cli.")}
    assert loaded == {"openme.cli.commands", "openme.cli.main", "openme.cli.output", "openme.cli.paths"}


@pytest.mark.parametrize(
    "words",
    [
        ["knock", "--help"],
        ["status", "--help"],
        ["profiles", "--help"],
        ["keygen", "--help"],
        ["import", "--help"],
        ["--help"],
    ],
)
def test_the_client_commands_load_without_linux(here: Place, words: list[str]) -> None:
    assert "openme.cli.main" in run_elsewhere(here, *words)


def test_a_knock_leaves_without_linux_and_loads_no_server(here: Place) -> None:
    alice = here.client("alice")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", here.port))
        udp.settimeout(10)
        loaded = run_elsewhere(here, "--client-config", str(alice), "knock")
        assert len(udp.recv(1000)) == 165
    ours = {name for name in loaded if name.startswith("openme.")}
    assert {room for room in (name.split(".")[1] for name in ours) if (SOURCE / room).is_dir()} == ROOMS
    assert {name for name in ours if name.startswith("openme.config.")} == CONFIG
    assert ours & LATE == set()
    # Nothing of what these bring by themselves is ours to save; whatever a knock loads besides makes it slower.
    needed = subprocess.run(
        [sys.executable, "-c", NEEDED], env=here.environment, capture_output=True, text=True, check=True, timeout=30
    )
    assert sorted(loaded - ours - {"openme"} - set(needed.stdout.split())) == []


def test_a_key_is_made_without_linux_and_loads_no_library_for_key_files(here: Place) -> None:
    loaded = run_elsewhere(here, "--client-config", str(here.root / "client.yaml"), "keygen")
    assert (here.root / "client.yaml").exists()
    assert [name for name in loaded if name.startswith(("cryptography", "bcrypt", "openme.server"))] == []


def test_a_profile_is_imported_without_linux_and_no_image_library_is_loaded(here: Place) -> None:
    alice = here.client("alice")
    loaded = run_elsewhere(here, "--client-config", str(here.root / "client.yaml"), "import", str(alice))
    assert (here.root / "client.yaml").exists()
    assert [name for name in loaded if name.startswith(("zxingcpp", "PIL", "openme.server", "subprocess"))] == []


def test_a_connection_is_carried_without_linux_by_reading_and_writing(here: Place) -> None:
    """No splice(2), no poll(2), as on Windows; and of a session only what it needs."""
    alice = here.client("alice")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(b"welcome\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = str(listening.getsockname()[1])
        loaded = run_elsewhere(here, "--client-config", str(alice), "connect", "127.0.0.1", port)
        thread.join(10)
    assert "threading" in loaded
    unwanted = ("openme.server", "openme.ports", "asyncio", "dataclasses", "inspect", "ssl", "subprocess")
    assert [name for name in sorted(loaded) if name.startswith(unwanted)] == []


def test_doctor_looks_at_a_client_without_linux_and_loads_no_server(here: Place) -> None:
    alice = here.client("alice")
    with here.serving():
        words = ("doctor", "--client-config", str(alice), "--side", "client", "--ntp", "none", "--ip", "203.0.113.7")
        loaded = run_elsewhere(here, *words)
    unwanted = ("openme.server", "openme.doctor.server", "openme.firewall", "openme.control", "openme.processes")
    assert [name for name in sorted(loaded) if name.startswith(unwanted)] == []


def test_no_other_command_loads_doctor(here: Place) -> None:
    for words in (["knock", "--help"], ["status", "--help"], ["connect", "--help"], ["profiles", "--help"]):
        assert [name for name in run_elsewhere(here, *words) if name.startswith("openme.doctor")] == []


def test_a_server_command_does_need_linux(here: Place) -> None:
    with pytest.raises(AssertionError, match="only Linux has"):
        run_elsewhere(here, "serve", "--help")
