"""The server's file as spec config.md "Server" has it, row by row."""

import base64
import os
import stat
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path

import pytest

from openme.config.faults import ConfigError
from openme.config.files import check_server_file
from openme.config.keys import names
from openme.config.model import ServerConfig
from openme.config.server import load_server_config, parse_server_config, validate_name
from openme.config.server_keys import SERVER_KEYS, parse_expiry
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey
from openme.ports import PortRange, parse_port_spec

FILES = Path(__file__).parent / "files"
PATH = Path("config.yaml")
KEY = ServerPrivateKey(bytes(range(32)))
HEAD = f"server:\n  private_key: {KEY.to_base64()}\n"


def public(number: int) -> str:
    return str(ClientPrivateKey(bytes([number]) * 32).public)


def parse(text: str) -> ServerConfig:
    return parse_server_config(text, PATH)


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value) == str(caught.value.faults[0])
    assert all("\n" not in str(fault) for fault in caught.value.faults)
    return [str(fault) for fault in caught.value.faults]


def hint(text: str) -> str | None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return caught.value.hint


def client(lines: str, head: str = HEAD) -> ServerConfig:
    return parse(f"{head}clients:\n  alice:\n    ed25519_pubkey: {public(1)}\n" + "".join(f"    {lines}\n"))


def test_defaults_are_those_of_the_specification() -> None:
    config = parse(HEAD)
    assert (config.udp_port, config.health_port, config.firewall) == (54154, 54154, "nft")
    assert (config.knock_timeout, config.replay_window) == (30.0, 60.0)
    assert (config.open_knock_port, config.drop_ports, config.hide_udp_errors) == (True, False, True)
    assert (config.host, config.interface, config.run_as) == (None, None, None)
    assert (config.default_profile, config.hidden_as) == ("default", "drop")
    assert (config.epoch_length, config.epoch_horizon) == (604_800.0, 53)
    assert (config.protocols, config.state_dir) == (frozenset(("v1", "v2")), Path("/var/lib/openme"))
    assert config.public_key == KEY.public
    assert config.managed_ports == (PortRange("tcp", 22, 22), PortRange("tcp", 54154, 54154))


def test_a_file_that_existing_tools_wrote_loads_unchanged() -> None:
    config = parse_server_config((FILES / "written-by-go.yaml").read_text(), PATH)
    assert config.replay_window == 60.0
    assert config.interface is None
    assert config.clients["alice"].expires == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert config.clients["alice"].ports == (PortRange("tcp", 22, 22), PortRange("tcp", 8080, 8090))
    # An empty list, null and "" are what those tools write for what is not set.
    assert config.clients["bob"].ports == (PortRange("tcp", 22, 22),)
    assert config.clients["bob"].allowed_ports is None
    assert config.clients["bob"].expires is None
    assert config.clients["bob"].disable_health_port
    assert "clients.bob.allowed_ports" in config.warnings[0]
    assert config.client_faults == ()


def test_a_file_of_existing_tools_without_groups_means_the_same() -> None:
    config = parse_server_config((FILES / "written-by-go-bare.yaml").read_text(), PATH)
    assert (config.client_faults, config.warnings) == ((), ())
    assert (config.knock_timeout, config.replay_window, config.health_port) == (60.0, 90.0, 54154)
    assert [str(item) for item in config.clients["alice"].ports] == ["22/tcp", "80/tcp", "8080-8090/tcp", "80/udp"]
    assert config.clients["alice"].expires == datetime(2031, 1, 1, tzinfo=UTC)
    assert [str(item) for item in config.clients["bob"].ports] == ["22/tcp"]


@pytest.mark.parametrize("name", ["by-hand.yaml", "crlf.yaml"])
def test_a_file_written_by_hand_loads_unchanged(name: str) -> None:
    config = parse_server_config((FILES / name).read_bytes().decode(), PATH)
    assert (config.udp_port, config.health_port) == (62201, 62201)
    assert config.drop_ports
    assert list(config.clients) == ["alice", "bob laptop", "guest-1"]
    assert config.clients["alice"].expires == datetime(2030, 6, 1, 10, tzinfo=UTC)
    assert config.clients["guest-1"].ports == parse_port_spec("80")
    assert config.clients["guest-1"].disable_health_port
    assert [str(p) for p in config.clients["bob laptop"].ports if p.proto == "udp"] == [
        "53/udp",
        "80/udp",
        "6000-6005/udp",
    ]
    assert ["served by nft" in w for w in config.warnings] == [True]


