"""The text of the state file, and of an answer that tells who is in (spec config.md, `serve`)."""

import json
import zlib
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from heapq import merge
from itertools import islice
from typing import Any, NamedTuple, Self

from openme.firewall.base import Steps, T
from openme.keeper.grants import Grant
from openme.moments import rfc3339
from openme.ports import PortRange

_AT_ONCE = 100  # sessions or names of one step
_SORTED_AT_ONCE = 2000
_PIECE_SIZE = 1 << 16
_PACKED_FROM = 2000  # bytes of a block
_SECONDS = 1024  # whose text is known without being made anew


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
        "ports": _ports(grant.ports),
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


class _Block(NamedTuple):
    """Some lines of one client. Many are packed: they are so alike that a tenth of their size is left."""

    content: bytes
    is_packed: bool

    @classmethod
    def of(cls, text: str) -> Self:
        """These lines."""
        plain = text.encode()
        is_packed = len(plain) >= _PACKED_FROM
        return cls(zlib.compress(plain, 1) if is_packed else plain, is_packed)

    def text(self) -> bytes:
        """The lines."""
        return zlib.decompress(self.content) if self.is_packed else self.content


class _OfClient(NamedTuple):
    """The lines about a client."""

    name: str
    blocks: tuple[_Block, ...]


class StateLines:
    """The state file's text as blocks of lines, of which only those of clients who have changed are made anew."""

    def __init__(self) -> None:
        self._sessions: dict[bytes, _OfClient] = {}
        self._in_order: list[tuple[str, bytes]] = []  # the same clients, by name and key
        self._seen: list[tuple[str, str]] = []  # name and line, in their order
        self._seen_line: dict[str, str] = {}

    def change(self, client_key: bytes, grants: Sequence[Grant]) -> Steps[None]:
        """These are the client's grants now."""
        lines = _session_lines(sorted((str(grant.named), number, grant) for number, grant in enumerate(grants)))
        blocks: list[_Block] = []
        while some := list(islice(lines, _AT_ONCE)):
            blocks.append(_Block.of(",\n".join(some)))
            yield
        if (before := self._sessions.pop(client_key, None)) is not None:
            del self._in_order[bisect_left(self._in_order, (before.name, client_key))]
        if blocks:
            name = grants[0].client_name
            self._sessions[client_key] = _OfClient(name, tuple(blocks))
            insort(self._in_order, (name, client_key))

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

    def pieces(self, now: float, rest: str) -> Iterator[bytes]:
        """The text as `json_text` makes it of `sessions_value` and more, in pieces; between them nothing may change.

        `rest`: the text of what stands there besides, as `json_text` makes it. The order is that of the names, and of
        a client's addresses.
        """
        yield f'{{\n "updated_at": {json.dumps(rfc3339(now))},\n'.encode()
        blocks = (block for _, client_key in self._in_order for block in self._sessions[client_key].blocks)
        yield from _listed("active_sessions", "[]", (block.text() for block in blocks))
        yield from _listed("last_seen", "{}", (line.encode() for _, line in self._seen))
        yield rest[len("{\n") :].encode()


def _listed(name: str, brackets: str, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """A key of the text with its list or mapping, whose lines these are."""
    between = f' "{name}": {brackets[0]}\n'.encode()
    piece: list[bytes] = []
    size = 0
    for block in blocks:
        piece += between, block
        size += len(block)
        between = b",\n"
        if size >= _PIECE_SIZE:
            yield b"".join(piece)
            piece.clear()
            size = 0
    piece.append(f"\n {brackets[1]},\n".encode() if between == b",\n" else f' "{name}": {brackets},\n'.encode())
    yield b"".join(piece)


def _session_lines(grants: Iterable[tuple[str, int, Grant]]) -> Iterator[str]:
    """`_session` of each (address, a number, grant) as a line of JSON, at a quarter of the price where they are one
    client's: what many of them say is made once.
    """
    last: Grant | None = None
    name = ports = ""
    for address, _, grant in grants:
        if last is None or grant.client_name != last.client_name or grant.ports is not last.ports:
            name, ports = json.dumps(grant.client_name), json.dumps(_ports(grant.ports))
        network = "" if grant.network is None else f'"network": "{grant.network}", '
        opened_at, expires_at = _second(int(grant.opened_at)), _second(int(grant.expires_at))
        yield (
            f'  {{"client_name": {name}, "ip": "{address}", {network}"ports": {ports}, '
            f'"opened_at": "{opened_at}", "expires_at": "{expires_at}"}}'
        )
        last = grant


_second = lru_cache(_SECONDS)(rfc3339)


def _ports(ports: Iterable[PortRange]) -> list[dict[str, Any]]:
    return [{"port": item.first, "proto": item.proto, "end_port": item.last} for item in ports]
