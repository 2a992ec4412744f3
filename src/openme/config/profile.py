"""The client's file: profiles, one per server (spec config.md "Client")."""

import os
from pathlib import Path

from openme.config.faults import ConfigError, ConfigFault
from openme.config.files import check_client_file, open_regular, read_text
from openme.config.keys import Surroundings, names, read_keys
from openme.config.nodes import Mapping, compose
from openme.config.profile_keys import PROFILE_KEYS
from openme.config.profile_model import ClientConfig, KeyPair, Profile
from openme.config.section import Section, root_section, shown


def load_client_config(path: Path) -> ClientConfig:
    """The client's file at `path`; ConfigError for whatever is wrong, a loose mode beside a private key included."""
    descriptor = open_regular(
        path, "on the server: openme add NAME --out FILE; here, with that file: openme import FILE"
    )
    try:
        status = os.fstat(descriptor)
        text = read_text(descriptor, path)
    finally:
        os.close(descriptor)
    config = parse_client_config(text, path)
    if os.name == "posix":  # elsewhere the mode says nothing about who may read
        held: list[Profile | KeyPair] = [*config.profiles.values(), *config.waiting.values()]
        check_client_file(
            status,
            path,
            private_key=any(p.private_key for p in held),
            commands=any(p.post_knock for p in config.profiles.values()),
        )
    return config


def parse_client_config(text: str, path: Path) -> ClientConfig:
    """The profiles in `text`; `path` only names the file in errors. ConfigError carries every fault."""
    faults: list[ConfigFault] = []
    root = root_section(compose(text, path), path, faults, ("profiles",))
    found, _ = profiles_in(root, faults)
    if faults:
        raise ConfigError(*faults)
    profiles = {name: held for name, held in found.items() if isinstance(held, Profile)}
    waiting = {name: held for name, held in found.items() if isinstance(held, KeyPair)}
    return ClientConfig(path, profiles, waiting)


def profiles_in(root: Section, faults: list[ConfigFault]) -> tuple[dict[str, Profile | KeyPair], dict[str, Mapping]]:
    """What stands under `profiles` in a file's outermost map, by name: checked, and where. Faults are noted."""
    found: dict[str, Profile | KeyPair] = {}
    nodes: dict[str, Mapping] = {}
    node = root.section("profiles")
    if node is not None:
        section = Section(root.path, node, "profiles", faults)
        for name, (key, value) in section.entries.items():
            if not name.strip() or not name.isprintable():
                section.fault_at("", key.line, "expected a printable name")
            elif not isinstance(value, Mapping):
                section.fault_at(name, key.line, "expected a map with server_host and keys")
            elif (held := _profile(root.path, name, key.line, value, faults)) is not None:
                found[name] = held
                nodes[name] = value
    return found, nodes


def _profile(path: Path, name: str, line: int, node: Mapping, faults: list[ConfigFault]) -> Profile | KeyPair | None:
    before = len(faults)
    section = Section(path, node, f"profiles.{shown(name)}", faults, known=names(PROFILE_KEYS), line=line)
    values = read_keys(PROFILE_KEYS, section, Surroundings(path))
    private_key, public_key, identity = (values[key] for key in ("private_key", "public_key", "identity"))
    needed = ("server_host", "server_pubkey")
    if all(values[key] is None for key in needed) and len(faults) == before:
        if private_key is None and public_key is None and identity is None:
            section.fault("server_host", "expected the server's name or address")
            return None
        return KeyPair(name, private_key, public_key, identity, line)
    missing = [key for key in needed if values[key] is None]
    for key in missing:
        if not any(fault.key == f"{section.key}.{key}" for fault in faults[before:]):
            section.fault(key, "expected a value: the profile cannot knock without it")
    if missing:
        return None
    if public_key is None and private_key is not None:
        values["public_key"] = private_key.public
    return Profile(name=name, line=line, **values)
