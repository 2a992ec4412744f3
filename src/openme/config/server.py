"""The server's file, from text to checked values (spec config.md "Server")."""

import difflib  # noqa: F401  # `closest` wants it, in a process that may open no file any more
import os
import re
import stat
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Map
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from openme.collector import collector_paused
from openme.config.faults import ConfigError, ConfigFault
from openme.config.files import check_server_file, open_regular, read_text
from openme.config.keys import Prefixes, Surroundings, names, read_keys
from openme.config.model import MOST_DISABLED, ClientEntry, DisabledClient, ServerConfig
from openme.config.nodes import Mapping, Scalar, Sequence, compose
from openme.config.section import Section, root_section, shown
from openme.config.server_keys import (
    CLIENT_KEYS,
    DEFAULT_GROUP,
    INIT_HINT,
    PORT_EXAMPLE,
    PREFIX_LENGTHS,
    RESTRICTIONS,
    SERVER_KEYS,
    public_key_of,
)
from openme.config.trusted_path import changeable_by_others
from openme.keys.ed25519 import ClientPublicKey, KeyTextError
from openme.networks import collapsed
from openme.ports import PortRange, merged, parse_port_spec, port

TOP_KEYS = ("server", "ports", "hide", "clients")
BUILT_IN_DEFAULT = (port("tcp", 22),)
_PREFIXES = ("prefix_v4", "prefix_v6")
_CLIENT_NAMES = names(CLIENT_KEYS)
_COMMON = tuple(field.name for field in fields(ClientEntry) if field.name not in {"name", "public_key", "line"})
Parse = Callable[[str, Path, tuple[str, ...], Map[str, Any] | None], ServerConfig]
_NEW_NAME = re.compile(r"(?![-.])[A-Za-z0-9._@-]{1,64}", re.ASCII)


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


def load_server_config(
    path: Path, *, tighten: bool = False, overrides: Map[str, Any] | None = None, parse: Parse | None = None
) -> ServerConfig:
    """The server's file at `path`, its mode and owner checked on the opened file; ConfigError for whatever is wrong.

    `tighten` makes a file that only its group can read besides its owner 0600, as `serve` does when it is root: once it
    has turned out to be a config, and if nobody else can have led us to another file than the one that was named.
    `overrides`: values of keys below `server:` that stand above the file's. `parse` stands for `parse_server_config`.
    """
    descriptor = open_regular(path, INIT_HINT)
    try:
        warnings = check_server_file(os.fstat(descriptor), path, os.geteuid())
        text = read_text(descriptor, path)
        config = (parse or parse_server_config)(text, path, warnings, overrides)
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
def parse_server_config(
    text: str, path: Path, warnings: tuple[str, ...] = (), overrides: Map[str, Any] | None = None
) -> ServerConfig:
    """The values in `text`; `path` only names the file in errors. ConfigError carries every fault outside `clients`.

    `warnings` come before those found here; `overrides` as for `load_server_config`. A fault in one client's entry is
    in the result's `client_faults`.
    """
    faults: list[ConfigFault] = []
    root = root_section(compose(text, path), path, faults, TOP_KEYS)
    server_node = root.section("server")
    if server_node is None:
        if root.node("server") is None:
            root.fault("server", "expected the server's section with its private_key", INIT_HINT)
        raise ConfigError(*faults)
    server = Section(path, server_node, "server", faults, known=names(SERVER_KEYS), line=root.line_of("server"))
    notes = list(warnings)
    values = read_keys(SERVER_KEYS, server, Surroundings(path, notes=notes, overrides=overrides or {}))
    groups = parse_groups(root, faults)
    hide = _hide(root)
    disabled: list[DisabledClient] = []
    clients, client_faults, orphans = _clients(root, around_clients(path, groups, values, notes), disabled)
    if faults:
        raise ConfigError(*faults)
    return ServerConfig(
        **values,
        path=path,
        groups=groups,
        has_built_in_default=has_built_in_default(root),
        hide=hide,
        clients=clients,
        client_faults=tuple(client_faults),
        disabled=tuple(disabled[:MOST_DISABLED]),
        orphan_ports=merged(orphans),
        warnings=tuple(notes),
    )


def around_clients(
    path: Path, groups: Map[str, tuple[PortRange, ...]], server: Map[str, Any], notes: list[str]
) -> Surroundings:
    """What the entries below `clients` refer to: the port groups, and what `server` has by key."""
    return Surroundings(path, groups, server["protocols"], notes, Prefixes(*(server[name] for name in _PREFIXES)))


