"""For any clients a table says what they say; for any file its copy says what the file says, or there is none."""

from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openme.config import server
from openme.config.client_index import ClientIndex
from openme.config.client_table import ClientTable, TableClients, table_of, with_table
from openme.config.faults import ConfigError
from openme.config.model import ClientEntry, ServerConfig
from openme.config.parsed_copy import Original, content_of_copy, front_of_copy, with_copied_clients
from openme.config.profile_model import WIRE_VERSIONS
from openme.config.server import parse_server_config
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey
from openme.max_port import MAX_PORT
from openme.ports import PortRange, merged

PATH = Path("config.yaml")
PROGRAM = b"p" * 32
KEYS = [ClientPrivateKey(bytes([n]) * 32).public for n in range(6)]
PORTS = st.builds(
    lambda proto, ends: PortRange(proto, min(ends), max(ends)),
    st.sampled_from(["tcp", "udp"]),
    st.tuples(st.integers(1, MAX_PORT), st.integers(1, MAX_PORT)),
)
NETWORKS = st.sampled_from([ip_network(text) for text in ("192.0.2.0/24", "0.0.0.0/0", "2001:db8::/32", "::1/128")])
ENTRIES = st.builds(
    ClientEntry,
    name=st.text(min_size=1, max_size=6).filter(str.isprintable),
    public_key=st.sampled_from(KEYS),
    ports=st.lists(PORTS, max_size=3).map(merged),
    allowed_ports=st.none() | st.lists(st.text(max_size=4), max_size=2).map(tuple),
    expires=st.none() | st.datetimes(timezones=st.just(UTC)),
    disable_health_port=st.booleans(),
    protocols=st.frozensets(st.sampled_from(WIRE_VERSIONS)),
    allowed_from=st.lists(NETWORKS, max_size=2).map(tuple),
    require_target_ip=st.booleans(),
    single_use=st.booleans(),
    max_timeout=st.none() | st.floats(min_value=0.001, max_value=366 * 86400.0),
    prefix_v4=st.integers(16, 32),
    prefix_v6=st.integers(48, 128),
    line=st.integers(1, 2**31),
)
CLIENTS = st.lists(ENTRIES, max_size=5, unique_by=(lambda entry: entry.name, lambda entry: entry.public_key.raw))


@given(CLIENTS)
@settings(max_examples=300)
def test_a_table_says_of_its_clients_what_they_say(entries: list[ClientEntry]) -> None:
    table = ClientTable(memoryview(table_of(entries)))
    clients, expected = TableClients(table), {entry.name: entry for entry in entries}
    assert dict(clients) == dict(clients.items()) == expected
    assert list(clients) == list(expected)
    assert list(clients.values()) == entries
    assert len(clients) == len(entries)
    for name in [*expected, "nobody", "", "\ud800", "a" * 100]:
        assert clients.get(name) == expected.get(name)
        assert (name in clients) == (name in expected)
    index, gathered = clients.index, ClientIndex(entries)
    for key in KEYS:
        assert index.by_key(key.raw) == gathered.by_key(key.raw)
        assert list(index.by_key_id(key.key_id)) == list(gathered.by_key_id(key.key_id))
    keys = [key.raw for key in KEYS]
    assert index.missing(keys) == gathered.missing(keys)
    assert list(index.keys()) == list(gathered.keys())
    assert index.openable == gathered.openable
    assert sorted(index.ends) == sorted(gathered.ends)
    assert [moment for moment, _ in index.ends] == [moment for moment, _ in gathered.ends]
    assert index.ends[1:3] == [index.ends[number] for number in range(1, min(3, len(index.ends)))]


# -- files

