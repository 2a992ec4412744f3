"""The server's file, from text to checked values (spec config.md "Server")."""

import ipaddress
import os
import re
import stat
from collections.abc import Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from openme.config.files import check_server_file, open_regular, read_text
from openme.config.model import (
    DEFAULT_EPOCH_LENGTH,
    DEFAULT_UDP_PORT,
    HOST_PATTERN,
    MOST_DISABLED,
    WIRE_VERSIONS,
    ClientEntry,
    ConfigError,
    ConfigFault,
    DisabledClient,
    Network,
    ServerConfig,
)
from openme.config.nodes import Mapping, Scalar, Sequence, collector_paused, compose
from openme.config.section import Section, nearest, root_section, shown
from openme.config.trusted_path import changeable_by_others
from openme.durations import format_duration
from openme.firewall import registry as firewalls
from openme.keys.ed25519 import ClientPublicKey, KeyTextError, parse_public_key
from openme.keys.x25519 import parse_server_private_key, parse_server_public_key
from openme.networks import collapsed
from openme.ports import MAX_PORT, PortRange, merged, parse_port_spec, port

TOP_KEYS = ("server", "ports", "hide", "clients")
SERVER_KEYS = (
    "host",
    "udp_port",
    "health_port",
    "firewall",
    "knock_timeout",
    "replay_window",
    "open_knock_port",
    "drop_ports",
    "interface",
    "default_profile",
    "private_key",
    "public_key",
    "previous_private_key",
    "protocols",
    "epoch_length",
    "epoch_horizon",
    "hidden_as",
    "hide_udp_errors",
    "always_open_from",
    "prefix_v4",
    "prefix_v6",
    "state_dir",
    "run_as",
)
_PREFIXES = ("prefix_v4", "prefix_v6")
# What a client's entry narrows, or may: an empty value there would widen it.
_RESTRICTIONS = ("protocols", "allowed_from", "require_target_ip", "single_use", "max_timeout", *_PREFIXES)
CLIENT_KEYS = ("ed25519_pubkey", "allowed_ports", "expires", "disable_health_port", *_RESTRICTIONS)
DEFAULT_GROUP = "default"
BUILT_IN_DEFAULT = (port("tcp", 22),)
DEFAULT_STATE_DIR = "/var/lib/openme"

