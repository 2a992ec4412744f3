"""Whatever names, paths, commands and answers hold: what is printed is lines that can be seen, and JSON is JSON."""

import contextlib
import json
import logging
import random
import socket
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from openme.cli import knock as knock_command
from openme.cli.commands import COMMANDS
from openme.cli.main import _guarded, main
from openme.cli.output import answer_lines, table
from openme.client.addresses import Endpoint
from openme.client.known import PastKnock
from openme.client.policy import Outcome
from openme.client.receipt import Proof
from openme.config.template import render_server_config
from openme.control import asking, serving
from openme.control.requests import Stored
from openme.errors import OpenmeError
from openme.keeper.journal import Journal
from openme.keeper.stages import Refused
from openme.keys.ed25519 import encode_base64
from openme.keys.x25519 import ServerPrivateKey
from openme.reasons import Reason
from openme.server import logs
from openme.visible import is_visible, visible
from openme.wire.base import ReceiptKeys
from openme.wire.receipt import Receipt
from support.fuzzing import SEED, rounds
from support.knocks import ALICE, HOME, SERVER

# Of each kind that a terminal obeys or that nobody sees.
CHARACTERS = [
    *map(chr, (0x00, 0x07, 0x08, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x1B, 0x7F)),
    *map(chr, (0x80, 0x85, 0x90, 0x9B, 0x9D, 0xA0, 0xAD)),
    *map(chr, range(0x200B, 0x2010)),
    *map(chr, (0x2028, 0x2029, *range(0x202A, 0x202F), 0x2060, *range(0x2066, 0x206A), 0x061C, 0xFEFF)),
    *map(chr, (0x115F, 0x2800, 0x3000, 0x3164, 0xFE0F, 0xE0001, 0xE0100, 0xFFF9, 0xE000, 0x10FFFF)),
    *("\udc80", "\udcff"),  # a byte of a file name that is no UTF-8
]
SEQUENCES = [
    "\x1b[2J",
    "\x1b]0;owned\x07",
    "\x9b31m",
    "\r\nopenme: error: forged",
    "\u202etxt.exe",
    "a\u200bb",
    "\x08\x08\x08",
]
SAFE = ["alice", "müller", "日本語", "a b", "x" * 30, "'", '"', "\\", "%s", "{0}"]
ROUNDS = rounds(8)
SERVER_KEY = encode_base64(SERVER.public)


def nasty(chance: random.Random) -> str:
    """Some text that holds at least one thing which must not be printed."""
    pieces = [chance.choice(CHARACTERS + SEQUENCES), *(chance.choice(SAFE + CHARACTERS) for _ in range(3))]
    chance.shuffle(pieces)
    return "".join(pieces)


def can_be_seen(line: str) -> bool:
    """An opinion of our own, by Unicode's categories."""
    return all(
        (unicodedata.category(c)[0] != "C" and unicodedata.category(c) not in {"Zl", "Zp"} and (c == " " or c.strip()))
        and c not in "\u115f\u2800\u3164\ufe0f\U000e0100"
        for c in line
    )


def check(text: str) -> None:
    for line in text.split("\n"):
        assert can_be_seen(line), ascii(line)


