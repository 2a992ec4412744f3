"""The wire versions that there are."""

from collections.abc import Collection

from openme.wire import v1, v2
from openme.wire.base import Keys, Version

VERSIONS: tuple[Version, ...] = (v2.WIRE, v1.WIRE)
"""In the order in which a packet is tried, a flood worked on (spec wire-v2.md "Both versions on one port"), and a
client that has the keys for several chooses.
"""
_BY_NUMBER = {version.number: version for version in VERSIONS}
_BY_NAME = {version.name: version for version in VERSIONS}


def names() -> tuple[str, ...]:
    """What a config calls them, the oldest first."""
    return tuple(version.name for version in sorted(VERSIONS, key=lambda version: version.number))


def by_name(name: str) -> Version:
    """The version that a config calls so. KeyError for one that there is not."""
    return _BY_NAME[name]


def by_number(number: int) -> Version | None:
    """The version with this number in a frame."""
    return _BY_NUMBER.get(number)


def opened_by(keys: Keys, names: Collection[str]) -> bool:
    """Whether one of the versions called so is opened by keys of this sort."""
    return any(version.keys is keys and version.name in names for version in VERSIONS)


def overwrite_traces() -> None:
    """What every version has for when an epoch's key is forgotten."""
    for version in VERSIONS:
        version.overwrite_traces()
