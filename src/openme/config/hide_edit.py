"""The list `hide:` in the text of the server's file: ports that are hidden though no group or client names them.

Pure: text and tree in, text out. Lines change and every other byte stays. None stands for a notation too unusual to
be edited by these rules; the caller compares each result with what was there before.
"""

import re
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as Map
from collections.abc import Sequence as Seq

from openme.config.nodes import Mapping, Scalar, Sequence
from openme.config.scalars import flow_list, quote
from openme.config.text_places import line_end, line_start, newline_of
from openme.ports import PortRange, merged, parse_port_spec, without

KEY = "hide"
_ITEM = re.compile(r" *- +")


def hidden_ports(root: Mapping) -> tuple[PortRange, ...]:
    """What `hide:` lists, as far as it can be read, merged."""
    _, value = root.entries.get(KEY, (None, None))
    items = value.items if isinstance(value, Sequence) else ()
    return merged(r for item in items if isinstance(item, Scalar) for r in _ranges(item.text))


def named_by_it_alone(root: Mapping, name: str, groups: Map[str, tuple[PortRange, ...]]) -> tuple[PortRange, ...]:
    """The ports that the entry of client `name` lists itself, and that no group and no other entry names."""
    _, clients = root.entries.get("clients", (None, None))
    own: list[PortRange] = []
    others = [r for group in groups.values() for r in group]
    for key, entry in clients.pairs if isinstance(clients, Mapping) else ():
        (own if key.text == name else others).extend(_listed(entry, groups) if isinstance(entry, Mapping) else ())
    return without(own, others)


def _listed(entry: Mapping, groups: Map[str, tuple[PortRange, ...]]) -> Iterator[PortRange]:
    _, listed = entry.entries.get("allowed_ports", (None, None))
    for item in listed.items if isinstance(listed, Sequence) else ():
        if isinstance(item, Scalar) and item.text not in groups:
            yield from _ranges(item.text)


def _ranges(text: str) -> tuple[PortRange, ...]:
    try:
        return parse_port_spec(text)
    except ValueError:
        return ()


def with_more(body: str, root: Mapping, ports: Iterable[PortRange]) -> str | None:
    """The text with these ports behind those that are listed; a new list stands above `clients:`."""
    specs = [str(item) for item in ports]
    key, value = root.entries.get(KEY, (None, None))
    if key is None or value is None:
        return _with_new_list(body, root, specs)
    if value.anchored or value.start < key.end:
        return None
    if isinstance(value, Scalar):
        if not value.is_null:
            return None
        if value.text:
            return body[: value.start] + flow_list(specs) + body[value.end :]
        colon = body.index(":", key.end) + 1
        return f"{body[:colon]} {flow_list(specs)}{body[colon:]}"
    if not isinstance(value, Sequence):
        return None
    if value.flow:
        texts = ", ".join(map(quote, specs))
        if not value.items:
            return body[: value.start + 1] + texts + body[value.start + 1 :]
        end = value.items[-1].end
        return f"{body[:end]}, {texts}{body[end:]}"
    last = value.items[-1] if value.items else None
    if not isinstance(last, Scalar) or (dash := _ITEM.match(body, line_start(body, last.start))) is None:
        return None
    end = line_end(body, last.end)
    return body[:end] + "".join(f"{newline_of(body)}{dash[0]}{quote(spec)}" for spec in specs) + body[end:]


def with_less(body: str, root: Mapping, ports: Iterable[PortRange]) -> str | None:
    """The text with these ports taken off the list; of a range that holds some of them the rest stays."""
    ports = tuple(ports)
    _, value = root.entries.get(KEY, (None, None))
    if value is None or (isinstance(value, Scalar) and value.is_null):
        return body
    if not isinstance(value, Sequence) or value.anchored:
        return None
    scalars = [item for item in value.items if isinstance(item, Scalar) and not item.anchored]
    if len(scalars) != len(value.items):
        return None
    kept = [_kept(body, item, ports) for item in scalars]
    if not value.flow:
        for item, texts in reversed(list(zip(scalars, kept, strict=True))):
            changed = _with_item(body, item, texts)
            if changed is None:
                return None
            body = changed
        return body
    if "\n" in body[value.start : value.end]:
        return None
    return f"{body[: value.start]}[{', '.join(text for texts in kept for text in texts)}]{body[value.end :]}"


def _kept(body: str, item: Scalar, ports: tuple[PortRange, ...]) -> list[str]:
    """What an item becomes: itself as it is written, nothing, or the specs that are left of it."""
    ranges = merged(_ranges(item.text))
    left = without(ranges, ports)
    return [body[item.start : item.end]] if left == ranges else [quote(str(r)) for r in left]


def _with_item(body: str, item: Scalar, texts: Seq[str]) -> str | None:
    start, end = line_start(body, item.start), line_end(body, item.end)
    dash = _ITEM.match(body, start)
    if dash is None or dash.end() != item.start:
        return None
    if not texts:
        following = body.find("\n", end) + 1
        return body[:start] + (body[following:] if following else "")
    more = "".join(f"{newline_of(body)}{dash[0]}{text}" for text in texts[1:])
    return body[: item.start] + texts[0] + body[item.end : end] + more + body[end:]


def _with_new_list(body: str, root: Mapping, specs: Seq[str]) -> str | None:
    key, _ = root.entries.get("clients", (None, None))
    if key is None or root.flow or (start := line_start(body, key.start)) != key.start:
        return None
    # Comment lines right above `clients:` are about the clients.
    while start and body.startswith("#", above := line_start(body, start - 1)):
        start = above
    newline = newline_of(body)
    return f"{body[:start]}{KEY}: {flow_list(specs)}{newline}{newline}{body[start:]}"
