"""What `openme import` is given: bytes of somebody else's, in which profiles stand. Pure.

Two forms of one meaning, in YAML or in JSON: a client's file (spec config.md "Client"), and the flat object that the
phone apps scan and copy. All that is kept of either are values that have been checked as those of the client's own file
are; its comments, its notation and whatever else it says go no further.
"""

import codecs
import json
from collections.abc import Iterator
from collections.abc import Mapping as Map
from pathlib import Path
from typing import Any, NamedTuple

from openme.config.faults import ConfigError, ConfigFault
from openme.config.files import file_error
from openme.config.keys import names
from openme.config.nodes import MAX_DEPTH, Mapping, Node, Scalar, Sequence, compose
from openme.config.profile import profiles_in
from openme.config.profile_keys import EPOCH_KEYS, PROFILE_KEYS
from openme.config.profile_lines import PROFILES, Field
from openme.config.profile_model import KeyPair, Profile
from openme.config.section import root_section, shown
from openme.keys.x25519 import is_usable
from openme.visible import is_visible

MOST_BYTES = 2**20
"""Of text: some three hundred profiles with a year of epoch keys each."""
MOST_PROFILES = 1000

_PHONE_KEYS = {
    "host": "server_host",
    "udp_port": "server_udp_port",
    "server_pubkey": "server_pubkey",
    "client_privkey": "private_key",
    "client_pubkey": "public_key",
}
_PHONE_NAME = "profile"
_UNNAMED = "default"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Offered(NamedTuple):
    """A profile that is offered.

    `held`: what it says, checked. `fields`: those of its keys that are to be taken, as they were written.
    """

    name: str
    held: Profile | KeyPair
    fields: Map[str, Field]

    def without(self, *keys: str) -> "Offered":
        """The same without these keys, on which no other depends."""
        return self._replace(fields={name: value for name, value in self.fields.items() if name not in keys})


def offered_untrusted(raw: bytes, source: Path) -> tuple[Offered, ...]:
    """The profiles in these bytes, at least one; `source` names them in errors.

    ConfigError, which carries every fault, for whatever is no profile or a broken one.
    """
    text = text_untrusted(raw, source)
    root = _root_untrusted(text, source)
    faults: list[ConfigFault] = []
    flat = (
        isinstance(root, Mapping) and PROFILES not in root.entries and not _PHONE_KEYS.keys().isdisjoint(root.entries)
    )
    if isinstance(root, Mapping) and flat:
        root = _from_phone(root, source, faults)
    section = root_section(root, source, faults, (PROFILES,))
    found, nodes = profiles_in(section, faults)
    for name, held in found.items():
        for key, line in _with_low_order(name, held, nodes[name]):
            faults.append(ConfigFault(source, line, key, "expected public keys, found a point of low order"))
    if faults:
        raise ConfigError(*(_in_phone_words(fault) for fault in faults) if flat else faults)
    if not found:
        raise file_error(source, "no profile is in it", "give it what openme add NAME printed on the server")
    if len(found) > MOST_PROFILES:
        raise file_error(source, f"expected at most {MOST_PROFILES} profiles")
    for name in found:
        if not is_visible(name):
            raise ConfigError(ConfigFault(source, nodes[name].line, PROFILES, "expected names that can be seen"))
    return tuple(Offered(name, held, _fields(nodes[name])) for name, held in found.items())


def text_untrusted(raw: bytes, source: Path) -> str:
    """Bytes as text: UTF-8, or UTF-16 with its mark, as the `>` of Windows PowerShell writes it; no mark is left."""
    if len(raw) > MOST_BYTES:
        raise file_error(source, f"expected at most {MOST_BYTES // 1024} KiB of text")
    encoding = "utf-16" if raw.startswith(_UTF_16) else "utf-8-sig"
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(ConfigFault(source, line, "", "expected text in UTF-8 or UTF-16, or a PNG image")) from None
    if text.lstrip()[:1] == "<":
        raise file_error(source, "expected a profile, found HTML or SVG", "of images PNG is understood")
    return text


# ---- notations


def _root_untrusted(text: str, source: Path) -> Node | None:
    if text.lstrip()[:1] in {"{", "["}:
        try:
            value = json.loads(
                text, object_pairs_hook=_Pairs, parse_int=_Plain, parse_float=_Plain, parse_constant=_Plain
            )
            return _node(value, source)
        except RecursionError:
            raise _too_deep(source) from None
        except ValueError:
            pass  # YAML has such brackets too
    return compose(text, source)


