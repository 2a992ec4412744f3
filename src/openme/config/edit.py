"""Adding and removing a client in the server's file: lines change, and every other byte stays.

The tree only says where. Each result is read again and compared with what was there before; a result that differs in
anything but the one client is thrown away, so a file too unusual for the rules below is refused and never damaged.

Full-line comments above an entry stay when the entry goes, for the first of them is often about all entries. Comments
inside an entry, those indented deeper than its name right below it included, go with it.
"""

import base64
import binascii
import os
import re
import shlex
from collections.abc import Callable
from collections.abc import Mapping as Map
from collections.abc import Sequence as Seq
from contextlib import suppress
from itertools import starmap
from pathlib import Path

from openme.collector import collector_paused
from openme.config import hide_edit
from openme.config.clients_block import before_clients
from openme.config.faults import ConfigError, ConfigFault
from openme.config.files import check_server_file, file_error, open_regular, read_text
from openme.config.keys import Surroundings, names, read_keys
from openme.config.locked import locked_directory, replace_file
from openme.config.nodes import Mapping, Node, Scalar, Sequence, compose
from openme.config.scalars import flow_list, quote
from openme.config.section import Section, nearest, shown
from openme.config.server import around_clients, parse_client_entry, parse_groups, validate_name
from openme.config.server_keys import DEFAULT_STATE_DIR, FLAGS, SERVER_KEYS
from openme.config.text_places import column_of, content_end, entry_end, line_end, line_start, newline_of, without_bom
from openme.keys.ed25519 import key_id_of
from openme.ports import PortRange, merged, without

Fields = Map[str, str | Seq[str]]

_BY_HAND = "edit the file by hand, then run: openme check-config"


class NameTakenError(ConfigError):
    """There is a client of that name already."""


class NoClientError(ConfigError):
    """There is no client of that name to be removed."""


def add_client(path: Path, name: str, fields: Fields) -> None:
    """Add client `name` with `fields` (key → text, or a list of texts) behind the last one; ConfigError if refused.

    Refused: a name that is taken or not allowed, fields that would not load, a public key another client has. The
    file is 0600 afterwards and is replaced in one step; on any failure it is as it was.
    """
    try:
        validate_name(name)
    except ValueError as error:
        raise file_error(path, str(error)) from None
    _edit(path, lambda text, place: insert_client(text, place, name, fields))


def remove_client(path: Path, name: str, *, keep_hidden: bool = True) -> None:
    """Remove client `name`; NoClientError, with the nearest name as a hint, if there is none. Otherwise as add_client.

    It also works on a file with faults elsewhere, as long as it is YAML: taking a right away must not wait for those.
    `keep_hidden` puts the ports that nobody but this client named under `hide:`, in the same edit.
    """
    change = delete_client_hiding if keep_hidden else delete_client
    _edit(path, lambda text, place: change(text, place, name))


def unhide_ports(path: Path, ports: Seq[PortRange]) -> None:
    """Take ports off `hide:`; of a range that holds some of them the rest stays. ConfigError as for add_client."""
    _edit(path, lambda text, place: delete_hidden(text, place, ports))


def set_server(path: Path, values: Map[str, str | Seq[str] | None]) -> None:
    """Set keys of `server:` (None: take the line away); ConfigError if refused, as for add_client.

    A key that is there keeps its place and what stands behind it on the line; a new one comes below `private_key`.
    """
    _edit(path, lambda text, place: set_server_keys(text, place, values))


def state_dir_of(path: Path) -> Path:
    """`server.state_dir`, also in a file that no longer loads: the way to a server that runs must not end with it.

    Of a file that is not even YAML the line with that key is taken, of one that cannot be read the default.
    """
    try:
        descriptor = open_regular(path, "run: openme init --server HOST")
        try:
            text = read_text(descriptor, path)
        finally:
            os.close(descriptor)
    except ConfigError:
        return Path(DEFAULT_STATE_DIR)
    # A revocation must not wait until a hundred thousand clients have been read.
    with suppress(ConfigError):
        if (found := _state_dir_in(before_clients(text), path)) is not None:
            return found
    try:
        return _state_dir_in(text, path) or Path(DEFAULT_STATE_DIR)
    except ConfigError:
        line = re.search(r"""^\s+["']?state_dir["']?\s*:\s*["']?(/[^"'#\n]*?)["']?\s*(#.*)?$""", text, re.MULTILINE)
        return Path(line[1] if line else DEFAULT_STATE_DIR)


