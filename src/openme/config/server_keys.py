"""The keys of the server's file: what stands below `server:`, and in a client's entry (spec config.md "Server").

A new key is a row here, and a field of its name in `model.py`.
"""

import ipaddress
import re
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from openme.config import rights
from openme.config.keys import Key, Surroundings, choice, duration, flag, names, parsed, text, whole
from openme.config.model import DEFAULT_EPOCH_LENGTH, Network
from openme.config.nodes import Scalar
from openme.config.profile_model import DEFAULT_UDP_PORT, HOST_PATTERN, WIRE_VERSIONS
from openme.config.scalars import flow_list
from openme.config.section import Section, nearest
from openme.durations import format_duration
from openme.firewall import registry as firewalls
from openme.keys.ed25519 import ClientPublicKey, parse_public_key
from openme.keys.x25519 import ServerPrivateKey, parse_server_private_key, parse_server_public_key
from openme.max_port import MAX_PORT
from openme.ports import PortRange, merged, parse_port_spec

DEFAULT_GROUP = "default"
DEFAULT_STATE_DIR = "/var/lib/openme"
LONGEST_DOOR = 366 * 86400.0  # seconds
LONGEST_WINDOW = 366 * 86400.0
PREFIX_LENGTHS = {4: (16, 32), 6: (48, 128)}
"""The shortest and the longest prefix of a network that a door may be for, by IP version."""
INTERFACE_PATTERN = r"(?!\.{1,2}$)[^\s/\x00-\x1f\x7f]{1,15}"  # Linux: dev_valid_name, IFNAMSIZ less its NUL
INTERFACE_EXPECTED = "a network interface's name, at most 15 characters"
HOST_EXPECTED = "a host name or address"
PORT_EXAMPLE = "[22/tcp, 80, 8080-8090/tcp]"
INIT_HINT = "run: openme init --server HOST"

