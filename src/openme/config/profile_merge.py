"""Profiles that are offered, merged into the client's file. Pure: text in, text out.

One that is there already, by its public key, gets what its server says anew; what the client has settled for itself
stays. Lines change, or are added, within the profile; every other byte stays, comments before all.
"""

from collections.abc import Iterable
from collections.abc import Mapping as Map
from collections.abc import Sequence as Seq
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, NamedTuple

from openme.config.faults import ConfigError, ConfigFault
from openme.config.nodes import Mapping, Node, Scalar, compose
from openme.config.offered import Offered
from openme.config.profile import parse_client_config
from openme.config.profile_lines import (
    PROFILES,
    Field,
    appended,
    block_lines,
    checked,
    meaning,
    plain,
    unusual,
    written,
)
from openme.config.profile_model import ClientConfig, EpochKeys, KeyPair, Profile
from openme.config.section import shown
from openme.config.text_places import column_of, content_end, line_end, line_start, newline_of, without_bom

_SIGNERS = ("private_key", "identity")
_SERVERS = ("server_host", "server_udp_port", "server_health_port", "server_pubkey", "epoch_keys")
"""What the server says of itself, and a newer file says better."""
_PORTS = ("server_udp_port", "server_health_port")

Kind = Literal["added", "completed", "refreshed", "replaced", "unchanged"]


class Step(NamedTuple):
    """What becomes of an offered profile in the file.

    `name`: what it is called there. `taken`: the keys that it gets, or gets anew; `kept`: those that are offered with
    another value, where the file's own stays; `gone`: those that a replaced profile had, and has no more.
    """

    kind: Kind
    name: str
    taken: Seq[str] = ()
    kept: Seq[str] = ()
    gone: Seq[str] = ()


class Merged(NamedTuple):
    """The file's new text, and how it came about: a step for each profile that was offered, in their order."""

    text: str
    steps: Seq[Step]


class _Edit(NamedTuple):
    """What changes within one profile."""

    step: Step
    values: Map[str, Field]


def merged(text: str, path: Path, offers: Seq[Offered], *, by_name: bool = False, replace: bool = False) -> Merged:
    """The client's file, whose text may be empty, with these profiles. ConfigError, and nothing else, if refused.

    A profile completes, or refreshes, the one with the same public key for the same server, whatever it is called
    there; `by_name`: only if that has its name. Refused: a name that another profile has, unless it is to `replace`
    that, and two that would be one.
    """
    bom, body = without_bom(text)
    root = compose(body, path)
    config = ClientConfig(path, {}) if root is None else parse_client_config(text, path)
    there: dict[str, Profile | KeyPair] = {**config.profiles, **config.waiting}
    edits: dict[str, _Edit] = {}
    added: dict[str, Offered] = {}
    steps: list[Step] = []
    for offer in offers:
        name = _target(offer, there, path, by_name=by_name, replace=replace)
        if name in edits or (name or offer.name) in added:
            raise _fault(path, 0, name or offer.name, "is what two of the offered profiles would become")
        if name is None:
            added[offer.name] = offer
            steps.append(Step("added", offer.name, tuple(offer.fields)))
        else:
            edits[name] = _edit(
                name, there[name], _profile_node(root, name, path), offer, replace=replace and name == offer.name
            )
            steps.append(edits[name].step)
    wanted = meaning(root) or {}
    profiles = dict(wanted.get(PROFILES) or {})
    splices: list[tuple[int, int, str]] = []
    for name, edit in edits.items():
        splices += _splices(body, _profile_node(root, name, path), edit, path)
        kept = {key: value for key, value in profiles[name].items() if key not in edit.step.gone}
        profiles[name] = kept | plain(edit.values)
    for start, end, new in sorted(splices, reverse=True):
        body = body[:start] + new + body[end:]
    if added:
        body = appended(body, ((offer.name, offer.fields) for offer in added.values()), path)
        profiles |= {offer.name: plain(offer.fields) for offer in added.values()}
    if not added and not splices:
        return Merged(text, steps)
    return Merged(checked(bom + body, path, wanted | {PROFILES: profiles}), steps)


# ---- which profile is meant