def _state_dir_in(text: str, path: Path) -> Path | None:
    """What a text names or leaves to openme; None if it has no section of the server's. ConfigError."""
    _, server = _root(without_bom(text)[1], path).entries.get("server", (None, None))
    if not isinstance(server, Mapping):
        return None
    _, value = server.entries.get("state_dir", (None, None))
    return Path(value.text if isinstance(value, Scalar) and value.text else DEFAULT_STATE_DIR)


def _edit(path: Path, change: Callable[[str, Path], str]) -> None:
    target = Path(os.path.realpath(path))
    with locked_directory(target.parent, path):
        descriptor = open_regular(target, "run: openme init --server HOST")
        try:
            status = os.fstat(descriptor)
            check_server_file(status, path, os.geteuid())
            old = read_text(descriptor, path)
        finally:
            os.close(descriptor)
        replace_file(target, change(old, path).encode("utf-8"), status, path)


@collector_paused()
def insert_client(text: str, path: Path, name: str, fields: Fields) -> str:
    """The file's text with a client more. Pure; ConfigError as for add_client."""
    bom, body = without_bom(text)
    root = _root(body, path)
    clients = _clients(root, path)
    if isinstance(clients, Mapping):
        if name in clients.entries:
            line = clients.entries[name][0].line
            raise NameTakenError(ConfigFault(path, line, f"clients.{shown(name)}", "this name is taken"))
        _refuse_shared_key(clients, name, fields, path)
    edited = _inserted(body, root, name, fields, path)
    result = _root(edited, path, ours=True)
    _verify(root, result, path, name, added=True)
    _check_entry(result, path, name)
    return bom + edited


@collector_paused()
def delete_client(text: str, path: Path, name: str) -> str:
    """The file's text with a client less. Pure; ConfigError as for remove_client."""
    bom, body = without_bom(text)
    root = _root(body, path)
    clients = _clients(root, path)
    names = [key.text for key, _ in clients.pairs] if isinstance(clients, Mapping) else []
    if not isinstance(clients, Mapping) or name not in names:
        raise NoClientError(ConfigFault(path, 0, "clients", f"no client {shown(name)}", nearest(name, names)))
    if names.count(name) > 1:
        raise _by_hand(path, clients.line)
    edited = _deleted(body, root, clients, names.index(name), path)
    _verify(root, _root(edited, path, ours=True), path, name, added=False)
    return bom + edited


@collector_paused()
def delete_client_hiding(text: str, path: Path, name: str) -> str:
    """`delete_client`, and the ports that nobody but this client named are listed under `hide:` afterwards.

    A list in an unusual notation stays as it is: the right is taken away all the same, and the server, which knows
    what it has hidden, goes on hiding it.
    """
    before = _root(without_bom(text)[1], path)
    groups = parse_groups(Section(path, before, "", []), [])
    ports = without(hide_edit.named_by_it_alone(before, name, groups), hide_edit.hidden_ports(before))
    edited = delete_client(text, path, name)
    if not ports:
        return edited
    bom, body = without_bom(edited)
    root = _root(body, path, ours=True)
    wanted = merged((*hide_edit.hidden_ports(root), *ports))
    changed = _checked_hide(root, hide_edit.with_more(body, root, ports), path, wanted)
    return edited if changed is None else bom + changed


@collector_paused()
def delete_hidden(text: str, path: Path, ports: Seq[PortRange]) -> str:
    """The file's text with fewer ports under `hide:`. Pure; ConfigError as for unhide_ports."""
    bom, body = without_bom(text)
    root = _root(body, path)
    wanted = without(hide_edit.hidden_ports(root), ports)
    changed = _checked_hide(root, hide_edit.with_less(body, root, ports), path, wanted)
    if changed is None:
        raise _by_hand(path, root.entries[hide_edit.KEY][0].line, hide_edit.KEY)
    return bom + changed