def test_anchors_and_merge_keys_are_followed() -> None:
    config = parse_server_config((FILES / "anchors.yaml").read_text(), PATH)
    assert config.clients["bob"].expires == config.clients["alice"].expires == datetime(2031, 1, 1, tzinfo=UTC)
    assert config.clients["bob"].public_key != config.clients["alice"].public_key


def test_json_is_yaml_too() -> None:
    assert list(parse_server_config((FILES / "flow.yaml").read_text(), PATH).clients) == ["alice"]


@pytest.mark.parametrize(
    ("lines", "expected", "cure"),
    [
        ("knock_timout: 30s", "config.yaml:3: server.knock_timout: unknown key", "did you mean knock_timeout?"),
        ("Udp_Port: 1", "config.yaml:3: server.Udp_Port: unknown key", "did you mean udp_port?"),
        ("udp_port: 0", "config.yaml:3: server.udp_port: expected a number from 1 to 65535", None),
        ("udp_port: 65536", "config.yaml:3: server.udp_port: expected a number from 1 to 65535", None),
        ("udp_port: '22'", "config.yaml:3: server.udp_port: expected a number from 1 to 65535", None),
        ("udp_port: 022", "config.yaml:3: server.udp_port: expected a number from 1 to 65535", None),
        ("udp_port: [1]", "config.yaml:3: server.udp_port: expected a number from 1 to 65535", None),
        ("health_port: -1", "config.yaml:3: server.health_port: expected a number from 1 to 65535", None),
        (
            "firewall: nftables",
            "config.yaml:3: server.firewall: expected one of nft, iptables, memory",
            "did you mean nft?",
        ),
        (
            "knock_timeout: 30",
            "config.yaml:3: server.knock_timeout: expected a duration such as 30s, 1m30s, 2h or 7d",
            None,
        ),
        ("drop_ports: 'true'", "config.yaml:3: server.drop_ports: expected true or false", None),
        ("hidden_as: Reject", "config.yaml:3: server.hidden_as: expected one of drop, reject", "did you mean reject?"),
        ("protocols: []", "config.yaml:3: server.protocols: expected at least one of [v1, v2]", None),
        ("protocols: [v3]", "config.yaml:3: server.protocols: expected one of [v1, v2]", None),
        ("protocols: v1", "config.yaml:3: server.protocols: expected a list such as [v1, v2]", None),
        (
            "interface: a/b",
            "config.yaml:3: server.interface: expected a network interface's name, at most 15 characters",
            None,
        ),
        ("host: a b", "config.yaml:3: server.host: expected a host name or address", None),
        ("state_dir: var/lib", "config.yaml:3: server.state_dir: expected an absolute path", None),
        ("epoch_horizon: 0", "config.yaml:3: server.epoch_horizon: expected a number from 1 to 1000", None),
        (
            "public_key: AAAA",
            "config.yaml:3: server.public_key: expected a key of 32 bytes in base64, got 3 bytes",
            None,
        ),
        (f"host: a\n  host: {'b' * 9}", "config.yaml:4: server.host: is given a second time", None),
    ],
)
def test_a_fault_names_file_line_key_and_what_was_expected(lines: str, expected: str, cure: str | None) -> None:
    text = f"{HEAD}  {lines}\n"
    assert faults(text) == [expected]
    if cure is not None:
        assert hint(text) == cure


def test_all_faults_are_found_at_once() -> None:
    assert len(faults("srver: {}\nserver:\n  udp_port: x\n  firewall: y\nports:\n  web: [http]\n")) == 5


@pytest.mark.parametrize("text", ["", "# nothing\n", "ports: {}\n", "server:\n", "- server\n", "server: text\n"])
def test_a_file_without_a_server_is_an_error_of_one_line(text: str) -> None:
    assert len(faults(text)) == 1


def test_the_private_key_is_demanded_and_must_match_the_public_one() -> None:
    assert hint("server:\n  host: a\n") == "run: openme init --server HOST"
    other = base64.b64encode(bytes(32)).decode()
    assert faults(f"{HEAD}  public_key: {other}\n") == [
        "config.yaml:3: server.public_key: does not belong to private_key"
    ]


def test_a_health_port_of_zero_means_not_set() -> None:
    assert parse(f"{HEAD}  udp_port: 7\n  health_port: 0\n").health_port == 7


