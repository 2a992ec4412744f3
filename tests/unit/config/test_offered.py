"""What import is given: both forms in both notations mean one thing, and whatever else it is ends in one line."""

import json
from pathlib import Path

import pytest
import yaml

from openme.config.faults import ConfigError
from openme.config.offered import MOST_BYTES, MOST_PROFILES, Offered, offered_untrusted
from openme.config.profile import parse_client_config
from openme.config.profile_model import EpochKeys, KeyPair, Profile
from openme.config.profile_text import render_profile
from openme.keys.ed25519 import ClientPrivateKey, encode_base64
from openme.keys.x25519 import ServerPrivateKey

SOURCE = Path("given.yaml")
KEY = ClientPrivateKey(b"\x05" * 32)
SERVER = ServerPrivateKey(b"\x07" * 32).public
EPOCHS = EpochKeys(604800, 2951, tuple(ServerPrivateKey(bytes([n + 1]) * 32).public for n in range(3)))
TEXT = render_profile(
    "home",
    server_host="knock.example.org",
    server_pubkey=SERVER,
    public_key=KEY.public,
    private_key=KEY,
    server_udp_port=6000,
    epoch_keys=EPOCHS,
)
PHONE = {
    "profile": "home",
    "host": "knock.example.org",
    "udp_port": 6000,
    "server_pubkey": encode_base64(SERVER),
    "client_privkey": KEY.to_base64(),
    "client_pubkey": str(KEY.public),
}


def one(raw: bytes | str) -> Offered:
    (offer,) = offered_untrusted(raw if isinstance(raw, bytes) else raw.encode(), SOURCE)
    return offer


def refused(raw: bytes | str) -> str:
    with pytest.raises(ConfigError) as caught:
        offered_untrusted(raw if isinstance(raw, bytes) else raw.encode(), SOURCE)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_clients_file_is_what_it_says() -> None:
    offer = one(TEXT)
    assert offer.held == parse_client_config(TEXT, SOURCE).profiles["home"]
    assert offer.fields["server_udp_port"] == "6000"
    assert offer.fields["epoch_keys"] == {
        "length": "7d",
        "first": "2951",
        "keys": encode_base64(b"".join(EPOCHS.keys)),
    }


