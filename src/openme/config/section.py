"""Typed access to one map of a file; every fault is collected with its line, key and what was expected."""

import re
from collections.abc import Callable, Collection, Iterable
from math import inf
from pathlib import Path
from typing import Any, TypeVar

from openme.closest import closest
from openme.config.faults import ConfigError, ConfigFault
from openme.config.nodes import Mapping, Node, Scalar, Sequence
from openme.durations import format_duration, parse_duration
from openme.keys.ed25519 import KeyTextError
from openme.visible import is_visible

T = TypeVar("T")

_TRUE = frozenset(("true", "yes", "on", "y"))
_FALSE = frozenset(("false", "no", "off", "n"))
_WHOLE = re.compile(r"0|[1-9][0-9]{0,11}", re.ASCII)
_MAX_SHOWN = 40
_A_NOTE = "remove it; to keep it as a note, make the line a comment: put # before it"


def shown(name: str) -> str:
    """A name from the file as an error may repeat it: not if it could be a key that was pasted in the wrong place."""
    if is_visible(name) and name and len(name) <= _MAX_SHOWN and not (len(name) > 16 and set(name) & set("+/=")):
        return name
    return "(not shown)"


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The hint `did you mean …?` with the known name closest to `name`, if one is close."""
    folded = {k.lower(): k for k in known}
    written = name.lower()
    for candidate, original in folded.items():
        if len(candidate) > 1 and written.startswith(candidate):
            return f"did you mean {original}?"
    close = closest(written, folded)
    return None if close is None else f"did you mean {folded[close]}?"


class Section:
    """One map and the way to it. Getters give None or the default for what is absent, null or at fault.

    Existing tools write empty values (`interface: ""`, `expires: null`) for what is not set, so both count as absent,
    except for the keys in `never_null`: those narrow what a client may do, and an empty one must not widen it.
    """

    def __init__(
        self,
        path: Path,
        node: Mapping,
        key: str,
        faults: list[ConfigFault],
        *,
        known: Collection[str] | None = None,
        never_null: Collection[str] = (),
        line: int | None = None,
    ) -> None:
        self.path = path
        self.line = node.line if line is None else line  # a block's own line is that of its first key
        self.key = key
        self.faults = faults
        self.entries = node.entries
        self.values: dict[str, Any] = {}
        """What has been read of it, by key (`keys.read_keys`)."""
        for repeated in node.repeated:
            self.fault_at(repeated.text, repeated.line, "is given a second time")
        for name, (key_node, value) in self.entries.items():
            if known is not None and name not in known:
                self.fault_at(name, key_node.line, "unknown key", nearest(name, known) or _A_NOTE)
            elif name in never_null and isinstance(value, Scalar) and (value.is_null or not value.text):
                self.fault_at(name, key_node.line, "expected a value; to lift the restriction remove the line")

    def fault_at(self, name: str, line: int, message: str, hint: str | None = None) -> None:
        """Note a fault in the value of `name`, on a line of its own."""
        key = ".".join(part for part in (self.key, shown(name) if name else "") if part)
        self.faults.append(ConfigFault(self.path, line, key, message, hint))

    def fault(self, name: str, message: str, hint: str | None = None) -> None:
        """Note a fault in the value of `name`, or in its absence."""
        self.fault_at(name, self.line_of(name), message, hint)

    def line_of(self, name: str) -> int:
        """The line on which `name` stands, or where this section begins."""
        return self.entries[name][0].line if name in self.entries else self.line

    def node(self, name: str) -> Node | None:
        """What stands behind `name`; None where that is nothing."""
        pair = self.entries.get(name)
        if pair is None or (isinstance(pair[1], Scalar) and pair[1].is_null):
            return None
        return pair[1]

    def scalar(self, name: str, expected: str) -> Scalar | None:
        """A single value; None if absent, null or empty."""
        node = self.node(name)
        if node is None or (isinstance(node, Scalar) and not node.text):
            return None
        if not isinstance(node, Scalar):
            self.fault(name, f"expected {expected}")
            return None
        return node

    def text(
        self, name: str, expected: str = "text", pattern: str = r"[^\x00-\x1f\x7f]+", *, invisible: bool = False
    ) -> str | None:
        """A value that matches `pattern` in full, without a character that cannot be seen unless `invisible`."""
        node = self.scalar(name, expected)
        if node is None:
            return None
        if re.fullmatch(pattern, node.text) is None or not (invisible or is_visible(node.text)):
            self.fault(name, f"expected {expected}")
            return None
        return node.text

    def parsed(self, name: str, expected: str, parser: Callable[[str], T]) -> T | None:
        """A value that `parser` understands; its KeyTextError speaks for itself, of any other ValueError we do."""
        node = self.scalar(name, expected)
        if node is None:
            return None
        try:
            return parser(node.text)
        except KeyTextError as error:
            self.fault(name, str(error))
        except ValueError:
            self.fault(name, f"expected {expected}")
        return None

    def flag(self, name: str, *, default: bool) -> bool:
        """`true` or `false`, unquoted, in any of YAML 1.1's spellings."""
        node = self.scalar(name, "true or false")
        if node is None:
            return default
        word = node.text.lower()
        if not node.plain or (word not in _TRUE and word not in _FALSE):
            self.fault(name, "expected true or false")
            return default
        return word in _TRUE

    def whole(self, name: str, default: int, lowest: int, highest: int) -> int:
        """A whole number in decimal, from `lowest` to `highest`."""
        expected = f"a number from {lowest} to {highest}"
        node = self.scalar(name, expected)
        if node is None:
            return default
        if not node.plain or not _WHOLE.fullmatch(node.text) or not lowest <= int(node.text) <= highest:
            self.fault(name, f"expected {expected}")
            return default
        return int(node.text)

    def duration(self, name: str, longest: float = inf) -> float | None:
        """A duration in seconds, at most `longest`."""
        seconds = self.parsed(name, "a duration such as 30s, 1m30s, 2h or 7d", parse_duration)
        if seconds is not None and seconds > longest:
            self.fault(name, f"expected at most {format_duration(longest)}")
            return None
        return seconds

    def choice(self, name: str, default: str, known: Collection[str]) -> str:
        """One of the words in `known`."""
        expected = "one of " + ", ".join(known)
        node = self.scalar(name, expected)
        if node is None:
            return default
        if node.text not in known:
            self.fault(name, f"expected {expected}", nearest(node.text, known))
            return default
        return node.text

    def items(self, name: str, expected: str) -> list[Scalar] | None:
        """A list of single values; None if absent or null."""
        node = self.node(name)
        if node is None:
            return None
        if not isinstance(node, Sequence):
            self.fault(name, f"expected a list such as {expected}")
            return None
        result = []
        for item in node.items:
            if isinstance(item, Scalar) and item.text:
                result.append(item)
            else:
                self.fault_at(name, item.line, f"expected single values such as {expected}")
        return result

    def words(self, name: str, default: frozenset[str], known: Collection[str]) -> frozenset[str]:
        """A list of words out of `known`, at least one."""
        example = f"[{', '.join(known)}]"
        items = self.items(name, example)
        if items is None:
            return default
        if not items:
            self.fault(name, f"expected at least one of {example}")
        for item in items:
            if item.text not in known:
                self.fault_at(name, item.line, f"expected one of {example}")
        return frozenset(item.text for item in items)

    def section(self, name: str) -> Mapping | None:
        """A map below this one; None if absent or null."""
        node = self.node(name)
        if node is None:
            return None
        if not isinstance(node, Mapping):
            self.fault(name, "expected a map of names to values")
            return None
        return node


def root_section(node: Node | None, path: Path, faults: list[ConfigFault], known: Collection[str]) -> Section:
    """The file's outermost map; ConfigError if it is something else or nothing."""
    if not isinstance(node, Mapping):
        line = 1 if node is None else node.line
        wanted = " and ".join(f"'{k}:'" for k in known)
        raise ConfigError(ConfigFault(path, line, "", f"expected a map with {wanted}"))
    return Section(path, node, "", faults, known=known)