def test_secrets_in_the_wrong_place_are_not_repeated() -> None:
    secret = ClientPrivateKey(b"\x09" * 32).to_base64()
    short = KEY.to_base64()
    for value in (secret, short):
        for text in (
            f"{value}: x\nserver: {{}}\n",
            (
                f"server:\n  {value}: x\n  private_key: {value}x\n  host: '{value} a'\n  udp_port: {value}\n"
                f"  firewall: {value}\n  knock_timeout: {value}\n  state_dir: {value}\n  protocols: [{value}]\n"
            ),
            f"server:\n  private_key: {short}\nports:\n  {value}: x\n  web: [{value}]\n",
            f"server:\n  private_key: *{value.rstrip('=').replace('+', '-').replace('/', '_')}\n",
            f"server:\n  private_key: !{value.rstrip('=')} x\n",
        ):
            with pytest.raises(ConfigError) as caught:
                parse(text)
            told = "".join(f"{f} {f.hint}" for f in caught.value.faults)
            assert value.rstrip("=") not in told
        config = parse(
            f"{HEAD}clients:\n  {value}:\n    {value}: 1\n    allowed_ports: [{value}]\n    expires: {value}\n"
        )
        told = "".join(f"{f} {f.hint}" for f in config.client_faults)
        assert len(config.client_faults) >= 3
        assert value not in told


@pytest.mark.parametrize(
    "written",
    [
        "2026-12-31T10:00:00Z",
        "'2026-12-31T10:00:00Z'",
        '"2026-12-31T10:00:00.000Z"',
        "2026-12-31t10:00:00z",
        "2026-12-31 10:00:00Z",
        "2026-12-31 10:00:00 +00:00",
        "2026-12-31 12:30:00+02:30",
        "2026-12-31T05:00:00-05:00",
    ],
)
def test_expires_in_every_form_that_yaml_writers_produce(written: str) -> None:
    expires = client(f"expires: {written}").clients["alice"].expires
    assert expires == datetime(2026, 12, 31, 10, tzinfo=UTC)
    assert expires.tzinfo is UTC


@pytest.mark.parametrize(
    "written",
    [
        "2026-12-32",
        "2026-12",
        "2026-12-31T10:00:00",
        "tomorrow",
        "2026-13-31T10:00:00Z",
        "1798711200",
        "0001-01-01T00:00:00+01:00",
    ],
)
def test_expires_without_time_or_zone_shuts_the_client_out(written: str) -> None:
    config = client(f"expires: {written}")
    assert not config.clients
    expected = "expected a time such as 2026-12-31T00:00:00Z, with date, time and zone, or a date alone (midnight UTC)"
    assert [str(f) for f in config.client_faults] == [f"config.yaml:6: clients.alice.expires: {expected}"]


@pytest.mark.parametrize("written", ["2031-01-01", '"2031-01-01"', "2031-01-01T00:00:00Z", "2031-01-01 00:00:00+00:00"])
def test_a_date_alone_is_its_midnight_in_utc(written: str) -> None:
    assert client(f"expires: {written}").clients["alice"].expires == datetime(2031, 1, 1, tzinfo=UTC)


def test_fractions_of_a_second_count() -> None:
    assert parse_expiry("2026-01-01T00:00:00.5Z").microsecond == 500_000


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("expirse: x", "config.yaml:6: clients.alice.expirse: unknown key"),
        ("allowed_ports: 22/tcp", "config.yaml:6: clients.alice.allowed_ports: expected a list such as"),
        ("allowed_ports: [0]", "config.yaml:6: clients.alice.allowed_ports: ports run from 1 to 65535"),
        (
            "allowed_ports:\n    - 22/tcp\n    - wbe",
            "config.yaml:8: clients.alice.allowed_ports: expected a port such as",
        ),
        ("allowed_from: []", "config.yaml:6: clients.alice.allowed_from: expected at least one network"),
        ("allowed_from: [10.0.0.1/8]", "config.yaml:6: clients.alice.allowed_from: expected a network such as"),
        ("allowed_from: ['::ffff:10.0.0.0/104']", "config.yaml:6: clients.alice.allowed_from: expected IPv4"),
        ("allowed_from:", "config.yaml:6: clients.alice.allowed_from: expected a value"),
        ("single_use:", "config.yaml:6: clients.alice.single_use: expected a value"),
        ("require_target_ip: ''", "config.yaml:6: clients.alice.require_target_ip: expected a value"),
        ("protocols: ~", "config.yaml:6: clients.alice.protocols: expected a value"),
        ("max_timeout: 0s", "config.yaml:6: clients.alice.max_timeout: expected a duration"),
        (f"ed25519_pubkey: {public(2)}", "config.yaml:6: clients.alice.ed25519_pubkey: is given a second time"),
    ],
)
def test_a_fault_in_one_entry_shuts_out_that_client_alone(lines: str, expected: str) -> None:
    config = client(f"{lines}\n  bob:\n    ed25519_pubkey: {public(3)}")
    assert list(config.clients) == ["bob"]
    assert len(config.client_faults) == 1
    assert str(config.client_faults[0]).startswith(expected)


