"""The client's file: profiles, one per server (spec config.md "Client")."""

import ipaddress
import os
from pathlib import Path

from openme.config.files import check_client_file, open_regular, read_text
from openme.config.model import (
    DEFAULT_UDP_PORT,
    HOST_PATTERN,
    PAGE,
    WIRE_VERSIONS,
    ClientConfig,
    ConfigError,
    ConfigFault,
    EpochKeys,
    KeyPair,
    Profile,
)
from openme.config.nodes import Mapping, compose
from openme.config.scalars import quote
from openme.config.section import Section, root_section, shown
from openme.durations import format_duration
from openme.keys.ed25519 import (
    KEY_SIZE,
    ClientPrivateKey,
    ClientPublicKey,
    KeyTextError,
    decode_base64_key,
    encode_base64,
    parse_private_key,
    parse_public_key,
)
from openme.keys.x25519 import parse_server_public_key
from openme.ports import MAX_PORT

PROFILE_KEYS = (
    "server_host",
    "server_udp_port",
    "server_health_port",
    "server_pubkey",
    "private_key",
    "public_key",
    "post_knock",
    "ip",
    "epoch_keys",
    "protocol",
    "identity",
    "same_server_as",
)
EPOCH_KEYS = ("length", "first", "keys")
_MAX_EPOCH_KEYS = 1000


def load_client_config(path: Path) -> ClientConfig:
    """The client's file at `path`; ConfigError for whatever is wrong, a loose mode beside a private key included."""
    descriptor = open_regular(path, "save there what openme add NAME printed on the server, with mode 0600")
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
    profiles: dict[str, Profile] = {}
    waiting: dict[str, KeyPair] = {}
    node = root.section("profiles")
    if node is not None:
        section = Section(path, node, "profiles", faults)
        for name, (key, value) in section.entries.items():
            if not name.strip() or not name.isprintable():
                section.fault_at("", key.line, "expected a printable name")
            elif not isinstance(value, Mapping):
                section.fault_at(name, key.line, "expected a map with server_host and keys")
            else:
                profile = _profile(path, name, key.line, value, faults)
                if isinstance(profile, Profile):
                    profiles[name] = profile
                elif profile is not None:
                    waiting[name] = profile
    if faults:
        raise ConfigError(*faults)
    return ClientConfig(path, profiles, waiting)


def render_profile(
    name: str,
    *,
    server_host: str,
    server_pubkey: bytes,
    public_key: ClientPublicKey,
    private_key: ClientPrivateKey | None = None,
    server_udp_port: int = DEFAULT_UDP_PORT,
    server_health_port: int | None = None,
    epoch_keys: EpochKeys | None = None,
) -> str:
    """A complete client file with one profile, secret if `private_key` is given; server_health_port if it differs."""
    lines = ["profiles:", f"  {quote(name)}:", f"    server_host: {quote(server_host)}"]
    lines.append(f"    server_udp_port: {server_udp_port}")
    if server_health_port is not None and server_health_port != server_udp_port:
        lines.append(f"    server_health_port: {server_health_port}")
    lines.append(f"    server_pubkey: {quote(encode_base64(server_pubkey))}")
    lines.append(f"    public_key: {quote(str(public_key))}")
    if private_key is not None:
        lines.append(f"    private_key: {quote(private_key.to_base64())}")
    if epoch_keys is not None:
        lines.append("    epoch_keys:")
        lines.append(f"      length: {format_duration(epoch_keys.length)}")
        lines.append(f"      first: {epoch_keys.first}")
        lines.append(f"      keys: {quote(encode_base64(b''.join(epoch_keys.keys)))}")
    return "\n".join(lines) + "\n"