class _Pairs(list[Any]):
    """A JSON object, with names that stand in it twice."""


class _Plain(str):
    """A number as it is written."""

    __slots__ = ()


def _node(value: Any, source: Path, depth: int = 0) -> Node:  # noqa: ANN401  # any JSON value
    """A JSON value as the tree that YAML would be; it has no places in the text."""
    if depth > MAX_DEPTH:
        raise _too_deep(source)
    if isinstance(value, _Pairs):
        made = Mapping(0, 0, 0, flow=True)
        made.pairs = [(_scalar(name, source, plain=False), _node(item, source, depth + 1)) for name, item in value]
        return made
    if isinstance(value, list):
        listed = Sequence(0, 0, 0, flow=True)
        listed.items = [_node(item, source, depth + 1) for item in value]
        return listed
    if value is None or isinstance(value, bool):
        return _scalar(json.dumps(value), source, plain=True)
    return _scalar(value, source, plain=isinstance(value, _Plain))


def _scalar(text: str, source: Path, *, plain: bool) -> Scalar:
    if any("\ud800" <= c <= "\udfff" for c in text):
        raise file_error(source, "expected text, found half of a surrogate pair")
    return Scalar(0, 0, 0, text, plain=plain)


def _too_deep(source: Path) -> ConfigError:
    return file_error(source, f"expected at most {MAX_DEPTH} levels")


def _is_flat(root: Mapping) -> bool:
    return PROFILES not in root.entries and not _PHONE_KEYS.keys().isdisjoint(root.entries)


def _from_phone(flat: Mapping, source: Path, faults: list[ConfigFault]) -> Mapping:
    """The flat object of the phone apps as a client's file."""
    root_section(flat, source, faults, (_PHONE_NAME, *_PHONE_KEYS))  # for what is unknown, or given twice
    _, name = flat.entries.get(_PHONE_NAME, (None, None))
    title = name if isinstance(name, Scalar) and name.text and not name.is_null else None
    if name is not None and not isinstance(name, Scalar):
        faults.append(ConfigFault(source, name.line, _PHONE_NAME, "expected a name"))
    profile = Mapping(flat.line, 0, 0, flow=True)
    for key, value in flat.pairs:
        if key.text in _PHONE_KEYS:
            profile.pairs.append((Scalar(key.line, 0, 0, _PHONE_KEYS[key.text], plain=True), value))
    profiles = Mapping(flat.line, 0, 0, flow=True)
    profiles.pairs.append((Scalar(flat.line, 0, 0, _UNNAMED if title is None else title.text, plain=False), profile))
    root = Mapping(flat.line, 0, 0, flow=True)
    root.pairs.append((Scalar(flat.line, 0, 0, PROFILES, plain=True), profiles))
    return root


def _in_phone_words(fault: ConfigFault) -> ConfigFault:
    """A fault with the name that the key has where the user looks for it."""
    key = fault.key.rpartition(".")[2]
    theirs = next((phone for phone, ours in _PHONE_KEYS.items() if ours == key), key)
    return fault._replace(key=theirs) if fault.key.startswith(f"{PROFILES}.") else fault


# ---- values


def _with_low_order(name: str, held: Profile | KeyPair, node: Mapping) -> Iterator[tuple[str, int]]:
    """The keys of a profile with which nothing can be kept secret, and their lines."""
    if isinstance(held, KeyPair):
        return
    published = {"server_pubkey": (held.server_pubkey,), "epoch_keys": held.epoch_keys.keys if held.epoch_keys else ()}
    for key, points in published.items():
        if not all(map(is_usable, points)):
            yield f"{PROFILES}.{shown(name)}.{key}", node.entries[key][0].line


def _fields(node: Mapping) -> dict[str, Field]:
    """What a profile says that has been checked: the keys that there are, and what nothing stands behind left out."""
    found: dict[str, Field] = {}
    for name in names(PROFILE_KEYS):
        _, value = node.entries.get(name, (None, None))
        if isinstance(value, Scalar) and value.text and not value.is_null:
            found[name] = value.text
        elif isinstance(value, Sequence):
            found[name] = [item.text for item in value.items if isinstance(item, Scalar)]
        elif isinstance(value, Mapping):
            inner = {part: value.entries[part][1] for part in names(EPOCH_KEYS)}
            found[name] = {part: item.text for part, item in inner.items() if isinstance(item, Scalar)}
    return found
