"""A malformed argument is exit code 2 and one line that names it, whichever command it is given to; what only the
config or the host can judge is 1 (spec config.md "Commands").
"""

import argparse
import base64
from pathlib import Path

import pytest

from openme.cli.commands import COMMANDS
from openme.cli.main import main
from openme.config.template import render_server_config
from openme.errors import OpenmeError
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey

SMALL_ORDER = base64.b64encode(bytes(32)).decode()
OWN = str(ClientPrivateKey(b"\x21" * 32).public)

MALFORMED = (
    ("init", "--server", ("a b", "", "x" * 300, "\udcff", "a\nb"), ()),
    ("init", "--port", ("0", "65536", "x", "", "٢٢"), ("--server", "h")),
    ("init", "--firewall", ("pf", ""), ("--server", "h")),
    ("init", "--interface", ("a b", "", "x" * 16, "a/b", "..", "\udcff"), ("--server", "h")),
    ("init", "--state-dir", ("", "/a\nb", "\udcff"), ("--server", "h")),
    ("add", "NAME", ("bad name", "", ".x", "x" * 65, "\udcff", "a/b"), ()),
    ("add", "--profile", ("", " ", "a\nb", "\x1b[1m", "\udcff"), ("bob",)),
    ("renew", "--profile", ("", "a\nb"), ("alice",)),
    ("add", "--out", ("",), ("bob",)),
    ("renew", "--out", ("",), ("alice",)),
    ("add", "--ports", ("22/xyz", "", ",", "99999/tcp", "90-80", "web,22/", "\udcff"), ("bob",)),
    ("add", "--expires", ("x", "", "2031-13-01", "2031-01-01T00:00:00", "tomorrow"), ("bob",)),
    ("add", "--pubkey", ("x", "", "AAAA", "ssh-rsa AAAA", "ssh-ed25519 AAAA", "id.pub", "SHA256:AAAA"), ("bob",)),
    ("add", "--qr-out", ("", "code.gif", "code"), ("bob",)),
    ("unhide", "PORT", ("22/xyz", "", "ssh", "0", "90-80"), ()),
    ("serve", "--interface", ("a b", "", "x" * 16, "a/b"), ()),
    ("try", "--interface", ("a b",), ("2m",)),
    ("try", "DURATION", ("x", "", "0s", "10ms", "-1s"), ()),
    ("sessions", "--state-file", ("",), ()),
    ("rotate", "what", ("v2-key", ""), ()),
    ("knock", "--ip", ("here", "", "1.2.3", "http://x/", "https://", "https://a b/", "203.0.113.5/32"), ()),
    ("knock", "--interval", ("x", "", "0s", "10ms"), ()),
    ("connect", "HOST", ("", " ", "a\nb", "\udcff"), ()),
    ("connect", "PORT", ("0", "65536", "ssh", "22/tcp", ""), ("host",)),
    ("keygen", "PROFILE", ("", " ", "a\nb", "\udcff"), ()),
    ("keygen", "--file", ("", "a\nb", "\udcff", "~nobody-of-that-name/k"), ("--no-passphrase",)),
    ("keygen", "--identity", ("", "agent", "ssh-agent:", "ssh-agent:SHA256:abc", "file:", "file:a\nb", "\udcff"), ()),
    ("keygen", "--seal", ("", "a\nb", "\udcff"), ()),
    ("import", "FILE", ("",), ()),
    ("import", "--as", ("", " ", "a\nb", "\udcff"), ()),
    ("import", "--take", ("", "private_key"), ()),
    ("completion", "SHELL", ("tcsh", "", "../bash"), ()),
    ("doctor", "--ip", ("here", "", "1.2.3", "http://x/", "203.0.113.5/32"), ()),
    ("doctor", "--ntp", ("", "a b", "a\nb", "\udcff"), ()),
    ("doctor", "--side", ("both", ""), ()),
    *((command.name, "--config", ("",), ()) for command in COMMANDS),
    *((command.name, "--client-config", ("",), ()) for command in COMMANDS),
    *((command.name, "--log-level", ("loud", ""), ()) for command in COMMANDS),
)