HEAD = f"server:\n  private_key: {ServerPrivateKey(b'k' * 32).to_base64()}\n  prefix_v4: 24\n"
LINES = st.sampled_from(
    [
        "    allowed_ports: [default]\n",
        "    allowed_ports: []\n",
        "    allowed_ports: [ssh, 443/tcp]  # a: b\n",
        "    allowed_ports:\n    - 53\n",
        "    expires: 2031-01-01T00:00:00.5Z\n",
        "    expires: never\n",
        "    protocols: [v1]\n",
        "    max_timeout: 1m30s\n",
        "    prefix_v4: 24\n",
        "    single_use: true\n",
        "    allowed_from: [192.0.2.0/24]\n",
        "    bogus: 1\n",
        "    allowed_ports: &list [default]\n",
        "    allowed_ports: &list [8/tcp]\n",
        "    allowed_ports: *list\n",
        "    <<: *client\n",
        "\n",
        "# a comment at the margin\n",
    ]
)
PORTS_PART = st.sampled_from(
    [
        "",
        "ports: {default: [22/tcp], ssh: [22/tcp]}\n",
        "ports: {default: &list [22/tcp], ssh: &one [1/tcp]}\n",
        "ports:\n  default:\n  - 22/tcp\n  ssh: *list\n",
        "ports: {default: [\n22/tcp]\n}\n",
    ]
)
HIDE_PART = st.sampled_from(
    [
        "",
        "hide: [9999/tcp]\n",
        "hide: &list [9999/tcp]\n",
        "hide: *list\n",
        "hide: ['\n\nclients:\n\n9999/tcp', 1/tcp]\n",
        "# clients:\n\nhide:\n- 1/udp\n# clients:\n",
        "? hide\n: [9999/tcp]\n",
    ]
)
ENDS = st.sampled_from(["", "...\n", "# end\n", "\r\n", "\n\n", "#clients:\n"])


@st.composite
def blocks(draw: st.DrawFn) -> str:
    text = draw(st.sampled_from(["clients:", "clients:", "clients:", "? clients\n:", '"clients":']))
    text += draw(st.sampled_from(["\n", "  # all of them\n", " &anchor\n", " \r\n", "\n\n"]))
    for number, key in enumerate(draw(st.lists(st.sampled_from(KEYS), max_size=4))):
        text += f"  user{number}:{draw(st.sampled_from(['', ' &client', ' # x']))}\n    ed25519_pubkey: {key}\n"
        text += "".join(draw(st.lists(LINES, max_size=2)))
    return text


@st.composite
def files(draw: st.DrawFn) -> str:
    parts = draw(st.permutations([HEAD, draw(PORTS_PART), draw(HIDE_PART), draw(blocks())]))
    return "".join(parts) + draw(ENDS)


FILES = files()


@given(FILES)
@settings(max_examples=1500)
def test_a_copy_says_what_its_file_says_or_there_is_none(text: str) -> None:
    original = Original(text, PATH, PROGRAM)
    try:
        config = with_table(original.parsed())
    except ConfigError:
        return
    if (front := front_of_copy(config, original)) is None:
        return
    content = content_of_copy(front, config)
    said = with_copied_clients(original.around_clients(), content, original)
    assert said == parse_server_config(text, PATH)
    assert said.named_ports == config.named_ports
    assert said.index.openable == config.index.openable
    assert ServerPrivateKey(b"k" * 32).raw not in content
    assert ServerPrivateKey(b"k" * 32).to_base64().encode() not in content


@given(files())
@settings(max_examples=1000)
def test_entries_that_are_alike_say_what_each_says_by_itself(text: str) -> None:
    """Faults, notes and lines are each one's own."""

    def said() -> ServerConfig | str:
        try:
            return parse_server_config(text, PATH)
        except ConfigError as error:
            return str(error.faults)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(server, "_rest", lambda _: None)
        each = said()
    assert said() == each


@given(st.integers(1, 40))
def test_the_usual_file_has_a_copy(count: int) -> None:
    """What `init` and `add` write, and any edit of it by hand that keeps `clients:` a block of its own."""
    entries = "".join(f"  user{n}:\n    ed25519_pubkey: {key}\n" for n, key in zip(range(count), KEYS, strict=False))
    for text in (
        f"{HEAD}clients:\n{entries}",
        f"clients: # all\n{entries}\n# end\n{HEAD}ports: {{default: [1/udp]}}\n",
    ):
        original = Original(text, PATH, PROGRAM)
        assert front_of_copy(with_table(original.parsed()), original) is not None


def test_moments_at_both_ends_of_the_calendar_come_back() -> None:
    ends = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    entries = [ClientEntry(str(n), key, expires=end) for n, (key, end) in enumerate(zip(KEYS, ends, strict=False))]
    assert list(TableClients(ClientTable(memoryview(table_of(entries)))).values()) == entries