def parse_client_entry(name: str, line: int, node: Mapping, around: Surroundings) -> ClientEntry:
    """One entry below `clients`, whose name stands on `line`; ConfigError carries all of its faults."""
    faults: list[ConfigFault] = []
    key = f"clients.{shown(name)}"
    section = Section(around.path, node, key, faults, known=_CLIENT_NAMES, never_null=RESTRICTIONS, line=line)
    values = read_keys(CLIENT_KEYS, section, around)
    public_key = values.pop("ed25519_pubkey")
    if public_key is None and not faults:
        section.fault("ed25519_pubkey", "expected a client's public key in base64 or as an ssh-ed25519 line")
    if not faults:
        _refuse_impossible_networks(section)
    if faults:
        raise ConfigError(*faults)
    ports, values["allowed_ports"] = values["allowed_ports"]
    return ClientEntry(name=name, public_key=public_key, ports=ports, line=line, **values)


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
        for item in section.items(name, PORT_EXAMPLE) or ():
            try:
                ranges += parse_port_spec(item.text)
            except ValueError as error:
                section.fault_at(name, item.line, str(error))
        groups[name] = merged(ranges)
    return groups


def _hide(root: Section) -> tuple[PortRange, ...]:
    """The ports below `hide:`, merged: hidden though no group or client may name them."""
    ranges: list[PortRange] = []
    for item in root.items("hide", PORT_EXAMPLE) or ():
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
    entries = _Entries(around)
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
            entry = entries.parse(name, key.line, value)
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


class _Entries:
    """Reads entries. Of those that differ in name and public key alone, as most of a large file do, only the first is
    read key by key.
    """

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._read: dict[tuple[object, ...], dict[str, Any]] = {}

    def parse(self, name: str, line: int, node: Mapping) -> ClientEntry:
        """As `parse_client_entry`."""
        rest = _rest(node)
        read = None if rest is None else self._read.get(rest)
        if read is not None and (public_key := _key_of(node)) is not None:
            return ClientEntry(name=name, public_key=public_key, line=line, **read)
        notes = len(self._around.notes)
        entry = parse_client_entry(name, line, node, self._around)
        if rest is not None and len(self._around.notes) == notes:  # what is noted names its line
            self._read[rest] = {field: getattr(entry, field) for field in _COMMON}
        return entry


def _rest(entry: Mapping) -> tuple[object, ...] | None:
    """All that an entry says but its public key; None if that is more than single values and lists of them."""
    found: list[object] = []
    for key, value in entry.pairs:
        if key.text == "ed25519_pubkey":
            found.append(key.text)  # once, or it is a fault
        elif isinstance(value, Scalar):
            found.append((key.text, key.plain, value.text, value.plain))
        elif isinstance(value, Sequence) and all(isinstance(item, Scalar) for item in value.items):
            found.append((key.text, key.plain, *((item.text, item.plain) for item in value.items)))  # type: ignore[union-attr]
        else:
            return None
    return tuple(found)


def _key_of(entry: Mapping) -> ClientPublicKey | None:
    """The key of a client that was refused, if that part of its entry can be read."""
    _, node = entry.entries.get("ed25519_pubkey", (None, None))
    if not isinstance(node, Scalar) or not node.text:
        return None
    try:
        return public_key_of(node.text)
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


def _refuse_impossible_networks(section: Section) -> None:
    """Add a fault where the network of a door is more than the rest of a client's entry can ever allow."""
    values = section.values
    allowed = list(collapsed(values["allowed_from"])) if values["allowed_from"] else []  # two halves make a whole
    for name, version in zip(_PREFIXES, PREFIX_LENGTHS, strict=True):
        length, full = values[name], PREFIX_LENGTHS[version][1]
        whose = "" if section.node(name) is not None else " of server"
        if values["single_use"] and length != full:
            message = f"serves one connection, but {name}{whose} is {length}: its doors would be for a network"
            section.fault("single_use", message, f"write {name}: {full} into this client's entry")
        for network in allowed:
            if network.version == version and network.prefixlen > length:
                message = f"{network} is smaller than a door's network, whose length {name}{whose} is {length}"
                cure = f"write {name}: {network.prefixlen} into this client's entry, or a larger network here"
                section.fault("allowed_from", message, cure)
                break
