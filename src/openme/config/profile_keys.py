"""The keys of the client's file: what stands in a profile, and in its `epoch_keys` (spec config.md "Client").

A new key is a row here, and a field of its name in `model.py`.
"""

import ipaddress
import re

from openme.config.keys import Key, Surroundings, choice, duration, names, parsed, read_keys, text, whole
from openme.config.profile_model import DEFAULT_UDP_PORT, HOST_PATTERN, PAGE, WIRE_VERSIONS, EpochKeys
from openme.config.section import Section
from openme.keys.ed25519 import (
    KEY_SIZE,
    ClientPublicKey,
    KeyTextError,
    decode_base64_key,
    parse_private_key,
    parse_public_key,
)
from openme.keys.x25519 import parse_server_public_key
from openme.max_port import MAX_PORT
from openme.visible import is_visible

IDENTITY_FORMS = "ssh-agent:SHA256:… (43 characters, as ssh-add -l shows them) or file:PATH"
_IN_AGENT = "ssh-agent:"
_IDENTITY = r"ssh-agent:SHA256:[A-Za-z0-9+/]{43}=?|file:[^\0\n]+"
_MAX_EPOCH_KEYS = 1000


def _public_key(section: Section, key: Key, _around: Surroundings) -> ClientPublicKey | None:
    private = section.values["private_key"]
    found = section.parsed(key.name, "the client's public key in base64", parse_public_key)
    if private is not None and found is not None and private.public != found:
        section.fault(key.name, "does not belong to private_key")
    return found


def _identity(section: Section, key: Key, _around: Surroundings) -> str | None:
    found = section.parsed(key.name, IDENTITY_FORMS, parse_identity)
    public = section.values["public_key"]
    if found is None:
        return None
    if section.values["private_key"] is not None:
        section.fault(key.name, "expected either identity or private_key, not both")
    elif public is not None and found.startswith(_IN_AGENT) and found != _IN_AGENT + public.ssh_fingerprint:
        section.fault(key.name, "is another key than public_key", f"public_key is {public.ssh_fingerprint}")
    return found


def parse_identity(written: str) -> str:
    """Where a client's private key is, as a profile's `identity` says it; ValueError for no `IDENTITY_FORMS`."""
    if re.fullmatch(_IDENTITY, written) is None or not is_visible(written):
        raise ValueError(IDENTITY_FORMS)
    return written.rstrip("=") if written.startswith(_IN_AGENT) else written


def _health_port(section: Section, key: Key, _around: Surroundings) -> int:
    return section.whole(key.name, section.values["server_udp_port"], 1, MAX_PORT)


def _ip(section: Section, key: Key, _around: Surroundings) -> str | None:
    expected = "auto, source, an address or a page https://…"
    node = section.scalar(key.name, expected)
    if node is not None and node.text.lower().startswith("http://"):
        message = "expected https://, not http://: whoever sits on the way would choose whose address opens"
        section.fault(key.name, message)
        return None
    return section.parsed(key.name, expected, _address) if node is not None else None


def _address(written: str) -> str:
    if written in {"auto", "source"}:
        return written
    page = re.fullmatch(PAGE, written)
    if page is not None and 0 < int(page["port"] or 443) <= MAX_PORT:
        return written
    return str(ipaddress.ip_address(written))


def _hosts(section: Section, key: Key, _around: Surroundings) -> tuple[str, ...]:
    return tuple(item.text for item in section.items(key.name, "[knock.example.org]") or ())


def _epoch_keys(section: Section, key: Key, around: Surroundings) -> EpochKeys | None:
    node = section.section(key.name)
    if node is None:
        return None
    known = names(EPOCH_KEYS)
    inner = Section(section.path, node, f"{section.key}.{key.name}", section.faults, known=known)
    length, first, keys = read_keys(EPOCH_KEYS, inner, around).values()
    for name in known:
        if inner.node(name) is None:
            inner.fault(name, "expected a value")
    if length is None or keys is None:
        return None
    if length != int(length):
        inner.fault("length", "expected whole seconds")
    return EpochKeys(length, first, keys)


def _key_list(written: str) -> tuple[bytes, ...]:
    sizes = tuple(range(KEY_SIZE, KEY_SIZE * (_MAX_EPOCH_KEYS + 1), KEY_SIZE))
    try:
        raw = decode_base64_key("".join(written.split()), sizes)
    except KeyTextError:
        raise ValueError("no list of keys") from None  # its own message would list every size
    return tuple(raw[i : i + KEY_SIZE] for i in range(0, len(raw), KEY_SIZE))


PROFILE_KEYS = (
    Key(
        name="server_host",
        read=text("the server's name or address", HOST_PATTERN),
        absent="the profile cannot knock yet",
        help="where to knock",
    ),
    Key(
        name="server_pubkey",
        read=parsed("the server's public key in base64", parse_server_public_key),
        absent="the profile cannot knock yet",
        help="the server's key, base64",
    ),
    Key(name="server_udp_port", read=whole(1, MAX_PORT), default=str(DEFAULT_UDP_PORT), help="port for knocks"),
    Key(
        name="server_health_port",
        read=_health_port,
        absent="`server_udp_port`",
        help="TCP port that shows whether the door is open",
    ),
    Key(
        name="private_key",
        read=parsed("the client's private key in base64", parse_private_key),
        absent="`identity` must be there",
        help="base64: 32 bytes, or 64 with the public key after it",
    ),
    Key(
        name="public_key",
        read=_public_key,
        absent="follows from `private_key`, or is asked of `identity`",
        help="must belong to it",
    ),
    Key(
        name="identity",
        read=_identity,
        absent="`private_key` must be there",
        help="where the private key is, instead of `private_key`: `ssh-agent:SHA256:…`, [a key in the SSH agent]"
        "(key-management.md#the-ssh-key-that-you-have) by its fingerprint, or `file:PATH`, an OpenSSH private key file",
    ),
    Key(
        name="post_knock",
        read=text("a shell command", r"[^\0]+", invisible=True),
        absent="nothing",
        help="run by `sh -c` after the knock",
    ),
    Key(
        name="ip",
        read=_ip,
        absent="version 1: `source`; version 2: `auto`",
        help="which address a knock names. `auto`: this machine's own if that is a global one, otherwise none; "
        "`source`: none; an address; or `https://…`, [a page](clients.md#a-page-that-tells-your-address) whose text is "
        "the address",
    ),
    Key(
        name="epoch_keys",
        read=_epoch_keys,
        help="version 2: `{length: 7d, first: 2951, keys: BASE64}`, the public keys of consecutive epochs",
    ),
    Key(
        name="protocol",
        read=choice(WIRE_VERSIONS),
        absent="v2 with `epoch_keys`, else v1",
        help="`v1` or `v2`",
    ),
    Key(
        name="same_server_as",
        read=_hosts,
        help="hosts of other profiles that are the same server, and so may have the same epoch keys",
    ),
)

EPOCH_KEYS = (
    Key(name="length", read=duration(), help="an epoch's length"),
    Key(name="first", read=whole(0, 10**11), help="the first key's epoch"),
    Key(
        name="keys",
        read=parsed("public keys of 32 bytes each, one after the other, in base64", _key_list),
        help="32 bytes for each epoch, base64",
    ),
)
"""The keys below `epoch_keys`, which `add` writes; nobody writes them by hand."""
