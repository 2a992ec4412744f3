"""The client's file as spec config.md "Client" has it."""

import base64
from pathlib import Path

import pytest

from openme.config.faults import ConfigError
from openme.config.profile import load_client_config, parse_client_config
from openme.config.profile_model import EpochKeys
from openme.config.profile_text import render_profile
from openme.keys.ed25519 import ClientPrivateKey

FILES = Path(__file__).parent / "files"
PATH = Path("c.yaml")
KEY = ClientPrivateKey(b"\x05" * 32)
SERVER = base64.b64encode(b"\x09" * 32).decode()
BASE = f"profiles:\n  home:\n    server_host: h.example\n    server_pubkey: {SERVER}\n"


def test_a_file_in_use_today_loads_unchanged() -> None:
    config = parse_client_config((FILES / "client.yaml").read_text(), PATH)
    default, home = config.profiles["default"], config.profiles["home"]
    assert (default.server_host, default.server_udp_port, default.server_health_port) == (
        "knock.example.org",
        54154,
        54154,
    )
    assert default.post_knock is None
    assert home.post_knock == "echo in\nssh home\n"
    assert home.private_key is not None
    assert home.public_key == home.private_key.public
    assert list(config.profiles) == ["default", "home"]
    assert list(config.waiting) == ["fresh"]


def test_what_add_prints_is_a_complete_file() -> None:
    text = render_profile(
        "on", server_host="2001:db8::1", server_pubkey=b"\x09" * 32, public_key=KEY.public, private_key=KEY
    )
    profile = parse_client_config(text, PATH).profiles["on"]
    assert (profile.server_host, profile.server_pubkey) == ("2001:db8::1", b"\x09" * 32)
    assert (profile.private_key, profile.public_key) == (KEY, KEY.public)
    assert "server_health_port" not in text
    keys = EpochKeys(604_800.0, 2951, (b"\x01" * 32, b"\x02" * 32))
    text = render_profile(
        "p", server_host="h", server_pubkey=b"\x09" * 32, public_key=KEY.public, server_health_port=8, epoch_keys=keys
    )
    profile = parse_client_config(text, PATH).profiles["p"]
    assert (profile.server_health_port, profile.epoch_keys, profile.private_key) == (8, keys, None)
    assert "private" not in text


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("sever_host: x", "c.yaml:5: profiles.home.sever_host: unknown key"),
        ("ip: 300.1.1.1", "c.yaml:5: profiles.home.ip: expected auto, source, an address or a page https://…"),
        ("ip: http://page.example/ip", "c.yaml:5: profiles.home.ip: expected https://, not http://: whoever sits"),
        ("ip: HTTP://page.example/ip", "c.yaml:5: profiles.home.ip: expected https://, not http://: whoever sits"),
        *(
            (f'ip: "{page}"', "c.yaml:5: profiles.home.ip: expected auto, source, an address or a page https://…")
            for page in (
                *("https://", "https:///ip", "https://user@page.example/", "https://page.example/#x", "ftp://x/"),
                *(
                    "https://page.example:0/",
                    "https://page.example:65536/",
                    "https://page.example:x/",
                    "https://ü.example/",
                ),
                *("https://page.example/a b", "https://page.example/\\r\\nX: y", "https://[::1/"),
            )
        ),
        ("protocol: v3", "c.yaml:5: profiles.home.protocol: expected one of v1, v2"),
        *(
            (f'identity: "{written}"', "c.yaml:5: profiles.home.identity: expected ssh-agent:SHA256:… (43 characters")
            for written in (
                *("agent", "ssh-agent", "ssh-agent:", "file:", "SHA256:" + "A" * 43, "ssh-agent:MD5:aa:bb"),
                *(f"ssh-agent:SHA256:{'A' * 42}", f"ssh-agent:SHA256:{'A' * 44}", f"ssh-agent:SHA256:{'A' * 42}\u0661"),
            )
        ),
        (
            f"identity: ssh-agent:SHA256:{'A' * 43}\n    public_key: {KEY.public}",
            "c.yaml:5: profiles.home.identity: is another key than public_key",
        ),
        (f"identity: file:/k\n    private_key: {KEY.to_base64()}", "c.yaml:5: profiles.home.identity: expected either"),
        (f"private_key: {KEY.to_base64()}\n    public_key: {SERVER}", "c.yaml:6: profiles.home.public_key: "),
        ("epoch_keys: {length: 7d, first: 1}", "c.yaml:5: profiles.home.epoch_keys.keys: expected a value"),
        (
            "epoch_keys: {length: 7d, first: 1, keys: AAAA}",
            "c.yaml:5: profiles.home.epoch_keys.keys: expected public keys",
        ),
        ("server_udp_port: 0", "c.yaml:5: profiles.home.server_udp_port: expected a number from 1 to 65535"),
    ],
)
def test_faults_name_their_place(lines: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_client_config(f"{BASE}    {lines}\n", PATH)
    assert caught.value.message.startswith(expected)
    assert KEY.to_base64() not in caught.value.message


def test_half_a_profile_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"c.yaml:2: profiles.home.server_pubkey: expected a value"):
        parse_client_config("profiles:\n  home:\n    server_host: x\n", PATH)


def test_every_choice_of_a_client_is_read() -> None:
    profile = parse_client_config(
        f"{BASE}    ip: auto\n    protocol: v1\n    identity: file:~/.ssh/id\n", PATH
    ).profiles["home"]
    assert (profile.ip, profile.protocol, profile.identity) == ("auto", "v1", "file:~/.ssh/id")


def test_an_identity_is_written_as_ssh_shows_fingerprints_and_belongs_to_the_public_key() -> None:
    """With `=` as base64 has it, too; what is compared is written without."""
    where = f"ssh-agent:{KEY.public.ssh_fingerprint}"
    for written in (where, f"{where}="):
        text = f"{BASE}    identity: {written}\n    public_key: {KEY.public}\n"
        assert parse_client_config(text, PATH).profiles["home"].identity == where


def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"{BASE}    private_key: {KEY.to_base64()}\n")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ConfigError) as caught:
            load_client_config(path)
        assert caught.value.hint == f"chmod 600 {path}"
    path.chmod(0o600)
    assert load_client_config(path).profiles["home"].private_key == KEY
    path.write_text(f"{BASE}    public_key: {KEY.public}\n")
    path.chmod(0o664)
    assert load_client_config(path).profiles["home"].public_key == KEY.public
    path.write_text(f"{BASE}    post_knock: 'true'\n")
    with pytest.raises(ConfigError, match="beside post_knock"):
        load_client_config(path)


@pytest.mark.parametrize(
    "page",
    [
        "https://page.example",
        "https://page.example:8443/ip?who=me",
        "https://page.example?x",
        "https://[2001:db8::1]:443/",
        "https://192.0.2.1/",
    ],
)
def test_a_page_may_tell_our_address(page: str) -> None:
    assert parse_client_config(f'{BASE}    ip: "{page}"\n', PATH).profiles["home"].ip == page