PREFIX_LENGTHS = {4: (16, 32), 6: (48, 128)}
"""The shortest and the longest prefix of a network that a door may be for, by IP version."""
_PORT_EXAMPLE = "[22/tcp, 80, 8080-8090/tcp]"
_NEW_NAME = re.compile(r"(?![-.])[A-Za-z0-9._@-]{1,64}", re.ASCII)
LONGEST_DOOR = 366 * 86400.0  # seconds
LONGEST_WINDOW = 366 * 86400.0
INTERFACE_PATTERN = r"(?!\.{1,2}$)[^\s/\x00-\x1f\x7f]{1,15}"  # Linux: dev_valid_name, IFNAMSIZ less its NUL
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})(?:[Tt]|[ ]+)([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"[ ]*(?:([Zz])|([+-])([0-9]{2}):([0-9]{2}))",
    re.ASCII,
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_TIME_EXPECTED = "a time such as 2026-12-31T00:00:00Z, with date, time and zone, or a date alone (midnight UTC)"
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_INIT_HINT = "run: openme init --server HOST"


def validate_name(name: str) -> str:
    """`name`, if a new client or profile may be called so; ValueError otherwise.

    1 to 64 letters, digits and `.`, `_`, `-`, `@`, not beginning with `-` or `.`: what needs no quoting in a shell, in
    a file name or on an option's place. Files that already have other printable names still load.
    """
    if not _NEW_NAME.fullmatch(name):
        raise ValueError(
            "expected a name of 1 to 64 letters, digits, '.', '_', '-' or '@', not beginning with '-' or '.'"
        )
    return name


def parse_expiry(text: str) -> datetime:
    """A moment in UTC from RFC 3339, also as YAML writers put it (space, lower case); ValueError otherwise.

    A date alone is its midnight in UTC, with which that day begins.
    """
    if _DATE.fullmatch(text):
        return datetime.fromisoformat(f"{text}T00:00:00+00:00")
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"expected {_TIME_EXPECTED}")
    date, clock, fraction, zulu, sign, hours, minutes = match.groups()
    zone = "+00:00" if zulu else f"{sign}{hours}:{minutes}"
    microseconds = (fraction or "0")[:6].ljust(6, "0")
    try:
        return datetime.fromisoformat(f"{date}T{clock}.{microseconds}{zone}").astimezone(UTC)
    except OverflowError:
        raise ValueError("expected a time between the years 1 and 9999") from None


def load_server_config(path: Path, *, tighten: bool = False) -> ServerConfig:
    """The server's file at `path`, its mode and owner checked on the opened file; ConfigError for whatever is wrong.

    `tighten` makes a file that only its group can read besides its owner 0600, as `serve` does when it is root: once it
    has turned out to be a config, and if nobody else can have led us to another file than the one that was named.
    """
    descriptor = open_regular(path, _INIT_HINT)
    try:
        warnings = check_server_file(os.fstat(descriptor), path, os.geteuid())
        config = parse_server_config(read_text(descriptor, path), path, warnings)
        if not (warnings and tighten):
            return config
        if (place := changeable_by_others(path, os.geteuid())) is not None:
            note = (
                f"{path}: its mode is left as it is, since others can change {place}: move it to a directory of root's"
            )
            return replace(config, warnings=(note, *config.warnings))
        os.fchmod(descriptor, stat.S_IRUSR | stat.S_IWUSR)
        return replace(config, warnings=config.warnings[len(warnings) :])
    finally:
        os.close(descriptor)


@collector_paused()
def parse_server_config(text: str, path: Path, warnings: tuple[str, ...] = ()) -> ServerConfig:
    """The values in `text`; `path` only names the file in errors. ConfigError carries every fault outside `clients`.

    `warnings` come before those found here. A fault in one client's entry is in the result's `client_faults`.
    """
    faults: list[ConfigFault] = []
    root = root_section(compose(text, path), path, faults, TOP_KEYS)
    server_node = root.section("server")
    if server_node is None:
        if root.node("server") is None:
            root.fault("server", "expected the server's section with its private_key", _INIT_HINT)
        raise ConfigError(*faults)
    server = Section(path, server_node, "server", faults, known=SERVER_KEYS, line=root.line_of("server"))
    notes = list(warnings)

    udp_port = server.whole("udp_port", DEFAULT_UDP_PORT, 1, MAX_PORT)
    health_port = _health_port(server, udp_port)
    firewall = server.choice("firewall", firewalls.DEFAULT, firewalls.names())
    if (served_by := firewalls.kind_of(firewall).served_by) is not None:
        notes.append(_note(server, "firewall", f"{firewall} is served by {served_by}"))
    private_key = server.parsed("private_key", "the server's private key in base64", parse_server_private_key)
    if private_key is None and not any(f.key == "server.private_key" for f in faults):
        server.fault("private_key", "expected the server's private key in base64", _INIT_HINT)
    public_key = server.parsed("public_key", "the server's public key in base64", parse_server_public_key)
    if private_key is not None and public_key is not None and private_key.public != public_key:
        server.fault("public_key", "does not belong to private_key", "remove the line: it follows from private_key")
    previous = server.parsed(
        "previous_private_key", "the server's former private key in base64", parse_server_private_key
    )
    if previous is not None and previous == private_key:
        server.fault("previous_private_key", "is private_key itself", "remove the line")
    protocols = server.words("protocols", frozenset(WIRE_VERSIONS), WIRE_VERSIONS)
    groups = parse_groups(root, faults)
    hide = _hide(root)
    disabled: list[DisabledClient] = []
    lengths = prefixes(server)
    clients, client_faults, orphans = _clients(root, Surroundings(path, groups, protocols, notes, lengths), disabled)
    host = server.text("host", "a host name or address", HOST_PATTERN)
    knock_timeout = server.duration("knock_timeout", LONGEST_DOOR) or 30.0
    replay_window = server.duration("replay_window", LONGEST_WINDOW) or 60.0
    open_knock_port = server.flag("open_knock_port", default=True)
    drop_ports = server.flag("drop_ports", default=False)
    interface = server.text("interface", "a network interface's name, at most 15 characters", INTERFACE_PATTERN)
    default_profile = server.text("default_profile", "a profile's name") or "default"
    epoch_length = _epoch_length(server, replay_window)
    epoch_horizon = server.whole("epoch_horizon", 53, 1, 1000)
    hidden_as = server.choice("hidden_as", "drop", ("drop", "reject"))
    hide_udp_errors = server.flag("hide_udp_errors", default=True)
    always_open_from = _always_open_from(server, notes, drop_ports=drop_ports)
    state_dir = server.text("state_dir", "an absolute path", r"/[^\x00-\x1f\x7f]*") or DEFAULT_STATE_DIR
    run_as = server.text("run_as", "a user's name", r"[^\s:/\x00-\x1f\x7f]+")
    if faults or private_key is None:
        raise ConfigError(*faults)
    return ServerConfig(
        path=path,
        private_key=private_key,
        public_key=private_key.public,
        previous_private_key=previous,
        host=host,
        udp_port=udp_port,
        health_port=health_port,
        firewall=firewall,
        knock_timeout=knock_timeout,
        replay_window=replay_window,
        open_knock_port=open_knock_port,
        drop_ports=drop_ports,
        interface=interface,
        default_profile=default_profile,
        protocols=protocols,
        epoch_length=epoch_length,
        epoch_horizon=epoch_horizon,
        hidden_as="reject" if hidden_as == "reject" else "drop",
        hide_udp_errors=hide_udp_errors,
        always_open_from=always_open_from,
        prefix_v4=lengths.v4,
        prefix_v6=lengths.v6,
        state_dir=Path(state_dir),
        run_as=run_as,
        groups=groups,
        has_built_in_default=has_built_in_default(root),
        hide=hide,
        clients=clients,
        client_faults=tuple(client_faults),
        disabled=tuple(disabled[:MOST_DISABLED]),
        orphan_ports=merged(orphans),
        warnings=tuple(notes),
    )


class Prefixes(NamedTuple):
    """How long the prefixes are of the networks that doors are for."""

    v4: int = 32
    v6: int = 128


ONE_ADDRESS = Prefixes()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a client's entry refers to. Lines about what works but may surprise are added to `notes`."""

    path: Path
    groups: Map[str, tuple[PortRange, ...]]
    protocols: frozenset[str]
    notes: list[str]
    prefixes: Prefixes = ONE_ADDRESS


def parse_client_entry(name: str, line: int, node: Mapping, around: Surroundings) -> ClientEntry:
    """One entry below `clients`, whose name stands on `line`; ConfigError carries all of its faults."""
    path, groups, protocols, notes = around.path, around.groups, around.protocols, around.notes
    faults: list[ConfigFault] = []
    section = Section(
        path, node, f"clients.{shown(name)}", faults, known=CLIENT_KEYS, never_null=_RESTRICTIONS, line=line
    )
    public_key = section.parsed("ed25519_pubkey", "a client's public key in base64", _public_key)
    if public_key is None and not faults:
        section.fault("ed25519_pubkey", "expected a client's public key in base64 or as an ssh-ed25519 line")
    items = section.items("allowed_ports", _PORT_EXAMPLE)
    if items is not None and not items:
        # Existing servers leave out an empty list when they write the file, and so it must mean the same.
        notes.append(_note(section, "allowed_ports", "an empty list counts as absent and opens the group 'default'"))
        items = None
    if items is None:
        ports = groups.get(DEFAULT_GROUP, ())
    else:
        ports = merged(r for item in items for r in _resolve(section, item, groups))
    accepted = section.words("protocols", protocols, WIRE_VERSIONS)
    if not accepted & protocols and not faults:
        notes.append(_note(section, "protocols", "the server accepts none of these, so this client cannot knock"))
    expires = section.parsed("expires", _TIME_EXPECTED, parse_expiry)
    disable_health_port = section.flag("disable_health_port", default=False)
    allowed_from = _allowed_from(section)
    require_target_ip = section.flag("require_target_ip", default=False)
    single_use = section.flag("single_use", default=False)
    max_timeout = section.duration("max_timeout", LONGEST_DOOR)
    lengths = prefixes(section, around.prefixes)
    if not faults:
        _refuse_impossible_networks(section, lengths, allowed_from, single_use=single_use)
    if faults or public_key is None:
        raise ConfigError(*faults)
    return ClientEntry(
        name=name,
        public_key=public_key,
        ports=ports,
        allowed_ports=None if items is None else tuple(item.text for item in items),
        expires=expires,
        disable_health_port=disable_health_port,
        protocols=accepted & protocols,
        allowed_from=allowed_from,
        require_target_ip=require_target_ip,
        single_use=single_use,
        max_timeout=max_timeout,
        prefix_v4=lengths.v4,
        prefix_v6=lengths.v6,
        line=line,
    )


# The check of a public key costs 80 µs, most of a reload; its result only depends on the text.
_public_key = lru_cache(maxsize=2**18)(parse_public_key)


def has_built_in_default(root: Section) -> bool:
    """Whether the file leaves the group `default` to openme: there is no such group, or nothing stands behind it."""
    node = root.node("ports")
    if not isinstance(node, Mapping):
        return node is None
    _, listed = node.entries.get(DEFAULT_GROUP, (None, None))
    return listed is None or (isinstance(listed, Scalar) and listed.is_null)


def parse_groups(root: Section, faults: list[ConfigFault]) -> dict[str, tuple[PortRange, ...]]:
    """The named port groups of a file, each merged; faults are added to `faults`.

    `default` is among them even if the file has none (spec config.md). One that is written as an empty list stays
    empty, since somebody wrote it so.
    """
    groups: dict[str, tuple[PortRange, ...]] = {DEFAULT_GROUP: BUILT_IN_DEFAULT} if has_built_in_default(root) else {}
    node = root.section("ports")
    if node is None:
        return groups
    section = Section(root.path, node, "ports", faults)
    for name in section.entries:
        if name in groups:
            continue
        ranges: list[PortRange] = []
        for item in section.items(name, _PORT_EXAMPLE) or ():
            try:
                ranges += parse_port_spec(item.text)
            except ValueError as error:
                section.fault_at(name, item.line, str(error))
        groups[name] = merged(ranges)
    return groups


def _hide(root: Section) -> tuple[PortRange, ...]:
    """The ports below `hide:`, merged: hidden though no group or client may name them."""
    ranges: list[PortRange] = []
    for item in root.items("hide", _PORT_EXAMPLE) or ():
        try:
            ranges += parse_port_spec(item.text)
        except ValueError as error:
            root.fault_at("hide", item.line, str(error))
    return merged(ranges)


def _clients(
    root: Section, around: Surroundings, disabled: list[DisabledClient]
) -> tuple[dict[str, ClientEntry], list[ConfigFault], list[PortRange]]:
    """The clients, the faults of those that have some, and the ports of the latter; `disabled` gets their keys."""
    node = root.section("clients")
    clients: dict[str, ClientEntry] = {}
    faults: list[ConfigFault] = []
    orphans: list[PortRange] = []
    if node is None:
        return clients, faults, orphans
    section = Section(root.path, node, "clients", root.faults)
    owners: dict[bytes, str] = {}
    for name, (key, value) in section.entries.items():
        if not name.strip() or not name.isprintable():
            faults.append(ConfigFault(root.path, key.line, "clients", "expected a printable name"))
            continue
        if not isinstance(value, Mapping):
            message = "expected a map with ed25519_pubkey"
            faults.append(ConfigFault(root.path, key.line, f"clients.{shown(name)}", message))
            continue
        try:
            entry = parse_client_entry(name, key.line, value, around)
        except ConfigError as error:
            faults.extend(error.faults)
            orphans.extend(_own_ports(value))
            if (public_key := _key_of(value)) is not None:
                disabled.append(DisabledClient(name, public_key, "its entry in the config has a fault"))
            continue
        owner = owners.setdefault(entry.public_key.raw, name)
        if owner != name:
            message = f"expected a key of its own: client {shown(owner)} has the same"
            line = value.entries["ed25519_pubkey"][0].line
            faults.append(ConfigFault(root.path, line, f"clients.{shown(name)}.ed25519_pubkey", message))
            orphans.extend(entry.ports)
            continue
        clients[name] = entry
    return clients, faults, orphans


def _key_of(entry: Mapping) -> ClientPublicKey | None:
    """The key of a client that was refused, if that part of its entry can be read."""
    _, node = entry.entries.get("ed25519_pubkey", (None, None))
    if not isinstance(node, Scalar) or not node.text:
        return None
    try:
        return _public_key(node.text)
    except KeyTextError:
        return None


def _own_ports(entry: Mapping) -> Iterator[PortRange]:
    """The port specs of a client that was refused: its fault must not take the cover off the ports it names."""
    _, listed = entry.entries.get("allowed_ports", (None, None))
    for item in listed.items if isinstance(listed, Sequence) else ():
        try:
            yield from parse_port_spec(item.text if isinstance(item, Scalar) else "")
        except ValueError:
            continue


def _epoch_length(server: Section, replay_window: float) -> float:
    """Whole seconds, and long enough that no more than two epochs are accepted at a time (spec wire-v2.md)."""
    length = server.duration("epoch_length") or DEFAULT_EPOCH_LENGTH
    if length != int(length):
        server.fault("epoch_length", "expected whole seconds")
    elif length < 2 * replay_window:
        server.fault(
            "epoch_length", "expected at least twice replay_window", f"write {format_duration(DEFAULT_EPOCH_LENGTH)}"
        )
    return length


def _health_port(server: Section, udp_port: int) -> int:
    node = server.node("health_port")
    # Existing tools write 0 for a number that is not set.
    if isinstance(node, Scalar) and node.plain and node.text == "0":
        return udp_port
    return server.whole("health_port", udp_port, 1, MAX_PORT)


def _resolve(section: Section, item: Scalar, groups: Map[str, tuple[PortRange, ...]]) -> tuple[PortRange, ...]:
    if item.text in groups:
        return groups[item.text]
    try:
        return parse_port_spec(item.text)
    except ValueError as error:
        if item.text[0].isdigit():
            section.fault_at("allowed_ports", item.line, str(error))
        else:
            message = "expected a port such as 22/tcp or a group under ports"
            section.fault_at("allowed_ports", item.line, message, nearest(item.text, groups))
        return ()


def _allowed_from(section: Section) -> tuple[Network, ...]:
    faults = len(section.faults)
    networks = _networks(section, "allowed_from")
    if networks is not None and not networks and len(section.faults) == faults:
        section.fault("allowed_from", "expected at least one network; to lift the restriction remove the line")
    return tuple(networks or ())


def prefixes(section: Section, default: Prefixes = ONE_ADDRESS) -> Prefixes:
    """`prefix_v4` and `prefix_v6` of a section; faults are added to its own."""
    v4 = section.whole("prefix_v4", default.v4, *PREFIX_LENGTHS[4])
    return Prefixes(v4, section.whole("prefix_v6", default.v6, *PREFIX_LENGTHS[6]))


def _refuse_impossible_networks(
    section: Section, lengths: Prefixes, allowed_from: tuple[Network, ...], *, single_use: bool
) -> None:
    """Add a fault where the network of a door is more than the rest of a client's entry can ever allow."""
    for name, length, version in zip(_PREFIXES, lengths, PREFIX_LENGTHS, strict=True):
        full = PREFIX_LENGTHS[version][1]
        whose = "" if section.node(name) is not None else " of server"
        if single_use and length != full:
            message = f"serves one connection, but {name}{whose} is {length}: its doors would be for a network"
            section.fault("single_use", message, f"write {name}: {full} into this client's entry")
        # Two halves make a whole.
        for network in collapsed(allowed_from):
            if network.version == version and network.prefixlen > length:
                message = f"{network} is smaller than a door's network, whose length {name}{whose} is {length}"
                cure = f"write {name}: {network.prefixlen} into this client's entry, or a larger network here"
                section.fault("allowed_from", message, cure)
                break


def _always_open_from(server: Section, notes: list[str], *, drop_ports: bool) -> tuple[Network, ...]:
    key = "always_open_from"
    networks = tuple(dict.fromkeys(_networks(server, key) or ()))
    notes.extend(
        _note(server, key, f"{network} is every IPv{network.version} address: over it nothing is hidden")
        for network in networks
        if network.prefixlen == 0
    )
    if networks and not drop_ports:
        notes.append(_note(server, key, "has no effect while drop_ports is false"))
    return networks


def _networks(section: Section, key: str) -> list[Network] | None:
    """The networks in a list, without those at fault; None if it is absent."""
    items = section.items(key, "[192.0.2.0/24, 2001:db8::/32]")
    if items is None:
        return None
    networks: list[Network] = []
    for item in items:
        try:
            network = ipaddress.ip_network(item.text)
        except ValueError:
            message = "expected a network such as 192.0.2.0/24, without host bits"
            section.fault_at(key, item.line, message, _masked(item.text))
            continue
        if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
            section.fault_at(key, item.line, "expected IPv4 addresses in IPv4 notation")
            continue
        networks.append(network)
    return networks


def _masked(text: str) -> str | None:
    try:
        return f"did you mean {ipaddress.ip_network(text, strict=False)}?"
    except ValueError:
        return None


def _note(section: Section, name: str, message: str) -> str:
    return str(ConfigFault(section.path, section.line_of(name), f"{section.key}.{name}", message))