LOOKED_UP = {
    *((name, "NAME") for name in ("renew", "revoke", "close", "reset", "profiles")),
    *((name, "PROFILE") for name in ("knock", "status", "doctor")),
    *(("connect", "--profile"), ("ssh-config", "NAME")),
}
"""Names of what a file has: files of other tools may have any, so that there is no wrong one, only one that is not
there.
"""
CLIENTS_OWN = {"connect", "knock", "profiles", "ssh-config", "status"}
ANY_TEXT = {("serve", "--state-file"), ("try", "--state-file")}
"""Empty for none."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config with alice and the group `web`, and her file, where no server runs."""
    key = ServerPrivateKey(b"\x31" * 32)
    text = render_server_config(
        key, host="127.0.0.1", udp_port=5999, firewall="memory", interface=None, state_dir=tmp_path / "state"
    )
    (tmp_path / "state").mkdir(0o700)
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("\nports:\n", "\nports:\n  web: [80/tcp]\n"), encoding="utf-8")
    path.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return path


@pytest.fixture
def alice(place: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    path = place.with_name("alice.yaml")
    assert main(["--config", str(place), "add", "alice", "--v1", "--out", str(path)]) == 0
    capfd.readouterr()
    return path


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (name, [command, *others, *([f"{name}={value}"] if name.startswith("-") else ["--", value])])
        for command, name, values, others in MALFORMED
        for value in values
    ],
)
def test_a_malformed_argument_is_exit_code_2_and_named(place: Path, alice: Path, name: str, words: list[str]) -> None:
    files = {"--config": place, "--client-config": alice}
    where = [word for option, path in files.items() if option != name for word in (option, str(path))]
    before = content(place.parent)
    with pytest.raises(OpenmeError) as refused:
        main([*where, *words])
    assert refused.value.exit_code == 2
    assert refused.value.message.startswith(f"{name}: ")
    assert content(place.parent) == before


def test_every_argument_with_a_value_is_tried() -> None:
    """A new argument is a row in `MALFORMED`, or one of those for which there is no malformed value."""
    missing = []
    tried = {(command, name) for command, name, _, _ in MALFORMED}
    for command in COMMANDS:
        parser = argparse.ArgumentParser()
        command.load().arguments(parser)
        for action in parser._actions:  # argparse has no other list of them
            if action.nargs == 0:
                continue
            name = action.option_strings[-1] if action.option_strings else str(action.metavar or action.dest)
            if (command.name, name) not in {*tried, *LOOKED_UP, *ANY_TEXT}:
                missing.append((command.name, name))
    assert missing == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["init", "--server", "h"], "already there"),
        (["add", "alice"], "this name is taken"),
        (["add", "bob", "--pubkey", SMALL_ORDER], "--pubkey: not a usable Ed25519 public key"),
        (["add", "bob", "--ports", "wbe"], "--ports: there is no group wbe"),
        (["add", "bob", "--v1", "--out", "alice.yaml"], "is there already"),
        (["renew", "bad name"], "no client bad name"),
        (["revoke", "nobody"], "no client nobody"),
        (["close", "nobody"], "no server is running"),
        (["reset", "nobody"], "no server is running"),
        (["unhide", "23/tcp"], "23/tcp is not hidden"),
        (["sessions", "--state-file", "/nowhere/sessions.json"], "No such file"),
        (["knock", "bad name"], "no profile bad name"),
        (["status", ""], "no profile "),
        (["profiles", "nope"], "no profile nope"),
        (["ssh-config", "nope"], "no profile nope"),
        (["connect", "--profile", "nope", "host", "22"], "no profile nope"),
        (["list", "--config", "/nowhere/config.yaml"], "no such file"),
    ],
)
def test_what_was_understood_and_is_refused_is_exit_code_1(
    place: Path, alice: Path, words: list[str], says: str
) -> None:
    files = ["--client-config", str(alice)] if words[0] in CLIENTS_OWN else ["--config", str(place)]
    with pytest.raises(OpenmeError) as refused:
        main([*files, *words])
    assert refused.value.exit_code == 1
    assert says in refused.value.message


def test_the_group_that_was_perhaps_meant_is_named(place: Path, alice: Path) -> None:
    with pytest.raises(OpenmeError) as refused:
        main(["--config", str(place), "add", "bob", "--ports", "22/tcp,wbe"])
    assert refused.value.hint == "did you mean web?"
    assert alice.exists()


def test_a_group_may_have_any_name(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Also one that looks like a port: the file decides."""
    place.write_text(place.read_text(encoding="utf-8").replace("  web:", "  22/xyz:"), encoding="utf-8")
    assert main(["--config", str(place), "add", "bob", "--v1", "--ports", "22/xyz"]) == 0
    assert "profiles:" in capfd.readouterr().out


def test_a_key_of_ones_own_is_taken(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(place), "add", "bob", "--v1", "--pubkey", OWN, "--expires", "2031-01-01"]) == 0
    assert "profiles:" in capfd.readouterr().out
    assert "expires: 2031-01-01T00:00:00Z" in place.read_text(encoding="utf-8").replace('"', "")