def _checked_hide(old: Mapping, changed: str | None, path: Path, wanted: tuple[PortRange, ...]) -> str | None:
    """The changed text if it lists what is wanted under `hide:` and nothing else differs; None otherwise."""
    if changed is None:
        return None
    try:
        new = _root(changed, path, ours=True)
    except ConfigError:
        return None
    kept = [[pair for pair in root.pairs if pair[0].text != hide_edit.KEY] for root in (old, new)]
    twice = any(key.text == hide_edit.KEY for key in new.repeated)
    return changed if _same_pairs(*kept) and hide_edit.hidden_ports(new) == wanted and not twice else None


@collector_paused()
def set_server_keys(text: str, path: Path, values: Map[str, str | Seq[str] | None]) -> str:
    """The file's text with other values under `server:`. Pure; ConfigError as for set_server."""
    bom, body = without_bom(text)
    before = _root(body, path)
    for key, value in values.items():
        body = _with_server_key(body, _server(_root(body, path), path), key, value, path)
    after = _root(body, path, ours=True)
    old, new = _server(before, path), _server(after, path)
    kept = [[pair for pair in server.pairs if pair[0].text not in values] for server in (old, new)]
    rest = [[pair for pair in root.pairs if pair[0].text != "server"] for root in (before, after)]
    present = {key for key in values if key in new.entries}
    wanted = {key for key, value in values.items() if value is not None}
    if not _same_pairs(*kept) or not _same_pairs(*rest) or present != wanted:
        raise _by_hand(path, old.line, "server")
    return bom + body


def _server(root: Mapping, path: Path) -> Mapping:
    _, server = root.entries.get("server", (None, None))
    if not isinstance(server, Mapping) or server.flow or not server.pairs:
        raise _by_hand(path, root.line, "server")
    return server


def _with_server_key(body: str, server: Mapping, key: str, value: str | Seq[str] | None, path: Path) -> str:
    written = "" if value is None else _value(key, value)
    newline = newline_of(body)
    if key not in server.entries:
        if value is None:
            return body
        anchor = server.entries.get("private_key", server.pairs[-1])
        column = column_of(body, server.pairs[0][0].start)
        return _spliced(
            body, line_end(body, content_end(anchor[1], body)), newline, [f"{' ' * column}{key}: {written}"]
        )
    name, held = server.entries[key]
    if "\n" in body[name.start : held.end] or (not isinstance(held, Scalar) and not held.flow):
        raise _by_hand(path, name.line, "server")
    if value is not None:
        return body[: held.start] + written + body[held.end :]
    end = body.find("\n", held.end) + 1
    return body[: line_start(body, name.start)] + (body[end:] if end else "")


# ---- where things stand


def _root(text: str, path: Path, *, ours: bool = False) -> Mapping:
    """The outermost map. What does not parse after `ours`, an edit, is no fault of the file's."""
    try:
        root = compose(text, path)
    except ConfigError:
        if ours:
            raise _by_hand(path, 0) from None
        raise
    if not isinstance(root, Mapping):
        raise _fault(path, 1, "", "expected a map with 'server:', 'ports:' and 'clients:'")
    if any(key.text == "clients" for key in root.repeated):
        raise _fault(path, root.entries["clients"][0].line, "clients", "is given a second time")
    return root


def _clients(root: Mapping, path: Path) -> Node | None:
    key, value = root.entries.get("clients", (None, None))
    if key is None or value is None:
        return None
    if value.start < key.end or isinstance(value, Sequence) or (isinstance(value, Scalar) and not value.is_null):
        raise _by_hand(path, key.line)
    return value


# ---- changes