def test_the_ports_of_a_client_at_fault_stay_hidden() -> None:
    config = client("allowed_ports: [5432/tcp, nowhere]")
    assert not config.clients
    assert PortRange("tcp", 5432, 5432) in config.managed_ports


def test_every_restriction_is_read() -> None:
    entry = client(
        "allowed_from: [192.0.2.0/24, '2001:db8::/32', 198.51.100.7]\n    require_target_ip: true\n"
        "    single_use: yes\n    max_timeout: 10s\n    protocols: [v2]"
    ).clients["alice"]
    assert entry.allowed_from == (ip_network("192.0.2.0/24"), ip_network("2001:db8::/32"), ip_network("198.51.100.7"))
    assert (entry.require_target_ip, entry.single_use, entry.max_timeout, entry.protocols) == (
        True,
        True,
        10.0,
        frozenset(("v2",)),
    )
    assert entry.line == 4


def test_a_client_never_has_more_protocols_than_the_server() -> None:
    config = client("protocols: [v2]", head=f"{HEAD}  protocols: [v1]\n")
    assert config.clients["alice"].protocols == frozenset()
    assert "this client cannot knock" in config.warnings[0]
    assert client("", head=f"{HEAD}  protocols: [v1]\n").clients["alice"].protocols == {"v1"}


@pytest.mark.parametrize(
    "ports", ["", "ports:\n", "ports: {}\n", "ports: {web: [443/tcp]}\n", "ports: {default: null}\n"]
)
def test_an_absent_group_default_is_ssh_for_its_clients_and_among_the_managed_ports(ports: str) -> None:
    ssh = (PortRange("tcp", 22, 22),)
    config = client("", head=f"{HEAD}{ports}")
    assert config.clients["alice"].ports == ssh
    assert config.has_built_in_default
    assert ssh[0] in config.managed_ports
    named = client("allowed_ports: [default]", head=f"{HEAD}{ports}")
    assert (named.client_faults, named.clients["alice"].ports) == ((), ssh)


@pytest.mark.parametrize(("listed", "expected"), [("[]", ()), ("[2222/tcp]", (PortRange("tcp", 2222, 2222),))])
def test_a_group_default_in_the_file_takes_the_place_of_the_one_built_in(
    listed: str, expected: tuple[PortRange, ...]
) -> None:
    config = client("", head=f"{HEAD}ports:\n  default: {listed}\n")
    assert (config.clients["alice"].ports, config.has_built_in_default) == (expected, False)
    assert PortRange("tcp", 22, 22) not in config.managed_ports


def test_an_unknown_key_is_an_error_whose_hint_offers_a_comment() -> None:
    config = client("owner_of_the_laptop: kim")
    assert not config.clients
    assert "make the line a comment" in str(config.client_faults[0].hint)


def test_an_ssh_line_is_a_public_key() -> None:
    raw = ClientPrivateKey(b"\x01" * 32).public.raw
    blob = base64.b64encode(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + raw).decode()
    config = parse(
        f"{HEAD}clients:\n  a:\n    ed25519_pubkey: ssh-ed25519 {blob} a@b\n  b:\n    ed25519_pubkey: {public(1)}\n"
    )
    assert list(config.clients) == ["a"]
    assert "client a has the same" in str(config.client_faults[0])


def test_a_name_given_twice_is_an_error_of_the_file() -> None:
    entry = f"    ed25519_pubkey: {public(1)}\n"
    assert faults(f"{HEAD}clients:\n  a:\n{entry}  a:\n{entry}") == ["config.yaml:6: clients.a: is given a second time"]


def test_names_with_control_characters_are_refused() -> None:
    config = parse(f'{HEAD}clients:\n  "a\\nb":\n    ed25519_pubkey: {public(1)}\n')
    assert not config.clients
    assert str(config.client_faults[0]) == "config.yaml:4: clients: expected a printable name"


@pytest.mark.parametrize("name", ["alice", "a@b.c", "1", "_x-y", "a" * 64])
def test_names_for_new_clients(name: str) -> None:
    assert validate_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "ä", "a/b", "a" * 65, "a\n", "a:"])
def test_names_refused_for_new_clients(name: str) -> None:
    with pytest.raises(ValueError, match="expected a name"):
        validate_name(name)