_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[Tt]|[ ]+)([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"[ ]*(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_TIME_EXPECTED = "a time such as 2026-12-31T00:00:00Z, with date, time and zone, or a date alone (midnight UTC)"
_MOST_CHECKED = 2**18
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


def parse_expiry(written: str) -> datetime:
    """A moment in UTC from RFC 3339, also as YAML writers put it (space, lower case); ValueError otherwise.

    A date alone is its midnight in UTC, with which that day begins.
    """
    if _DATE.fullmatch(written):
        return datetime.fromisoformat(f"{written}T00:00:00+00:00")
    match = _TIME.fullmatch(written)
    if match is None:
        raise ValueError(f"expected {_TIME_EXPECTED}")
    date, clock, fraction, zulu, sign, hours, minutes = match.groups()
    zone = "+00:00" if zulu else f"{sign}{hours}:{minutes}"
    microseconds = (fraction or "0")[:6].ljust(6, "0")
    try:
        return datetime.fromisoformat(f"{date}T{clock}.{microseconds}{zone}").astimezone(UTC)
    except OverflowError:
        raise ValueError("expected a time between the years 1 and 9999") from None


class CheckedKeys:
    """Public keys by their text: to check one takes 30 to 80 µs, half of a reading, and depends on the text alone."""

    def __init__(self) -> None:
        self._known: dict[str, ClientPublicKey] = {}
        self._awaited: Collection[str] = ()
        self._checked: Callable[[], Iterable[bytes]] = tuple

    def __call__(self, text: str) -> ClientPublicKey:
        """The key that is written so; KeyTextError."""
        if (known := self._known.get(text)) is not None:
            return known
        if text in self._awaited:
            self._awaited = ()
            self.remember(self._checked())
            return self(text)
        key = parse_public_key(text)
        if len(self._known) < _MOST_CHECKED:
            self._known[text] = key
        return key

    def expect(self, texts: Collection[str], checked: Callable[[], Iterable[bytes]]) -> None:
        """Others check the keys of these texts; once one of them is asked for, `checked` tells which are good."""
        self._awaited, self._checked = texts, checked

    def knows(self, text: str) -> bool:
        """Whether the key that is written so has been checked."""
        return text in self._known

    def remember(self, keys: Iterable[bytes]) -> None:
        """Know these, 32 bytes each, which have been checked, by the text that openme writes for them."""
        for raw in keys:
            key = ClientPublicKey.checked_before(raw)
            self._known[str(key)] = key


public_key_of = CheckedKeys()


# -- readers below `server:`


def _health_port(section: Section, key: Key, _around: Surroundings) -> int:
    udp_port: int = section.values["udp_port"]
    node = section.node(key.name)
    # Existing tools write 0 for a number that is not set.
    if isinstance(node, Scalar) and node.plain and node.text == "0":
        return udp_port
    return section.whole(key.name, udp_port, 1, MAX_PORT)


def _firewall(section: Section, key: Key, around: Surroundings) -> str:
    name = section.choice(key.name, firewalls.DEFAULT, firewalls.names())
    if (served_by := firewalls.kind_of(name).served_by) is not None:
        around.note(section, key.name, f"{name} is served by {served_by}")
    return name


def _always_open_from(section: Section, key: Key, around: Surroundings) -> tuple[Network, ...]:
    found = tuple(dict.fromkeys(_networks(section, key.name) or ()))
    for network in found:
        if network.prefixlen == 0:
            message = f"{network} is every IPv{network.version} address: over it nothing is hidden"
            around.note(section, key.name, message)
    if found and not section.values["drop_ports"]:
        around.note(section, key.name, "has no effect while drop_ports is false")
    return found


def _protocols(section: Section, key: Key, _around: Surroundings) -> frozenset[str]:
    return section.words(key.name, frozenset(WIRE_VERSIONS), WIRE_VERSIONS)


def _epoch_length(section: Section, key: Key, around: Surroundings) -> float:
    """Whole seconds, and long enough that no more than two epochs are accepted at a time (spec wire-v2.md)."""
    length: float = duration()(section, key, around)
    if length != int(length):
        section.fault(key.name, "expected whole seconds")
    elif length < 2 * section.values["replay_window"]:
        hint = f"write {format_duration(DEFAULT_EPOCH_LENGTH)}"
        section.fault(key.name, "expected at least twice replay_window", hint)
    return length


def _state_dir(section: Section, key: Key, around: Surroundings) -> Path:
    return Path(text("an absolute path", r"/[^\x00-\x1f\x7f]*")(section, key, around))


def _private_key(section: Section, key: Key, _around: Surroundings) -> ServerPrivateKey | None:
    found = section.parsed(key.name, "the server's private key in base64", parse_server_private_key)
    if found is None and not any(fault.key == f"{section.key}.{key.name}" for fault in section.faults):
        section.fault(key.name, "expected the server's private key in base64", INIT_HINT)
    return found


def _public_key(section: Section, key: Key, _around: Surroundings) -> bytes | None:
    private = section.values["private_key"]
    found = section.parsed(key.name, "the server's public key in base64", parse_server_public_key)
    if private is not None and found is not None and private.public != found:
        section.fault(key.name, "does not belong to private_key", "remove the line: it follows from private_key")
    return None if private is None else private.public


def _previous_private_key(section: Section, key: Key, _around: Surroundings) -> ServerPrivateKey | None:
    found = section.parsed(key.name, "the server's former private key in base64", parse_server_private_key)
    if found is not None and found == section.values["private_key"]:
        section.fault(key.name, "is private_key itself", "remove the line")
    return found


# -- readers in a client's entry


class AllowedPorts(NamedTuple):
    """What a knock opens, merged, and the list as written, None where the file has none."""

    ports: tuple[PortRange, ...]
    listed: tuple[str, ...] | None


def _allowed_ports(section: Section, key: Key, around: Surroundings) -> AllowedPorts:
    items = section.items(key.name, PORT_EXAMPLE)
    if items is not None and not items:
        # Existing servers leave out an empty list when they write the file, and so it must mean the same.
        around.note(section, key.name, "an empty list counts as absent and opens the group 'default'")
        items = None
    if items is None:
        return AllowedPorts(around.groups.get(DEFAULT_GROUP, ()), None)
    ports = merged(ranges for item in items for ranges in _resolve(section, key.name, item, around))
    return AllowedPorts(ports, tuple(item.text for item in items))


def _resolve(section: Section, name: str, item: Scalar, around: Surroundings) -> tuple[PortRange, ...]:
    if item.text in around.groups:
        return around.groups[item.text]
    try:
        return parse_port_spec(item.text)
    except ValueError as error:
        if item.text[0].isdigit():
            section.fault_at(name, item.line, str(error))
        else:
            message = "expected a port such as 22/tcp or a group under ports"
            section.fault_at(name, item.line, message, nearest(item.text, around.groups))
        return ()


def _fewer_protocols(section: Section, key: Key, around: Surroundings) -> frozenset[str]:
    accepted = section.words(key.name, around.protocols, WIRE_VERSIONS) & around.protocols
    if not accepted and not section.faults:
        around.note(section, key.name, "the server accepts none of these, so this client cannot knock")
    return accepted


def _allowed_from(section: Section, key: Key, _around: Surroundings) -> tuple[Network, ...]:
    faults = len(section.faults)
    found = _networks(section, key.name)
    if found is not None and not found and len(section.faults) == faults:
        section.fault(key.name, "expected at least one network; to lift the restriction remove the line")
    return tuple(found or ())


def _prefix_v4(section: Section, key: Key, around: Surroundings) -> int:
    return section.whole(key.name, around.prefixes.v4, *PREFIX_LENGTHS[4])


def _prefix_v6(section: Section, key: Key, around: Surroundings) -> int:
    return section.whole(key.name, around.prefixes.v6, *PREFIX_LENGTHS[6])


def _networks(section: Section, name: str) -> list[Network] | None:
    """The networks in a list, without those at fault; None if it is absent."""
    items = section.items(name, "[192.0.2.0/24, 2001:db8::/32]")
    if items is None:
        return None
    found: list[Network] = []
    for item in items:
        try:
            network = ipaddress.ip_network(item.text)
        except ValueError:
            message = "expected a network such as 192.0.2.0/24, without host bits"
            section.fault_at(name, item.line, message, _masked(item.text))
            continue
        if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
            section.fault_at(name, item.line, "expected IPv4 addresses in IPv4 notation")
            continue
        found.append(network)
    return found


def _masked(written: str) -> str | None:
    try:
        return f"did you mean {ipaddress.ip_network(written, strict=False)}?"
    except ValueError:
        return None


# -- the table

SERVER_BLOCKS = (
    (
        Key(
            name="host",
            read=text(HOST_EXPECTED, HOST_PATTERN),
            comment="Public name or address of this machine, copied into client profiles.",
            example="knock.example.org",
            help="the server's public name or address, copied into client profiles",
        ),
        Key(
            name="udp_port",
            read=whole(1, MAX_PORT),
            default=str(DEFAULT_UDP_PORT),
            needs_restart=True,
            comment="UDP port for knocks, and the TCP port that answers only after one.",
            help="port for knocks",
        ),
        Key(
            name="health_port",
            read=_health_port,
            absent="as `udp_port`",
            needs_restart=True,
            comment="",
            help="TCP port that answers only after a knock; openme's own, "
            "[unless it is a service's](operating.md#a-health-port-that-is-another-programs). 0 means the default",
        ),
        Key(
            name="open_knock_port",
            read=flag,
            default="true",
            comment="Accept the knock port in this host's firewall.",
            help="accept the knock port in the host's firewall",
        ),
    ),
    (
        Key(
            name="firewall",
            read=_firewall,
            default=firewalls.DEFAULT,
            needs_restart=True,
            comment=" ".join(f"{kind.name}: {kind.summary}." for kind in firewalls.KINDS if kind.summary is not None),
            help="`nft`; with `iptables` openme uses nft and warns; with `memory` it only decides and logs (a dry run)",
        ),
        Key(
            name="drop_ports",
            read=flag,
            default="false",
            initial="true",
            comment="Hide every port under 'ports' and of every client from whoever has not knocked.",
            help="hide every managed port from everybody who has not knocked; `init` writes `true`",
        ),
        Key(
            name="hidden_as",
            read=choice(("drop", "reject")),
            default="drop",
            comment="What a hidden port shows: drop (no answer) or reject (looks closed).",
            help="`drop`: no answer; `reject`: looks closed",
        ),
        Key(
            name="hide_udp_errors",
            read=flag,
            default="true",
            comment="Keep unused UDP ports as silent as hidden ones, so that the knock port is one silent port among"
            " all.",
            help="make unused UDP ports as silent as hidden ones, so that the knock port does not stand out; "
            "[the price](operating.md#two-settings-that-make-ports-alike-and-their-price)",
        ),
        Key(
            name="always_open_from",
            read=_always_open_from,
            comment="Networks for which managed ports are not hidden: monitoring, the office, a way back in. The host's"
            " own rules decide.",
            example='[192.0.2.0/24, "2001:db8::/32"]',
            help='networks, such as `[192.0.2.0/24, "2001:db8::/32"]`, for which managed ports are never hidden '
            "(monitoring, the office, a way back in). Only their address counts; whether they get in is up to the "
            "host's own rules. For them too, the knock port stays silent and the health port hidden",
        ),
        Key(
            name="prefix_v4",
            read=_prefix_v4,
            default="32",
            comment="A door is for the network of this prefix length around the address, so for every host in it; full:"
            " for that address alone. Shorter for carriers that send UDP and TCP from several addresses (16 to 32), and"
            " for IPv6 addresses that change (48 to 128). A client's entry can have its own.",
            help="open the door for the network of this length around an IPv4 address, 16 to 32: "
            "[doors for a network](#doors-for-a-network)",
        ),
        Key(
            name="prefix_v6",
            read=_prefix_v6,
            default="128",
            comment="",
            help="the same around an IPv6 address, 48 to 128",
        ),
        Key(
            name="interface",
            read=text(INTERFACE_EXPECTED, INTERFACE_PATTERN),
            absent="all",
            comment="Apply the rules only to packets that arrive on this interface; without it: on all.",
            example="eth0",
            help="apply rules only to packets that arrive on it. Write the device's own name; for a bridge, bond, team "
            "or VRF [the master's](operating.md#an-interface-by-which-nothing-comes), not a member's",
        ),
    ),
    (
        Key(
            name="knock_timeout",
            read=duration(LONGEST_DOOR),
            default="30s",
            comment="How long a door stays open after a knock; another knock starts it afresh.",
            help="how long a door stays open, at most 366d",
        ),
        Key(
            name="replay_window",
            read=duration(LONGEST_WINDOW),
            default="60s",
            comment="Largest accepted difference between a knock's time and this machine's clock.",
            help="largest accepted difference between the knock's time and the server's clock: "
            "[why a minute](clock.md)",
        ),
        Key(
            name="protocols",
            read=_protocols,
            default=flow_list(WIRE_VERSIONS),
            comment="Wire formats to accept, as far as this version of openme speaks them.",
            help="wire formats to accept",
        ),
        Key(
            name="epoch_length",
            read=_epoch_length,
            default=format_duration(DEFAULT_EPOCH_LENGTH),
            needs_restart=True,
            comment="Key epochs of wire format v2: the length of one, and for how many a client carries keys.",
            help="how long an epoch key of version 2 is used: whole seconds, at least twice `replay_window`. It is "
            "fixed when the ratchet is made ([why a week](clock.md))",
        ),
        Key(
            name="epoch_horizon",
            read=whole(1, 1000),
            default="53",
            comment="",
            help="for how many epochs clients get keys, 1 to 1000. With 1, keys do not renew themselves; clients never "
            "add more than 53",
        ),
    ),
    (
        Key(
            name="state_dir",
            read=_state_dir,
            default=DEFAULT_STATE_DIR,
            needs_restart=True,
            comment="Where the server remembers knocks across restarts.",
            help="directory for what the server remembers; an absolute path",
        ),
        Key(
            name="run_as",
            read=text("a user's name", r"[^\s:/\x00-\x1f\x7f]+"),
            absent="the user `openme` if it exists, otherwise a user id that nobody else has",
            needs_restart=True,
            comment="User of the process that reads the network; without it: 'openme' if there is one, else an unused"
            " id.",
            example="openme",
            help="the user of the process that reads the network. Not root, not `nobody`, and not a user who could "
            "write the config or `state_dir`: "
            "[how one is found](privilege-separation.md#the-user-of-the-listener)",
        ),
    ),
    (
        Key(
            name="default_profile",
            read=text("a profile's name"),
            default="default",
            comment="Name of the profile in the client files that 'openme add' writes.",
            help="the name that `add` gives to the profile it writes",
        ),
    ),
    (
        Key(
            name="private_key",
            read=_private_key,
            absent="must be there",
            comment="X25519, base64. The private key never leaves this file; clients carry the public one.",
            help="the server's X25519 key, base64",
        ),
        Key(
            name="public_key",
            read=_public_key,
            absent="follows from `private_key`",
            comment="",
            help="if given, it must match",
        ),
        Key(
            name="previous_private_key",
            read=_previous_private_key,
            help="the former version 1 key, accepted in addition to the new one: "
            "[a planned change](key-management.md#a-planned-change-of-the-version-1-key)",
        ),
    ),
)
"""The keys below `server:`, in the order in which they are read and written, and in the blocks that `init` writes."""

SERVER_KEYS = tuple(chain.from_iterable(SERVER_BLOCKS))

CLIENT_KEYS = (
    Key(
        name="ed25519_pubkey",
        read=parsed("a client's public key in base64", public_key_of),
        absent="must be there",
        help="base64, or a line `ssh-ed25519 AAAA…`; each client has its own",
    ),
    Key(
        name="allowed_ports",
        read=_allowed_ports,
        absent="the group `default`",
        wider=rights.more_ports,
        help="groups and ports",
    ),
    Key(
        name="expires",
        read=parsed(_TIME_EXPECTED, parse_expiry),
        absent="never",
        wider=rights.later_expiry,
        help="`2031-01-01T00:00:00Z`, quoted or not, with time and zone; or a date alone, `2031-01-01`, which is "
        "midnight UTC at the beginning of that day",
    ),
    Key(
        name="disable_health_port",
        read=flag,
        default="false",
        wider=rights.gone("disable_health_port"),
        help="this client does not open the health port",
    ),
    Key(
        name="protocols",
        read=_fewer_protocols,
        absent="the server's",
        narrows=True,
        wider=rights.more_protocols,
        help="fewer than the server's; `add` writes `[v2]`, or nothing with `--v1` and `--qr`",
    ),
    Key(
        name="allowed_from",
        read=_allowed_from,
        absent="anywhere",
        narrows=True,
        wider=rights.more_networks,
        help="networks that the opened address must belong to",
    ),
    Key(
        name="require_target_ip",
        read=flag,
        default="false",
        narrows=True,
        wider=rights.gone("require_target_ip"),
        help="the knock must name the address to open",
    ),
    Key(
        name="single_use",
        read=flag,
        default="false",
        narrows=True,
        wider=rights.gone("single_use"),
        help="a door lets in one connection",
    ),
    Key(
        name="max_timeout",
        read=duration(LONGEST_DOOR),
        absent="`knock_timeout`",
        narrows=True,
        wider=rights.longer_doors,
        help="the client's doors last no longer than this",
    ),
    Key(
        name="prefix_v4",
        read=_prefix_v4,
        absent="the server's",
        narrows=True,
        wider=rights.shorter("prefix_v4"),
        help="this client's own, longer or shorter: [doors for a network](#doors-for-a-network)",
    ),
    Key(
        name="prefix_v6",
        read=_prefix_v6,
        absent="the server's",
        narrows=True,
        wider=rights.shorter("prefix_v6"),
        help="as `prefix_v4`",
    ),
)
"""The keys of a client's entry. Of those that restrict, or may, an empty value is a fault: it would widen."""

NEED_RESTART = names(key for key in SERVER_KEYS if key.needs_restart)
"""What a running server keeps as it was when it began."""
RESTRICTIONS = frozenset(names(key for key in CLIENT_KEYS if key.narrows))
FLAGS = frozenset(names(key for key in CLIENT_KEYS if key.read is flag))
RIGHTS = tuple(key.wider for key in CLIENT_KEYS if key.wider is not None)
"""Each says what one entry allows more than another, by one key."""