def _inserted(body: str, root: Mapping, name: str, fields: Fields, path: Path) -> str:
    clients = _clients(root, path)
    newline = newline_of(body)
    step = _step(body, root)
    if clients is None:
        if root.flow or not root.pairs or column_of(body, root.pairs[0][0].start):
            raise _by_hand(path, root.line)
        end = line_end(body, max(content_end(node, body) for pair in root.pairs[-1:] for node in pair))
        return _spliced(body, end, newline, ["clients:", *_block(name, fields, " " * step, " " * step)])
    key = root.entries["clients"][0]
    if isinstance(clients, Mapping) and clients.pairs and not clients.flow:
        first = clients.pairs[0][0]
        column = column_of(body, first.start)
        last = clients.pairs[-1]
        end = entry_end(body, max(content_end(node, body) for node in last), column)
        return _spliced(body, end, newline, _block(name, fields, " " * column, " " * _inner_step(body, clients, step)))
    if isinstance(clients, Mapping) and (clients.pairs or root.flow or "\n" in body[clients.start : clients.end]):
        if not clients.pairs:
            return f"{body[: clients.start + 1]}{_flow(name, fields)}{body[clients.start + 1 :]}"
        end = max(content_end(node, body) for node in clients.pairs[-1])
        return f"{body[:end]}, {_flow(name, fields)}{body[end:]}"
    if root.flow:
        return f"{body[: clients.start]} {{{_flow(name, fields)}}}{body[clients.end :]}"
    # `clients:`, `clients: null` or `clients: {}` on one line become the head of a block.
    start = clients.start
    while body[start - 1] == " ":
        start -= 1
    body = body[:start] + body[clients.end :]
    indent = " " * (column_of(body, key.start) + step)
    return _spliced(body, line_end(body, start), newline, _block(name, fields, indent, " " * step))


def _deleted(body: str, root: Mapping, clients: Mapping, index: int, path: Path) -> str:
    key, value = clients.pairs[index]
    value_end = max(content_end(value, body), key.end)
    if clients.flow:
        if index + 1 < len(clients.pairs):
            return body[: key.start] + body[clients.pairs[index + 1][0].start :]
        if index:
            return body[: max(content_end(n, body) for n in clients.pairs[index - 1])] + body[value_end:]
        return body[: key.start] + body[value_end:].lstrip(" ").removeprefix(",")
    start = line_start(body, key.start)
    if body[start : key.start].strip(" "):
        raise _by_hand(path, key.line)
    end = entry_end(body, value_end, key.start - start)
    if end < len(body):
        end = body.index("\n", end) + 1
    elif start:  # the last line of a file without a final line break: the break above goes
        start -= 2 if body[:start].endswith("\r\n") else 1
    if len(clients.pairs) > 1:
        return body[:start] + body[end:]
    colon = body.index(":", root.entries["clients"][0].end) + 1
    return f"{body[:colon]} {{}}{body[colon:start]}{body[end:]}"


def _spliced(body: str, end: int, newline: str, lines: list[str]) -> str:
    return f"{body[:end]}{newline}{newline.join(lines)}{body[end:]}"


def _step(body: str, root: Mapping) -> int:
    """How far the file indents what stands below a top-level key."""
    for _, value in root.pairs:
        if isinstance(value, Mapping) and value.pairs and not value.flow:
            return max(column_of(body, value.pairs[0][0].start) - column_of(body, root.pairs[0][0].start), 1)
    return 2


def _inner_step(body: str, clients: Mapping, default: int) -> int:
    for key, value in clients.pairs:
        if isinstance(value, Mapping) and value.pairs and not value.flow and value.start > key.start:
            return max(column_of(body, value.pairs[0][0].start) - column_of(body, key.start), 1)
    return default


def _value(key: str, value: str | Seq[str]) -> str:
    if not isinstance(value, str):
        return flow_list(value)
    return value if key in FLAGS and value in ("true", "false") else quote(value)


def _block(name: str, fields: Fields, indent: str, step: str) -> list[str]:
    return [f"{indent}{quote(name)}:", *(f"{indent}{step}{key}: {_value(key, v)}" for key, v in fields.items())]


def _flow(name: str, fields: Fields) -> str:
    return f"{quote(name)}: {{{', '.join(f'{key}: {_value(key, v)}' for key, v in fields.items())}}}"


# ---- checks


