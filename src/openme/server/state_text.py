"""The text of the state file, and of an answer that tells who is in (spec config.md, `serve`)."""

import json
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Mapping
from heapq import merge
from itertools import islice
from typing import Any

from openme.firewall.base import Steps, T
from openme.keeper.grants import Grant, GrantKey
from openme.moments import rfc3339

_AT_ONCE = 100  # sessions or names of one step
_SORTED_AT_ONCE = 2000
_JOINED_AT_ONCE = 5000


def sessions_value(grants: Iterable[Grant], last_seen: Mapping[str, float], now: float) -> Steps[dict[str, Any]]:
    """The state file's content: `updated_at`, `active_sessions`, `last_seen`."""
    found: list[tuple[str, str, dict[str, Any]]] = []
    for grant in grants:
        address = str(grant.named)
        found.append((grant.client_name, address, _session(grant, address)))
        if len(found) % _AT_ONCE == 0:
            yield
    sessions = [session for _, _, session in (yield from _sorted(found, lambda item: item[:2]))]
    yield
    seen: dict[str, str] = {}
    for name, at in (yield from _sorted(list(last_seen.items()), lambda item: item[0])):
        seen[name] = rfc3339(at)
        if len(seen) % _AT_ONCE == 0:
            yield
    return {
        "updated_at": rfc3339(now),
        "active_sessions": sessions,
        "last_seen": seen,
    }


def _sorted(items: list[T], key: Callable[[T], Any]) -> Steps[list[T]]:
    """The items in the order of their keys."""
    runs = []
    for start in range(0, len(items), _SORTED_AT_ONCE):
        runs.append(sorted(items[start : start + _SORTED_AT_ONCE], key=key))
        yield
    made: list[T] = []
    for item in merge(*runs, key=key):
        made.append(item)
        if len(made) % _SORTED_AT_ONCE == 0:
            yield
    return made


def _session(grant: Grant, address: str) -> dict[str, Any]:
    network = {} if grant.network is None else {"network": str(grant.network)}
    return {
        "client_name": grant.client_name,
        "ip": address,
        **network,
        "ports": [{"port": p.first, "proto": p.proto, "end_port": p.last} for p in grant.ports],
        "opened_at": rfc3339(grant.opened_at),
        "expires_at": rfc3339(grant.expires_at),
    }


def json_text(value: Mapping[str, Any]) -> Steps[str]:
    """The value as JSON: a line for each of its keys, and for each item of a list or mapping that it holds.

    Its lists are empty afterwards: to let go of tens of thousands of items in one go takes its time too.
    """
    parts: list[str] = []
    for key, item in value.items():
        if isinstance(item, list):
            item.reverse()
            lines, brackets = (json.dumps(item.pop()) for _ in range(len(item))), "[]"
        elif isinstance(item, Mapping):
            lines, brackets = (f"{json.dumps(name)}: {json.dumps(inner)}" for name, inner in item.items()), "{}"
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(item)}")
            continue
        texts: list[str] = []
        for line in lines:
            texts.append(f"  {line}")
            if len(texts) % _AT_ONCE == 0:
                yield
        inside = ",\n".join(texts)
        parts.append(f" {json.dumps(key)}: {brackets[0]}" + (f"\n{inside}\n " if texts else "") + brackets[1])
    return "{\n" + ",\n".join(parts) + "\n}\n"


class StateLines:
    """The state file's text, of which only what has changed since the last time is made anew."""

    def __init__(self) -> None:
        # Name, address that was knocked for, client key, door's address, line; in their order.
        self._sessions: list[tuple[str, str, bytes, str, str]] = []
        self._session_of: dict[GrantKey, tuple[str, str, bytes, str]] = {}
        self._seen: list[tuple[str, str]] = []  # name and line, in their order
        self._seen_line: dict[str, str] = {}

    def change(self, key: GrantKey, grant: Grant | None) -> None:
        """Whoever the key names has this grant now."""
        if (before := self._session_of.pop(key, None)) is not None:
            del self._sessions[bisect_left(self._sessions, before)]  # a part of it comes before it
        if grant is not None:
            address = str(grant.named)
            place = (grant.client_name, address, grant.client_key, str(grant.address))
            self._session_of[key] = place
            insort(self._sessions, (*place, f"  {json.dumps(_session(grant, address))}"))

    def saw(self, name: str, at: float) -> None:
        """The client with this name has knocked, at this Unix time."""
        if (before := self._seen_line.get(name)) is not None:
            del self._seen[bisect_left(self._seen, (name, before))]
        line = self._seen_line[name] = f"  {json.dumps(name)}: {json.dumps(rfc3339(at))}"
        insort(self._seen, (name, line))

    def forget_seen(self) -> None:
        """Names may be others' from now on."""
        self._seen.clear()
        self._seen_line.clear()

    def text(self, now: float, rest: Mapping[str, Any]) -> Steps[str]:
        """As `json_text` makes it of `sessions_value` and the `rest`. In steps between which nothing may change."""
        parts = [f' "updated_at": {json.dumps(rfc3339(now))}']
        for name, brackets, lines in (
            ("active_sessions", "[]", (line for *_, line in self._sessions)),
            ("last_seen", "{}", (line for _, line in self._seen)),
        ):
            texts: list[str] = []
            while part := list(islice(lines, _JOINED_AT_ONCE)):
                texts.append(",\n".join(part))
                yield
            inside = ",\n".join(texts)
            parts.append(f' "{name}": {brackets[0]}' + (f"\n{inside}\n " if texts else "") + brackets[1])
        text = yield from json_text(rest)
        return "{\n" + ",\n".join(parts) + "," + text[1:]