def written(path: Path, mode: int, text: str = HEAD) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o620, 0o666, 0o644, 0o660, 0o601])
def test_a_file_open_to_others_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "c", mode)
    with pytest.raises(ConfigError) as caught:
        load_server_config(path, tighten=True)
    assert caught.value.hint == f"chmod 600 {path}"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_group_readable_file_loads_with_a_warning_until_it_is_tightened(tmp_path: Path) -> None:
    path = written(tmp_path / "c", 0o640)
    assert "chmod 600" in load_server_config(path).warnings[0]
    assert load_server_config(path, tighten=True).warnings == ()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    status = written(tmp_path / "c", 0o600).stat()
    values = list(status)
    values[stat.ST_UID] = 4711
    foreign = os.stat_result(values)
    with pytest.raises(ConfigError, match="as owner"):
        check_server_file(foreign, PATH, 0)
    assert check_server_file(foreign, PATH, 4711) == ()


def test_what_is_no_readable_file_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_server_config(tmp_path / "missing")
    assert (caught.value.message, caught.value.hint) == (
        f"{tmp_path}/missing: no such file",
        "run: openme init --server HOST",
    )
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="expected a regular file"):
        load_server_config(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="expected a regular file"):
        load_server_config(tmp_path)
    (tmp_path / "latin").write_bytes(b"server:\n  host: \xe4\n")
    (tmp_path / "latin").chmod(0o600)
    with pytest.raises(ConfigError, match="latin:2: expected UTF-8 text"):
        load_server_config(tmp_path / "latin")


def test_always_open_from_is_a_list_of_networks() -> None:
    text = (
        f"{HEAD}  drop_ports: true\n  always_open_from: [192.0.2.0/24, '2001:db8::/32', 198.51.100.7, 192.0.2.0/24]\n"
    )
    config = parse(text)
    assert [str(network) for network in config.always_open_from] == ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"]
    assert config.warnings == ()


@pytest.mark.parametrize("line", ["", "  always_open_from:\n", "  always_open_from: []\n"])
def test_without_networks_nothing_is_always_open(line: str) -> None:
    assert parse(f"{HEAD}  drop_ports: true\n{line}").always_open_from == ()


@pytest.mark.parametrize(
    ("value", "expected", "cure"),
    [
        ("192.0.2.0/24", "expected a list such as [192.0.2.0/24, 2001:db8::/32]", None),
        ("[192.0.2.1/24]", "expected a network such as 192.0.2.0/24, without host bits", "did you mean 192.0.2.0/24?"),
        ("[office]", "expected a network such as 192.0.2.0/24, without host bits", None),
        ("['::ffff:192.0.2.0/120']", "expected IPv4 addresses in IPv4 notation", None),
    ],
)
def test_what_is_no_network_is_never_open(value: str, expected: str, cure: str | None) -> None:
    text = f"{HEAD}  drop_ports: true\n  always_open_from: {value}\n"
    assert faults(text) == [f"config.yaml:4: server.always_open_from: {expected}"]
    assert hint(text) == cure


def test_always_open_from_that_hides_nothing_or_does_nothing_draws_a_warning() -> None:
    everybody = parse(f"{HEAD}  drop_ports: true\n  always_open_from: ['::/0']\n")
    assert "::/0 is every IPv6 address: over it nothing is hidden" in everybody.warnings[0]
    shown = parse(f"{HEAD}  drop_ports: false\n  always_open_from: [192.0.2.0/24]\n")
    assert "server.always_open_from: has no effect while drop_ports is false" in shown.warnings[0]


def test_a_value_from_the_command_line_is_the_one_that_warnings_are_about() -> None:
    text = f"{HEAD}  drop_ports: false\n  always_open_from: [192.0.2.0/24]\n"
    hidden = parse_server_config(text, PATH, overrides={"drop_ports": True})
    assert (hidden.drop_ports, hidden.warnings) == (True, ())
    shown = parse_server_config(text.replace("false", "true"), PATH, overrides={"drop_ports": False})
    assert (shown.drop_ports, len(shown.warnings)) == (False, 1)


def test_a_fault_in_a_value_is_one_though_the_command_line_names_another() -> None:
    with pytest.raises(ConfigError, match=r"server\.drop_ports: expected"):
        parse_server_config(f"{HEAD}  drop_ports: maybe\n", PATH, overrides={"drop_ports": True})


def test_the_list_of_keys_is_the_contract() -> None:
    assert set(names(SERVER_KEYS)) == {
        *("host", "udp_port", "health_port", "firewall", "knock_timeout", "replay_window", "open_knock_port"),
        *("drop_ports", "interface", "default_profile", "private_key", "public_key", "protocols", "epoch_length"),
        "previous_private_key",  # ours, for a change of the version 1 key
        *("epoch_horizon", "hidden_as", "hide_udp_errors", "always_open_from", "state_dir", "run_as"),
        *("prefix_v4", "prefix_v6"),
    }