def _same(one: Node, other: Node) -> bool:
    """Whether two values mean the same. Their depth and size are bounded by compose."""
    if isinstance(one, Scalar):
        return isinstance(other, Scalar) and one.text == other.text and one.plain == other.plain
    if isinstance(one, Sequence):
        return (
            isinstance(other, Sequence)
            and len(one.items) == len(other.items)
            and all(starmap(_same, zip(one.items, other.items, strict=True)))
        )
    return isinstance(other, Mapping) and _same_pairs(one.pairs, other.pairs)


def _same_pairs(one: Seq[tuple[Scalar, Node]], other: Seq[tuple[Scalar, Node]]) -> bool:
    return len(one) == len(other) and all(
        a.text == b.text and a.plain == b.plain and _same(x, y) for (a, x), (b, y) in zip(one, other, strict=True)
    )


def _verify(old: Mapping, new: Mapping, path: Path, name: str, *, added: bool) -> None:
    def rest(root: Mapping) -> list[tuple[Scalar, Node]]:
        return [pair for pair in root.pairs if pair[0].text != "clients"]

    def others(root: Mapping) -> list[tuple[Scalar, Node]]:
        _, value = root.entries.get("clients", (None, None))
        return [pair for pair in value.pairs if pair[0].text != name] if isinstance(value, Mapping) else []

    _, clients = new.entries.get("clients", (None, None))
    there = isinstance(clients, Mapping) and name in clients.entries
    if there != added or not _same_pairs(rest(old), rest(new)) or not _same_pairs(others(old), others(new)):
        raise _by_hand(path, old.line)


def _check_entry(root: Mapping, path: Path, name: str) -> None:
    clients = root.entries["clients"][1]
    key, value = clients.entries[name] if isinstance(clients, Mapping) else (None, None)
    if key is None or not isinstance(value, Mapping):
        raise _by_hand(path, root.line)
    faults: list[ConfigFault] = []
    section = Section(path, root, "", faults)
    groups = parse_groups(section, faults)
    around = Surroundings(path, groups)
    if (server := section.section("server")) is not None:
        settings = Section(path, server, "server", [], known=names(SERVER_KEYS))
        around = around_clients(path, groups, read_keys(SERVER_KEYS, settings, Surroundings(path)), [])
    if faults:
        raise ConfigError(*faults)
    try:
        parse_client_entry(name, key.line, value, around)
    except ConfigError as error:
        # The line is one of the text that was never written.
        raise ConfigError(*(ConfigFault(f.path, 0, f.key, f.message, f.hint) for f in error.faults)) from None


def _refuse_shared_key(clients: Mapping, name: str, fields: Fields, path: Path) -> None:
    new = _raw_key(fields.get("ed25519_pubkey"))
    if new is None:
        return
    for key, value in clients.pairs:
        for field, held in value.pairs if isinstance(value, Mapping) else ():
            if field.text != "ed25519_pubkey" or not isinstance(held, Scalar) or (old := _raw_key(held.text)) is None:
                continue
            if old == new:
                message = f"expected a key of its own: client {shown(key.text)} has the same"
                other = shlex.quote(key.text)
                hint = (
                    f"{shown(key.text)} knocks with it already: openme renew {other} prints its file again; to register"
                    f" it as {name}: openme revoke {other} first"
                )
                raise _fault(path, key.line, "clients", message, hint)
            if key_id_of(old) == key_id_of(new):
                message = f"expected a key with a key id of its own: that of client {shown(key.text)} has the same"
                raise _fault(path, key.line, "clients", message, "make another key")


def _raw_key(text: str | Seq[str] | None) -> bytes | None:
    """The 32 bytes of a key in either notation, unchecked: the point itself is checked once, for the new client."""
    words = text.split() if isinstance(text, str) else []
    try:
        return base64.b64decode(words[1] if len(words) > 1 else words[0], validate=True)[-32:] if words else None
    except (binascii.Error, ValueError):
        return None


def _fault(path: Path, line: int, key: str, message: str, hint: str | None = None) -> ConfigError:
    return ConfigError(ConfigFault(path, line, key, message, hint))


def _by_hand(path: Path, line: int, key: str = "clients") -> ConfigError:
    return _fault(path, line, key, "cannot be edited safely: the notation is unusual; nothing changed", _BY_HAND)
