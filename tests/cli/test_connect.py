"""`openme connect` and `openme ssh-config` as one runs them, over loopback and without root."""

import os
import re
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from support.command import DEADLINE, OPENME, Done, Place

RESET = struct.pack("ii", 1, 0)
BROKEN = 4


@pytest.fixture
def alice(here: Place) -> Path:
    return here.client("alice")


class Service:
    """A TCP service on loopback that handles one connection, and the knocks that came to the server's port."""

    def __init__(self, knock_port: int, handle: Callable[[socket.socket], None]) -> None:
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.listening.settimeout(DEADLINE)
        self.port: int = self.listening.getsockname()[1]
        self.knocks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.knocks.bind(("127.0.0.1", knock_port))
        self.knocks.setblocking(False)  # noqa: FBT003
        self._handle = handle
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            connection, _ = self.listening.accept()
            with connection:
                self._handle(connection)

    def knocked(self) -> int:
        """How often somebody has knocked."""
        count = 0
        with suppress(BlockingIOError):
            while self.knocks.recv(1000):
                count += 1
        return count


@contextmanager
def serving(here: Place, handle: Callable[[socket.socket], None]) -> Iterator[Service]:
    service = Service(here.port, handle)
    try:
        yield service
    finally:
        service.listening.close()
        service.knocks.close()
        service.thread.join(DEADLINE)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(1000):
        connection.sendall(data)