def _target(
    offer: Offered, there: Map[str, Profile | KeyPair], path: Path, *, by_name: bool, replace: bool
) -> str | None:
    """The name of the profile in the file that the offered one is, or is to replace; None for a new one."""
    if (held := there.get(offer.name)) is not None and (replace or _is_same(held, offer.held)):
        return offer.name
    known = offer.held.public_key
    same = [] if known is None or by_name else [n for n, h in there.items() if h.public_key and _is_same(h, offer.held)]
    if len(same) > 1:
        message = f"is one profile of {shown(same[0])} and {shown(same[1])}, which have its key"
        raise _fault(path, there[same[0]].line, offer.name, message, "say which: --as NAME")
    if same:
        return same[0]
    if held is not None:
        message = "is another profile than the one that is offered: nothing was imported"
        raise _fault(
            path, held.line, offer.name, message, "keep both: --as NAME; lose the one that is there: --replace"
        )
    return None


def _is_same(held: Profile | KeyPair, new: Profile | KeyPair) -> bool:
    """Whether two are one client's at one server, as far as both say; a server may move, or have new keys, not both."""
    keys = {held.public_key, new.public_key} - {None}
    if len(keys) > 1:
        return False
    if isinstance(held, KeyPair) or isinstance(new, KeyPair):
        return True
    return (
        _normal(held.server_host) == _normal(new.server_host)
        or held.server_pubkey == new.server_pubkey
        or bool(_points(held) & _points(new))
    )


def _points(profile: Profile) -> set[bytes]:
    return set() if profile.epoch_keys is None else set(profile.epoch_keys.keys)


def _normal(host: str) -> str:
    try:
        return str(ip_address(host))
    except ValueError:
        return host.removesuffix(".").casefold()


# ---- what changes in it


def _edit(name: str, held: Profile | KeyPair, node: Mapping, offer: Offered, *, replace: bool) -> _Edit:
    here = {key: meaning(value) for key, (_, value) in node.entries.items() if meaning(value) not in (None, "")}
    if replace:
        return _replacing(name, held, here, offer)
    values: dict[str, Field] = {}
    kept: list[str] = []
    signs_already = any(signer in here for signer in _SIGNERS)
    for key in dict.fromkeys((*offer.fields, *(key for key in _SERVERS if key in here))):
        if isinstance(held, Profile) and isinstance(offer.held, Profile) and key in _SERVERS:
            value = _of_server(key, held, offer.held, offer.fields)
            if value is not None:
                values[key] = value
            elif getattr(held, key) != getattr(offer.held, key):
                kept.append(key)
        elif key not in offer.fields or here.get(key) == plain(offer.fields)[key]:
            pass
        elif key == "public_key":
            if held.public_key is None and not signs_already:  # whose the signer's is says the signer
                values[key] = offer.fields[key]
        elif key in _SIGNERS and signs_already:
            if held.private_key is None or held.private_key != offer.held.private_key:
                kept.append(key)
        elif isinstance(held, KeyPair) and key in _SERVERS:
            values[key] = offer.fields[key]
        elif key in here or key == "protocol":
            kept.append(key)  # settled here; and a file that is imported takes nobody back to version 1
        else:
            values[key] = offer.fields[key]
    completes = isinstance(held, KeyPair) and isinstance(offer.held, Profile)
    kind: Kind = "unchanged" if not values else "completed" if completes else "refreshed"
    return _Edit(Step(kind, name, tuple(values), tuple(kept)), values)


def _of_server(key: str, held: Profile, new: Profile, fields: Map[str, Field]) -> Field | None:
    """What the file is to have for a key of the server's; None where that stays as it is."""
    if getattr(held, key) == getattr(new, key):
        return None
    if key == "epoch_keys" and (new.epoch_keys is None or not _is_newer(new.epoch_keys, held.epoch_keys)):
        return None
    return fields.get(key) or str(getattr(new, key))  # a port that is not written is the usual one


def _is_newer(new: EpochKeys, held: EpochKeys | None) -> bool:
    """Whether these keys are to be had in the place of those: another ratchet's, or such as reach further."""
    if held is None or new.length != held.length:
        return True
    ours, theirs = held.by_epoch(), new.by_epoch()
    return any(ours[n] != theirs[n] for n in ours.keys() & theirs.keys()) or max(theirs) > max(ours)


