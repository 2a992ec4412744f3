"""What a key of the config is: one row, from which all that knows the keys follows (decision 0020).

The rows stand in `server_keys.py` and `profile_keys.py`: two modules, since a knock must not load what the server's
file needs. The parser reads them (`read_keys`), `init` writes them, a running server asks them what waits for its
restart and which of a client's is a right, and the tables of docs/configuration.md are theirs.
"""

from collections.abc import Callable, Collection, Iterable
from math import inf
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from openme.config.faults import ConfigFault
from openme.config.profile_model import WIRE_VERSIONS
from openme.config.section import Section
from openme.durations import parse_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from openme.config.rights import Comparison
    from openme.ports import PortRange


class Prefixes(NamedTuple):
    """How long the prefixes are of the networks that doors are for."""

    v4: int = 32
    v6: int = 128


ONE_ADDRESS = Prefixes()


class Surroundings:
    """What a section refers to outside itself. Lines about what works but may surprise are added to `notes`.

    `overrides`: values by key that stand above what the section says.
    """

    def __init__(  # noqa: PLR0917  # what it holds
        self,
        path: Path,
        groups: "Mapping[str, tuple[PortRange, ...]]" = MappingProxyType({}),
        protocols: frozenset[str] = frozenset(WIRE_VERSIONS),
        notes: list[str] | None = None,
        prefixes: Prefixes = ONE_ADDRESS,
        overrides: "Mapping[str, Any]" = MappingProxyType({}),
    ) -> None:
        self.path, self.groups, self.protocols, self.prefixes = path, groups, protocols, prefixes
        self.overrides = overrides
        self.notes: list[str] = [] if notes is None else notes

    def note(self, section: Section, name: str, message: str) -> None:
        """Say something about the value of `name`, in the words of a fault."""
        line = section.line_of(name)
        self.notes.append(str(ConfigFault(section.path, line, f"{section.key}.{name}", message)))


class Key(NamedTuple):
    """One key of a section: a tuple, since every start makes this class; written by keyword.

    `read` gives the checked value and adds faults to the section; it may ask `section.values` for what the rows above
    have read. `default` is the value of an absent key as one writes it in the file; where there is none, `absent` says
    in Markdown what holds then. `help` is Markdown for the reference. `needs_restart`: a running server keeps the value
    that it began with. `narrows`: an empty value is a fault, since it would widen what a client may do.
    `wider(old, new)` says what one entry allows more than another by this key, beginning with its name, or None: a key
    that has it is a right.

    In the file that `init` writes, the key stands below `comment`, if that is not None: with what `init` was told, else
    with `initial`, else with the default, else as a comment with `example`.
    """

    name: str
    read: "Reader"
    help: str
    default: str | None = None
    absent: str = "none"
    needs_restart: bool = False
    narrows: bool = False
    wider: "Comparison | None" = None
    comment: str | None = None
    initial: str | None = None
    example: str = ""


Keys = tuple[Key, ...]
Reader = Callable[[Section, Key, Surroundings], Any]


def names(keys: Iterable[Key]) -> tuple[str, ...]:
    """The keys' names, in the order of the table."""
    return tuple(key.name for key in keys)


def read_keys(keys: Keys, section: Section, around: Surroundings) -> dict[str, Any]:
    """The values of a section by name: each key read, in the order of the table, whether or not it is overridden."""
    values = section.values
    for key in keys:
        written = key.read(section, key, around)
        values[key.name] = around.overrides.get(key.name, written)
    return values


# -- readers that more than one key has


def flag(section: Section, key: Key, _around: Surroundings) -> bool:
    """`true` or `false`."""
    return section.flag(key.name, default=key.default == "true")


def whole(lowest: int, highest: int) -> Reader:
    """A number from `lowest` to `highest`."""
    return lambda section, key, _around: section.whole(key.name, int(key.default or 0), lowest, highest)


def duration(longest: float = inf) -> Reader:
    """Seconds, at most `longest`; None if absent and without a default."""

    def read(section: Section, key: Key, _around: Surroundings) -> float | None:
        default = None if key.default is None else parse_duration(key.default)
        return section.duration(key.name, longest) or default

    return read


def choice(known: Collection[str]) -> Reader:
    """One of the words in `known`; None if absent and without a default."""
    return lambda section, key, _around: section.choice(key.name, key.default or "", known) or None


def text(expected: str, pattern: str = r"[^\x00-\x1f\x7f]+", *, invisible: bool = False) -> Reader:
    """A text that `pattern` matches in full; `expected` is what a fault says."""
    return lambda section, key, _: section.text(key.name, expected, pattern, invisible=invisible) or key.default


def parsed(expected: str, parser: Callable[[str], object]) -> Reader:
    """What `parser` makes of a text; None if absent or at fault."""
    return lambda section, key, _around: section.parsed(key.name, expected, parser)