def start(here: Place, alice: Path, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [OPENME, "--client-config", str(alice), "connect", *map(str, words)],
        env=here.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def connect(here: Place, alice: Path, *words: object, said: str = "hello") -> Done:
    process = start(here, alice, *words)
    out, err = process.communicate(said, timeout=DEADLINE)
    return Done(process.returncode, out, err)


def test_stdout_is_the_connection_and_nothing_is_said_beside_it(here: Place, alice: Path) -> None:
    with serving(here, echo) as service:
        assert connect(here, alice, "127.0.0.1", service.port) == Done(0, "hello", "")
        assert service.knocked() == 0, "the port is open to us"


@pytest.mark.parametrize("stdin", [os.devnull, __file__], ids=["nothing", "a file"])
def test_stdin_and_stdout_may_be_files(here: Place, alice: Path, stdin: str) -> None:
    """Which splice(2) does not take."""
    with serving(here, echo) as service, Path(stdin).open("rb") as given, (here.root / "out").open("wb") as out:
        words = [OPENME, "--client-config", str(alice), "connect", "127.0.0.1", str(service.port)]
        done = subprocess.run(words, env=here.environment, stdin=given, stdout=out, check=False, timeout=DEADLINE)
    assert done.returncode == 0
    assert (here.root / "out").read_bytes() == Path(stdin).read_bytes()


def test_a_connection_that_is_cut_off_is_told_from_one_that_ends(here: Place, alice: Path) -> None:
    def cut(connection: socket.socket) -> None:
        connection.sendall(b"half of it")
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    with serving(here, cut) as service:
        assert connect(here, alice, "127.0.0.1", service.port) == Done(
            BROKEN,
            "half of it",
            f"openme: error: 127.0.0.1 port {service.port}: the connection broke: Connection reset by peer\n",
        )


def test_whoever_reads_no_more_ends_it_without_a_word(here: Place, alice: Path) -> None:
    """As with `openme connect ... | head`, and when ssh is killed."""

    def talk(connection: socket.socket) -> None:
        with suppress(OSError):
            while True:
                connection.sendall(b"and so on\n")

    with serving(here, talk) as service, start(here, alice, "127.0.0.1", service.port) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "and so on\n"
        process.stdout.close()
        assert process.wait(DEADLINE) == 0
        assert process.stderr.read() == ""


def test_killed_it_takes_the_connection_with_it(here: Place, alice: Path) -> None:
    ended = threading.Event()

    def notice(connection: socket.socket) -> None:
        connection.sendall(b"ready\n")
        with suppress(ConnectionResetError):
            connection.recv(1)
        ended.set()

    with serving(here, notice) as service, start(here, alice, "127.0.0.1", service.port) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.wait(DEADLINE) == -signal.SIGKILL
        assert ended.wait(DEADLINE)


# -- what is told, and how


@pytest.mark.parametrize(
    ("words", "code", "error", "hint"),
    [
        ([], 2, "the following arguments are required: HOST, PORT", "see: openme connect --help"),
        (["127.0.0.1"], 2, "the following arguments are required: PORT", "see: openme connect --help"),
        (["127.0.0.1", "ssh"], 2, "PORT: expected a port from 1 to 65535", "see: openme connect --help"),
        (["127.0.0.1", "0"], 2, "PORT: expected a port from 1 to 65535", "see: openme connect --help"),
        (["127.0.0.1", "22", "--profil", "a"], 2, "unknown option --profil", "did you mean --profile?"),
        (["127.0.0.1", "22", "--profile", "ofice"], 1, "there is no profile ofice", "did you mean office?"),
        (["127.0.0.2", "22"], 1, "no profile is for 127.0.0.2", "did you mean 127.0.0.1?"),
        (["elsewhere", "22"], 1, "no profile is for elsewhere", "name one: --profile NAME (profiles: office)"),
    ],
)
def test_each_mistake_is_told_in_one_line_with_its_cure(
    here: Place, words: list[str], code: int, error: str, hint: str
) -> None:
    office = here.client("alice", "--profile", "office")
    done = connect(here, office, *words)
    assert (done.code, done.out) == (code, "")
    assert done.err == f"openme: error: {error}\nopenme: hint: {hint}\n"


def test_without_profiles_it_says_where_they_belong(here: Place) -> None:
    done = connect(here, here.root / "none.yaml", "127.0.0.1", 22)
    assert (done.code, done.out) == (1, "")
    assert "none.yaml" in done.error


def test_a_closed_stdout_is_told_before_anything_is_done(here: Place, alice: Path) -> None:
    with serving(here, echo) as service:
        words = shlex.join([OPENME, "--client-config", str(alice), "connect", "127.0.0.1", str(service.port)])
        done = here.shell(f"{words} >&-")
        assert (done.code, done.out) == (1, "")
        assert done.error == "stdout is closed"
        service.listening.settimeout(0)


def test_a_door_that_stays_shut_has_exit_code_3(here: Place, alice: Path) -> None:
    """Nobody listens anywhere, and nobody hears the knocks; a signal in between would end it by that."""
    done = connect(here, alice, "127.0.0.1", here.port)
    assert (done.code, done.out) == (3, "")
    waiting, error, hint = done.err.splitlines()
    assert waiting == f"openme: 127.0.0.1 port {here.port} does not answer yet; knocked again"
    assert error == f"openme: error: 127.0.0.1 port {here.port}: no connection after the knock: Connection refused"
    assert hint.startswith("openme: hint: on the server, the log says why (journalctl -u openme)")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_it_knocks_ends_it_by_that_signal(here: Place, alice: Path, number: signal.Signals) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", here.port))
        udp.settimeout(DEADLINE)
        process = start(here, alice, "127.0.0.1", here.port)
        assert len(udp.recv(1000)) == 165
        process.send_signal(number)
        assert process.communicate(timeout=DEADLINE) == ("", "")
        assert process.returncode == -number


def test_a_profile_that_cannot_knock_reaches_a_port_that_is_open_all_the_same(here: Place, alice: Path) -> None:
    alice.write_text(re.sub(r"    private_key: .*\n", "", alice.read_text()))
    with serving(here, echo) as service:
        assert connect(here, alice, "127.0.0.1", service.port) == Done(0, "hello", "")
    done = connect(here, alice, "127.0.0.1", here.port)
    assert (done.code, done.error) == (1, "profile default has no private_key")


# -- ssh-config


def ssh_g(here: Place, text: str, host: str) -> dict[str, str]:
    """What ssh makes of a config for a host."""
    config = here.root / "ssh_config"
    config.write_text(text)
    done = subprocess.run(
        ["ssh", "-F", str(config), "-G", host], capture_output=True, text=True, check=False, timeout=DEADLINE
    )
    assert done.returncode == 0, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def test_what_it_prints_is_what_ssh_understands(here: Place) -> None:
    office = here.client("alice", "--profile", "office")
    done = here.run("ssh-config", "--client-config", str(office))
    assert done.code == 0
    assert 'openme: hint: as ~/.ssh/openme.conf it is in force with the line "Include openme.conf"' in done.err
    for host in ("office", "127.0.0.1"):
        found = ssh_g(here, done.out, host)
        assert found["hostname"] == "127.0.0.1"
        assert found["proxycommand"] == f"{OPENME} --client-config {office} connect --profile office %h %p"
    assert "proxycommand" not in ssh_g(here, done.out, "elsewhere.example")


@pytest.mark.parametrize(
    "odd",
    ["a b", "it's", 'say "x"', "50% off", "$HOME", "`id`", "a\\b", "a\\'b", "a;b", "(a)", "~x", "#x", "a=b", "ümläut"],
)
def test_odd_names_reach_openme_as_they_are(here: Place, alice: Path, odd: str) -> None:
    """Through ssh's own reading of the line, its percent signs, and the shell that it starts."""
    folder = here.root / odd
    folder.mkdir()
    program = folder / "openme"
    shutil.copy(OPENME, program)
    profile = folder / "client.yaml"
    profile.touch(0o600)
    profile.write_text(alice.read_text().replace("  default:", f"  {json_quoted(odd)}:"))
    shown = subprocess.run(
        [program, "--client-config", str(profile), "ssh-config"],
        env=here.environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=DEADLINE,
    )
    config = here.root / "ssh_config"
    config.write_text(shown.stdout)
    # In its place, what ssh starts tells how it was started.
    said = here.root / "said"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$0" "$@" > {shlex.quote(str(said))}\n')
    subprocess.run(
        ["ssh", "-F", str(config), "-p", "2222", "127.0.0.1"],
        env={**here.environment, "SHELL": "/bin/sh"},
        capture_output=True,
        check=False,
        timeout=DEADLINE,
    )
    words = ["--client-config", str(profile), "connect", "--profile", odd, "127.0.0.1", "2222"]
    assert said.read_text().splitlines() == [str(program), *words]


def json_quoted(text: str) -> str:
    """`text` as YAML in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def test_it_prints_those_that_are_named_and_nothing_where_one_is_unknown(here: Place) -> None:
    one, two = (here.client(name, "--profile", name) for name in ("one", "two"))
    one.write_text(one.read_text() + two.read_text().removeprefix("profiles:\n"))
    done = here.run("ssh-config", "--client-config", str(one), "two")
    assert re.findall(r"^Host .*", done.out, re.MULTILINE) == ["Host two 127.0.0.1"]
    done = here.run("ssh-config", "--client-config", str(one), "two", "thre")
    assert (done.code, done.out, done.error) == (1, "", "there is no profile thre")
    one.write_text("profiles: {}\n")
    done = here.run("ssh-config", "--client-config", str(one))
    assert (done.code, done.out) == (1, "")
    assert done.error.endswith("holds no profiles")
