"""For any file: parsing ends in values or in ConfigError, and edits keep what they do not concern."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from openme.config.edit import delete_client, insert_client
from openme.config.faults import ConfigError
from openme.config.profile import parse_client_config
from openme.config.scalars import quote
from openme.config.server import parse_server_config
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey

PATH = Path("config.yaml")
HEAD = f"server:\n  private_key: {ServerPrivateKey(bytes(32)).to_base64()}\n"
KEYS = [str(ClientPrivateKey(bytes([n]) * 32).public) for n in range(8)]
NAMES = st.from_regex(r"(?![-.])[A-Za-z0-9._@-]{1,8}", fullmatch=True)
COMMENTS = st.lists(st.sampled_from(["", "  # a", "# b", "      # deep", "  # x: {"]), max_size=3)
YAMLISH = st.text(st.sampled_from("ab:- \n\t#[]{},'\"&*!|>%?~é\u2028\0") | st.characters(), max_size=200)


def one_line(error: ConfigError) -> None:
    assert "\n" not in error.message


@given(YAMLISH)
@settings(max_examples=400)
def test_parsing_raises_nothing_but_config_errors(text: str) -> None:
    for parse in (parse_server_config, parse_client_config):
        for whole in (text, f"{HEAD}{text}", f"{HEAD}clients:\n  a: {text}"):
            try:
                parse(whole, PATH)
            except ConfigError as error:
                one_line(error)


@given(st.text(max_size=40))
def test_a_quoted_text_comes_back(text: str) -> None:
    if any(0xD800 <= ord(c) <= 0xDFFF for c in text):
        return
    assert yaml.safe_load(f"- {quote(text)}\n") == [text]


@st.composite
def server_files(draw: st.DrawFn) -> str:
    """A file with clients in mixed notations, comments anywhere, and any line ends."""
    step = " " * draw(st.integers(1, 6))
    lines = ["clients:"]
    for number, name in enumerate(draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))):
        lines += draw(COMMENTS)
        shown = draw(st.sampled_from([quote(name), f"'{name}'"]))
        if draw(st.booleans()):
            lines.append(f"{step}{shown}: {{ed25519_pubkey: '{KEYS[number]}'}}")
        else:
            lines += [f"{step}{shown}:  # who", f"{step}  ed25519_pubkey: {KEYS[number]}"]
            lines += draw(st.sampled_from([[], [f"{step}  allowed_ports:", f"{step}  - 22/tcp"], [f"{step}  # x"]]))
    lines += draw(COMMENTS)
    if draw(st.booleans()):
        lines += ["ports: {default: [22/tcp]}", *draw(COMMENTS)]
    text = HEAD + "\n".join(lines) + draw(st.sampled_from(["", "\n", "\n\n"]))
    return text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))


@given(server_files(), NAMES)
@settings(max_examples=300)
def test_a_client_comes_and_goes_and_every_byte_stays(text: str, name: str) -> None:
    fields = {"ed25519_pubkey": KEYS[7], "allowed_ports": ["22/tcp", "80"]}
    before = parse_server_config(text, PATH).clients
    if name in before:
        with pytest.raises(ConfigError):
            insert_client(text, PATH, name, fields)
        return
    added = insert_client(text, PATH, name, fields)
    assert list(parse_server_config(added, PATH).clients) == [*before, name]
    assert delete_client(added, PATH, name) == text


@given(server_files(), st.data())
@settings(max_examples=300)
def test_removing_one_keeps_every_other_line(text: str, data: st.DataObject) -> None:
    before = parse_server_config(text, PATH).clients
    name = data.draw(st.sampled_from(list(before)))
    after = delete_client(text, PATH, name)
    left = parse_server_config(after, PATH).clients
    assert list(left) == [other for other in before if other != name]
    assert [entry.public_key for entry in left.values()] == [e.public_key for n, e in before.items() if n != name]
    remaining = iter(text.splitlines())
    kept = [line if line != "clients: {}" else "clients:" for line in after.splitlines()]
    assert all(line in remaining for line in kept)