def _replacing(name: str, held: Profile | KeyPair, here: Map[str, Any], offer: Offered) -> _Edit:
    """All that is offered and nothing of what is there, but for its own key, of which there may be no other copy."""
    offered = plain(offer.fields)
    values = {key: value for key, value in offer.fields.items() if here.get(key) != offered[key]}
    gone = [key for key in here if key not in offer.fields]
    is_its_own = held.public_key is not None and held.public_key == offer.held.public_key
    if is_its_own and not any(signer in offer.fields for signer in _SIGNERS):
        gone = [key for key in gone if key not in _SIGNERS]
    kind: Kind = "replaced" if values or gone else "unchanged"
    return _Edit(Step(kind, name, tuple(values), (), tuple(gone)), values)


# ---- where it stands


def _profile_node(root: Node | None, name: str, path: Path) -> Mapping:
    for step in (PROFILES, name):
        if not isinstance(root, Mapping):
            break
        _, root = root.entries[step]
    if not isinstance(root, Mapping):
        raise unusual(path)
    return root


def _splices(body: str, node: Mapping, edit: _Edit, path: Path) -> Iterable[tuple[int, int, str]]:
    """The pieces of text that change for an edit: from, to, what stands there afterwards."""
    own = {key.text: (key, value) for key, value in node.pairs}
    more: dict[str, Field] = {}
    for key, value in edit.values.items():
        if key not in own:
            more[key] = value
        else:
            yield from _value_splices(body, own[key], key, value, path)
    if edit.step.gone and (node.flow or not own.keys() >= set(edit.step.gone)):
        raise unusual(path)
    going = [own[key] for key in edit.step.gone]
    newline = newline_of(body)
    for name, held in going:
        end = line_end(body, max(content_end(held, body), name.end))
        yield line_start(body, name.start), min(end + len(newline), len(body)), ""
    if not more:
        return
    if node.flow:
        inside = ", ".join(f"{key}: {written(key, value)}" for key, value in more.items())
        at = node.start + 1
        yield at, at, f"{inside}, " if node.pairs else inside
        return
    if not node.pairs:
        raise unusual(path)
    staying = [pair for pair in node.pairs if pair not in going]
    yield _lines_behind(body, node, staying, more, newline)


def _lines_behind(
    body: str, node: Mapping, staying: Seq[tuple[Scalar, Node]], more: Map[str, Field], newline: str
) -> tuple[int, int, str]:
    """Lines more, behind the last that is plainly one line; without one, before them all."""
    lines = block_lines(more, " " * column_of(body, node.pairs[0][0].start))
    for key, value in reversed(staying):
        if isinstance(value, Scalar) and value.text and "\n" not in body[key.start : value.end]:
            end = line_end(body, value.end)
            return end, end, "".join(f"{newline}{line}" for line in lines)
    start = line_start(body, node.pairs[0][0].start)
    return start, start, "".join(f"{line}{newline}" for line in lines)


def _value_splices(
    body: str, pair: tuple[Scalar, Node], name: str, value: Field, path: Path
) -> Iterable[tuple[int, int, str]]:
    """The pieces of text that change where a key is there already."""
    key, held = pair
    if isinstance(held, Mapping) and isinstance(value, Map):
        for part, text in value.items():
            if part not in held.entries:
                raise unusual(path)
            there = held.entries[part]
            if not isinstance(there[1], Scalar) or there[1].text != text:
                yield from _value_splices(body, there, part, text, path)
    elif isinstance(held, Scalar) and held.start == held.end:
        colon = body.index(":", key.end) + 1
        yield colon, colon, f" {written(name, value)}"
    elif isinstance(held, Scalar) or held.flow:
        yield held.start, content_end(held, body), written(name, value)
    else:
        raise unusual(path)


def _fault(path: Path, line: int, name: str, message: str, hint: str | None = None) -> ConfigError:
    return ConfigError(ConfigFault(path, line, f"{PROFILES}.{shown(name)}", message, hint))
