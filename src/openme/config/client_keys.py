"""The public keys that a file gives a client, also in a file that does not load."""

import os
from pathlib import Path

from openme.collector import collector_paused
from openme.config.files import open_regular, read_text
from openme.config.nodes import Mapping, Scalar, compose
from openme.keys.ed25519 import KeyTextError, parse_public_key


@collector_paused()
def client_keys(path: Path, name: str) -> frozenset[bytes]:
    """The 32-byte keys of every entry called `name` below `clients:`, faulty and doubled ones included.

    Empty where there is no such entry, or none with a key that could be in force. ConfigError if the file cannot be
    read or is not YAML.
    """
    descriptor = open_regular(path, "run: openme init --server HOST")
    try:
        text = read_text(descriptor, path)
    finally:
        os.close(descriptor)
    root = compose(text.removeprefix("\ufeff"), path)
    found = set()
    for clients in _values(root, "clients"):
        for entry in _values(clients, name):
            for key in _values(entry, "ed25519_pubkey"):
                try:
                    found.add(parse_public_key(key.text if isinstance(key, Scalar) else "").raw)
                except KeyTextError:
                    continue
    return frozenset(found)


def _values(node: object, name: str) -> list[object]:
    """All values with this name in a map; also one that a merge key `<<` brings."""
    if not isinstance(node, Mapping):
        return []
    own: list[object] = [value for key, value in node.pairs if key.text == name]
    return own or [value for key, (_, value) in node.entries.items() if key == name]