def _profile(path: Path, name: str, line: int, node: Mapping, faults: list[ConfigFault]) -> Profile | KeyPair | None:
    before = len(faults)
    section = Section(path, node, f"profiles.{shown(name)}", faults, known=PROFILE_KEYS, line=line)
    server_host = section.text("server_host", "the server's name or address", HOST_PATTERN)
    server_pubkey = section.parsed("server_pubkey", "the server's public key in base64", parse_server_public_key)
    private_key = section.parsed("private_key", "the client's private key in base64", parse_private_key)
    public_key = section.parsed("public_key", "the client's public key in base64", parse_public_key)
    if private_key is not None and public_key is not None and private_key.public != public_key:
        section.fault("public_key", "does not belong to private_key")
    identity = section.text("identity", "ssh-agent:SHA256:… or file:PATH", r"ssh-agent:SHA256:[\w+/=-]+|file:[^\0\n]+")
    if identity is not None and private_key is not None:
        section.fault("identity", "expected either identity or private_key, not both")
    udp_port = section.whole("server_udp_port", DEFAULT_UDP_PORT, 1, MAX_PORT)
    health_port = section.whole("server_health_port", udp_port, 1, MAX_PORT)
    post_knock = section.text("post_knock", "a shell command", r"[^\0]+", invisible=True)
    ip = _ip(section)
    epoch_keys = _epoch_keys(section)
    protocol = section.choice("protocol", "", WIRE_VERSIONS) or None
    same_server_as = section.items("same_server_as", "[knock.example.org]") or ()
    if server_host is None and server_pubkey is None and len(faults) == before:
        if private_key is None and public_key is None and identity is None:
            section.fault("server_host", "expected the server's name or address")
            return None
        return KeyPair(name, private_key, public_key, identity, line)
    for key, value in (("server_host", server_host), ("server_pubkey", server_pubkey)):
        if value is None and not any(f.key == f"{section.key}.{key}" for f in faults[before:]):
            section.fault(key, "expected a value: the profile cannot knock without it")
    if server_host is None or server_pubkey is None:
        return None
    return Profile(
        name=name,
        server_host=server_host,
        server_pubkey=server_pubkey,
        server_udp_port=udp_port,
        server_health_port=health_port,
        private_key=private_key,
        public_key=public_key or (private_key.public if private_key else None),
        post_knock=post_knock,
        ip=ip,
        epoch_keys=epoch_keys,
        protocol=protocol,
        identity=identity,
        same_server_as=tuple(item.text for item in same_server_as),
        line=line,
    )


def _epoch_keys(profile: Section) -> EpochKeys | None:
    node = profile.section("epoch_keys")
    if node is None:
        return None
    section = Section(profile.path, node, f"{profile.key}.epoch_keys", profile.faults, known=EPOCH_KEYS)
    length = section.duration("length")
    first = section.whole("first", 0, 0, 10**11)
    keys = section.parsed("keys", "public keys of 32 bytes each, one after the other, in base64", _key_list)
    for name in EPOCH_KEYS:
        if section.node(name) is None:
            section.fault(name, "expected a value")
    if length is None or keys is None:
        return None
    if length != int(length):
        section.fault("length", "expected whole seconds")
    return EpochKeys(length, first, keys)


def _key_list(text: str) -> tuple[bytes, ...]:
    sizes = tuple(range(KEY_SIZE, KEY_SIZE * (_MAX_EPOCH_KEYS + 1), KEY_SIZE))
    try:
        raw = decode_base64_key("".join(text.split()), sizes)
    except KeyTextError:
        raise ValueError("no list of keys") from None  # its own message would list every size
    return tuple(raw[i : i + KEY_SIZE] for i in range(0, len(raw), KEY_SIZE))


def _ip(profile: Section) -> str | None:
    expected = "auto, source, an address or a page https://…"
    node = profile.scalar("ip", expected)
    if node is not None and node.text.lower().startswith("http://"):
        profile.fault("ip", "expected https://, not http://: whoever sits on the way would choose whose address opens")
        return None
    return profile.parsed("ip", expected, _address) if node is not None else None


def _address(text: str) -> str:
    if text in {"auto", "source"}:
        return text
    page = PAGE.fullmatch(text)
    if page is not None and 0 < int(page["port"] or 443) <= MAX_PORT:
        return text
    return str(ipaddress.ip_address(text))