@pytest.fixture(params=range(3))
def chance(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(f"{SEED} {request.param}")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A server's config and a client's home, the latter with names and commands that a file may hold."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("OPENME_TRACEBACK", raising=False)
    state = tmp_path / "state"
    state.mkdir(0o700)
    key = ServerPrivateKey(SERVER.raw)
    write(
        tmp_path / "config.yaml",
        render_server_config(key, host="127.0.0.1", udp_port=4154, firewall="memory", state_dir=state),
    )
    return tmp_path


def write(path: Path, text: str) -> None:
    path.touch(0o600)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def yaml_text(text: str) -> str:
    """`text` as YAML in double quotes."""
    return '"' + "".join(f"\\U{ord(c):08x}" for c in text if not 0xD800 <= ord(c) < 0xE000) + '"'


class Said:
    """What a command has printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def by(self, *words: str) -> str:
        """Run a command; its stdout. AssertionError if it printed what cannot be seen, or failed by a mistake."""
        code = _guarded(lambda: main(words))
        out, err = self._capsys.readouterr()
        check(out)
        check(err)
        assert "internal error" not in err, (words, err)
        for line in err.splitlines():
            assert line.startswith("openme: "), ascii(line)
        assert code in {0, 1, 2, 3}
        return out


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)


def test_the_two_opinions_of_what_can_be_seen_agree() -> None:
    for number in range(0x110000):
        c = chr(number)
        if unicodedata.category(c)[0] in "CZ" and c != " ":
            assert not is_visible(c), hex(number)
        if is_visible(c):
            assert visible(c) == c
    for c in CHARACTERS:
        assert visible(c).isascii()
        assert is_visible(visible(c))
    assert visible("müller 日本 'x' \\ ü") == "müller 日本 'x' \\ ü"


@pytest.mark.parametrize("command", sorted(command.name for command in COMMANDS))
def test_words_on_the_command_line(home: Path, said: Said, chance: random.Random, command: str) -> None:
    if command in {"serve", "try", "demo"}:  # they do not end; their words are those of the log, and of argparse
        ways: list[list[str]] = [["--nope", "X"], ["--X"]]
    else:
        ways = [
            ["X"],
            ["X", "--json"],
            ["--config", f"{home}/X", "X"],
            ["--client-config", f"{home}/X"],
            ["--X", "Y"],
            ["--ip", "X"],
        ]
    for way in ways:
        for _ in range(4):
            words = [command, "--config", str(home / "config.yaml"), *(w.replace("X", nasty(chance)) for w in way)]
            if not any("\0" in word for word in words) and (command != "init" or "--force" not in words):
                said.by(*words)


def test_a_command_or_option_that_is_none(home: Path, said: Said, chance: random.Random) -> None:
    for _ in range(ROUNDS):
        said.by(nasty(chance))
        said.by("list", f"--{nasty(chance)}")
        said.by("--config", str(home / "config.yaml"), "add", "a", "--ports", nasty(chance))
        said.by("--config", str(home / "config.yaml"), "add", "a", "--expires", nasty(chance))
        said.by("--config", str(home / "config.yaml"), "add", "a", "--pubkey", nasty(chance))
        said.by("init", "--server", nasty(chance), "--config", str(home / "new.yaml"), "--state-dir", str(home / "s"))


@pytest.mark.parametrize("words", [["profiles"], ["profiles", "work"], ["status"], ["knock"], ["profiles", "other"]])
def test_a_clients_file(home: Path, said: Said, chance: random.Random, words: list[str]) -> None:
    path = home / "client.yaml"
    for _ in range(ROUNDS):
        path.unlink(missing_ok=True)
        where = chance.randrange(6)
        values = [
            nasty(chance) if at == where else good
            for at, good in enumerate(["work", "127.0.0.1", "true", "auto", "work"])
        ]
        name, host, post, ip, more = values
        if where == 3:
            ip = f"fe80::1%{nasty(chance)}"
        write(
            path,
            f"profiles:\n  {yaml_text(name)}:\n    server_host: {yaml_text(host)}\n    server_udp_port: 9\n"
            f"    server_pubkey: {SERVER_KEY}\n    private_key: {ALICE.to_base64()}\n"
            f"    post_knock: {yaml_text(post)}\n"
            f"    ip: {yaml_text(ip)}\n    {yaml_text(more) if where == 4 else 'server_health_port'}: 9\n",
        )
        if words == ["knock"] and where == 2:
            continue  # it would be run
        out = said.by(*words, "--client-config", str(path))
        if words[0] == "profiles":
            as_json = said.by(*words, "--client-config", str(path), "--json")
            assert not as_json or as_json.isascii()
            assert not as_json or json.loads(as_json) is not None
            if words == ["profiles", "work"] and where == 2:
                assert json.loads(as_json)["post_knock"] == "".join(c for c in post if not 0xD800 <= ord(c) < 0xE000)
                assert len(out.splitlines()) == 13


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--json"],
        ["check-config"],
        ["check-config", "--json"],
        ["epochs"],
        ["renew", "alice"],
        ["revoke", "bob"],
    ],
)
def test_a_servers_file(home: Path, said: Said, chance: random.Random, words: list[str]) -> None:
    path = home / "config.yaml"
    good = path.read_text().partition("clients:")[0]
    for _ in range(ROUNDS):
        where = chance.randrange(6)
        name, field, group, spec, expires, host = (
            yaml_text(nasty(chance)) if at == where else value
            for at, value in enumerate(["alice", "expires", "web", "443/tcp", "2030-01-01T00:00:00Z", "127.0.0.1"])
        )
        text = good.replace("  host: 127.0.0.1\n", f"  host: {host}\n")
        text = text.partition("ports:")[0] + f"ports:\n  {group}: [{spec}]\n"
        text += f"clients:\n  {name}:\n    ed25519_pubkey: {ALICE.public}\n    {field}: {expires}\n"
        write(path, text)
        out = said.by(*words, "--config", str(path))
        if "--json" in words and out:
            assert out.isascii()
            json.loads(out)


class Server:
    """Something that answers on the control socket, in words of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.answer: Any = {}
        self._listening = serving.listen(home / "state")
        self._listening.settimeout(30)
        self._thread = threading.Thread(target=self._serve)
        self._going = True
        self._thread.start()

    def _serve(self) -> None:
        while self._going:
            peer, _ = self._listening.accept()
            with peer, contextlib.suppress(OSError):
                peer.recv(serving.MAX_REQUEST)
                peer.sendall(json.dumps(self.answer).encode())

    def end(self) -> None:
        self._going = False
        with contextlib.suppress(OpenmeError):
            asking.ask(self.home / "state", Stored())
        self._thread.join(30)
        self._listening.close()


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    made = Server(home)
    yield made
    made.end()


def words_of_a_server(chance: random.Random) -> list[Any]:
    text = nasty(chance)
    session = {
        "client_name": text,
        "ip": text,
        "ports": [{"port": text, "proto": text}],
        "expires_at": "2999-01-01T00:00:00Z",
    }
    return [
        {"error": text},
        {"fault": text, "reading": False},
        {"active_sessions": [session], "last_seen": {text: text}},
        {"active_sessions": [session | {"expires_at": text}]},
        {"active_sessions": text, "last_seen": text},
        {"closed": [text], "known": True, "near": None, "cut": text},
        {"closed": [], "known": False, "near": f"did you mean {text}?"},
    ]


@pytest.mark.parametrize(
    ("words", "fitting"),
    [
        (["sessions"], {0, 2, 3, 4}),
        (["sessions", "--json"], {0, 2}),
        (["close", "alice", "--cut"], {0, 5, 6}),
        (["rotate", "ratchet"], {0, 1}),
    ],
)
def test_what_a_server_says(
    said: Said, chance: random.Random, server: Server, words: list[str], fitting: set[int]
) -> None:
    for _ in range(ROUNDS):
        for number, server.answer in enumerate(words_of_a_server(chance)):
            if number in fitting:
                out = said.by(*words, "--config", str(server.home / "config.yaml"))
                if "--json" in words and out:
                    json.loads(out)


def test_a_state_file_and_its_name(home: Path, said: Said, chance: random.Random) -> None:
    for _ in range(ROUNDS):
        for value in words_of_a_server(chance):
            path = home / f"s-{nasty(chance)}".replace("/", "").replace("\0", "")
            path.write_text(json.dumps(value))
            said.by("sessions", "--state-file", str(path))
            path.unlink()
            said.by("sessions", "--state-file", str(path))  # it is not there any more


def test_a_watched_state_file_as_json_is_a_line_each(home: Path, said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "sessions.json"
    path.write_text(json.dumps({"active_sessions": [], "last_seen": {"".join(CHARACTERS[:-2]): "x"}}))

    def enough(_: float) -> None:
        raise OpenmeError("enough")

    monkeypatch.setattr("openme.cli.sessions.time.sleep", enough)
    (line,) = said.by("sessions", "--state-file", str(path), "--json", "--watch").splitlines()
    assert json.loads(line) == json.loads(path.read_text())


def test_a_receipts_words(capsys: pytest.CaptureFixture[str], chance: random.Random) -> None:
    endpoint = Endpoint(socket.AF_INET, "127.0.0.1")
    past = PastKnock("127.0.0.1", None, 0, 0, ReceiptKeys(bytes(16), bytes(32), bytes(12)))
    for _ in range(ROUNDS):
        receipt = Receipt(nasty(chance), ip_address("192.0.2.1"), (nasty(chance), nasty(chance)), 1e9, 1e9)
        proofs = (Proof(endpoint, past, receipt), Proof(endpoint, past, None, nasty(chance)))
        knock_command._say_found(Outcome((endpoint,), (endpoint,), proofs))
        out, err = capsys.readouterr()
        check(out)
        check(err)
        assert len(out.splitlines()) == 2


def test_an_answer_of_lines_has_no_other_lines(capsys: pytest.CaptureFixture[str], chance: random.Random) -> None:
    for _ in range(ROUNDS):
        answer_lines("\n".join(nasty(chance).replace("\n", "") for _ in range(3)))
        out = capsys.readouterr().out
        check(out)
        assert out.count("\n") == 3


def test_a_table_keeps_a_row_a_line(chance: random.Random) -> None:
    for _ in range(ROUNDS):
        text = table(["A", "B"], [[nasty(chance), nasty(chance)] for _ in range(3)])
        check(text)
        assert text.count("\n") == 3


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize("journald", [False, True])
def test_log_lines(chance: random.Random, *, as_json: bool, journald: bool) -> None:
    formatter = logs._JsonFormatter() if as_json else logs._TextFormatter(journald=journald)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(formatter.format(record))  # type: ignore[method-assign]
    logger = logging.getLogger("openme.journal")
    logger.addHandler(handler)
    logger.propagate = False  # pytest would keep what was logged, and cannot pass every character on
    try:
        for _ in range(ROUNDS):
            text = nasty(chance)
            Journal().refused(Refused(Reason.TIME, HOME, text, text))
            logger.error("%s: %s", text, OpenmeError(text))
            try:
                json.loads(text)
            except ValueError:
                logger.exception("trace %s", text)
    finally:
        logger.propagate = True
        logger.removeHandler(handler)
    assert len(lines) == 3 * ROUNDS
    for line in lines:
        assert "\n" not in line
        check(line)
        if as_json:
            assert line.isascii()
            json.loads(line)


def test_a_character_that_the_terminal_lacks_is_written_out_and_no_failure(home: Path) -> None:
    write(
        home / "client.yaml",
        f"profiles:\n  müller:\n    server_host: 127.0.0.1\n    server_pubkey: {SERVER_KEY}\n"
        f"    private_key: {ALICE.to_base64()}\n",
    )
    done = subprocess.run(
        [str(Path(sys.executable).with_name("openme")), "--client-config", str(home / "client.yaml"), "profiles"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(home), "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert b"m\\xfcller" in done.stdout