@pytest.mark.parametrize(
    "raw",
    [
        TEXT.encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode("utf-16"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        json.dumps(yaml.safe_load(TEXT)).encode(),
        json.dumps(yaml.safe_load(TEXT), indent="\t").encode("utf-16"),
        f"# a note\n{TEXT}\n".encode(),
    ],
    ids=["mark", "PowerShell", "big end first", "JSON", "JSON with tabs", "comments"],
)
def test_encodings_and_notations_make_no_difference(raw: bytes) -> None:
    offer, plain = one(raw), one(TEXT)
    assert offer.fields == plain.fields
    assert offer.held._replace(line=0) == plain.held._replace(line=0)


def test_what_phone_apps_copy_is_a_profile_in_json_and_in_yaml() -> None:
    expected = parse_client_config(TEXT, SOURCE).profiles["home"]._replace(epoch_keys=None, line=0)
    escaped = json.dumps(PHONE).replace("/", "\\/")
    for text in (json.dumps(PHONE), escaped, yaml.safe_dump(PHONE), json.dumps(PHONE, indent=2)):
        assert one(text).held._replace(line=0) == expected
    assert one(json.dumps(PHONE | {"profile": ""})).name == "default"
    assert one(json.dumps(PHONE | {"profile": "\U0001f6aa"})).name == "\U0001f6aa"


def test_several_profiles_and_one_that_waits_come_in_their_order() -> None:
    two = f"{TEXT}  b:\n    public_key: {KEY.public}\n  a: {{server_host: h, server_pubkey: {encode_base64(SERVER)}}}\n"
    offers = offered_untrusted(two.encode(), SOURCE)
    assert [(offer.name, type(offer.held)) for offer in offers] == [("home", Profile), ("b", KeyPair), ("a", Profile)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "given.yaml:1: expected a map with 'profiles:'"),
        ("profiles: {}", "no profile is in it"),
        ("profiles:\n  a: b\n", "given.yaml:2: profiles.a: expected a map"),
        ("- a", "expected a map"),
        ("[1, 2]", "expected a map"),
        ("12", "expected a map"),
        ("<svg>", "found HTML or SVG"),
        (TEXT.replace("home:", '"a\\u202eb":'), "expected a printable name"),
        (TEXT.replace("home:", '"\\u3164":'), "given.yaml:3: profiles: expected names that can be seen"),
        (TEXT.replace("server_host", "server_hots"), "given.yaml:3: profiles.home.server_hots: unknown key"),
        (TEXT.replace(KEY.to_base64(), KEY.to_base64()[:-8]), "profiles.home.private_key: expected"),
        (TEXT.replace(str(KEY.public), encode_base64(SERVER)), "profiles.home.public_key: "),
        (
            TEXT.replace(encode_base64(SERVER), encode_base64(bytes(32))),
            "server_pubkey: expected public keys, found a p",
        ),
        (
            TEXT.replace(encode_base64(b"".join(EPOCHS.keys)), encode_base64(bytes(64))),
            "given.yaml:8: profiles.home.epo",
        ),
        (TEXT + TEXT, "is given a second time"),
        (json.dumps(PHONE | {"host": ""}), "given.yaml: host: expected a value"),
        (json.dumps(PHONE | {"udp_port": 70000}), "given.yaml: udp_port: expected a number from 1 to 65535"),
        (json.dumps(PHONE | {"udp_port": float("inf")}), "udp_port: expected a number"),
        (json.dumps(PHONE | {"client_privkey": "AAAA"}), "given.yaml: client_privkey: expected"),
        (json.dumps(PHONE | {"profile": ["a"]}), "given.yaml: profile: expected a name"),
        (json.dumps(PHONE | {"port": 22}), "given.yaml: port: unknown key"),
        (json.dumps(PHONE)[:-1] + ', "host": "twice"}', "host: is given a second time"),
        (json.dumps(PHONE | {"profile": "\ud800"}), "half of a surrogate pair"),
        (json.dumps(PHONE)[:-20], "expected a closing"),
    ],
)
def test_whatever_is_no_profile_is_told_in_one_line_and_no_secret_in_it(text: str, message: str) -> None:
    told = refused(text)
    assert message in told
    assert KEY.to_base64()[:20] not in told


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"\xff\xfe\x00", "expected text in UTF-8 or UTF-16, or a PNG image"),
        (b"\xff\xd8\xff\xe0 a photo", "expected text in UTF-8 or UTF-16, or a PNG image"),
        (b"profiles:\n  \xff", "given.yaml:2: expected text"),
        (bytes(100), "found a control character"),
        (b"#" * (MOST_BYTES + 1), "expected at most 1024 KiB of text"),
        (b"[" * MOST_BYTES, "expected at most 16 levels"),
        (b'{"a":' * 17 + b"1" + b"}" * 17, "expected at most 16 levels"),
        (b"- " * (MOST_BYTES // 2), "expected at most 16 levels"),
        (b'{"profiles": ' + b"9" * 100_000 + b"}", "expected a map of names to values"),
    ],
    ids=["half", "JPEG", "Latin-1", "zeros", "long", "deep YAML", "deep JSON", "deep list", "number"],
)
def test_what_would_cost_much_is_refused(raw: bytes, message: str) -> None:
    assert message in refused(raw)


def test_aliases_are_counted_in_full_before_anything_is_made_of_them() -> None:
    """Ten to the twelfth values, else: it would not end."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "aliases counted in full" in refused("\n".join([*lines, "profiles: {b: *a11}"]))


def test_more_profiles_than_anybody_has_are_refused() -> None:
    line = f"  p{{}}: {{{{public_key: {KEY.public}}}}}\n"
    text = "profiles:\n" + "".join(line.format(n) for n in range(MOST_PROFILES + 1))
    assert refused(text) == f"given.yaml: expected at most {MOST_PROFILES} profiles"
