"""The registered clients, and which of them signed a knock."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from openme.config.client_index import ClientIndex
from openme.config.model import ClientEntry, DisabledClient
from openme.keys.ed25519 import ClientPublicKey


class Registry:
    """The clients of one config, immutable; a changed config makes a new registry."""

    def __init__(self, clients: Iterable[ClientEntry] | ClientIndex, disabled: Iterable[DisabledClient] = ()) -> None:
        """`disabled`: clients that open nothing, a bounded number, named in the log when they knock."""
        self._index = clients if isinstance(clients, ClientIndex) else ClientIndex(clients)
        # Of two entries with one key the first is named: a packet is compared with each key once.
        self._disabled = {client.public_key.raw: client for client in reversed(tuple(disabled))}
        self._disabled_by_id: dict[bytes, list[DisabledClient]] = {}
        for client in self._disabled.values():
            self._disabled_by_id.setdefault(client.public_key.key_id, []).append(client)

    def by_key(self, public_key: bytes) -> ClientEntry | None:
        """The client with this 32-byte public key."""
        return self._index.by_key(public_key)

    def by_key_id(self, key_id: bytes) -> Sequence[ClientEntry]:
        """The clients with this version 2 key id: none, one, or, as an id is short, perhaps more."""
        return self._index.by_key_id(key_id)

    def disabled_with(self, key_id: bytes) -> Sequence[DisabledClient]:
        """The disabled clients with this version 2 key id."""
        return self._disabled_by_id.get(key_id, ())

    def signer_among(self, signed: Callable[[ClientPublicKey], bool], keys: Iterable[bytes]) -> ClientEntry | None:
        """The client among these public keys whose signature a packet carries, or None."""
        for key in keys:
            client = self._index.by_key(key)
            if client is not None and signed(client.public_key):
                return client
        return None

    def search(
        self, signed: Callable[[ClientPublicKey], bool], tried: Collection[bytes] = ()
    ) -> Iterator[ClientEntry | DisabledClient | None]:
        """Look for the client whose signature a packet carries: None for every key that does not fit.

        Nothing in a version 1 packet names its client, so every public key is tried (spec wire-v1.md "Linear
        search"), those of disabled clients last. An iterator with one signature check a step, so that the caller can
        stop when searches have had their share of the time.
        """
        for key in self._index.keys():  # noqa: SIM118  # no map
            if key not in tried:
                yield self._index.by_key(key) if signed(ClientPublicKey.checked_before(key)) else None
        for disabled in self._disabled.values():
            yield disabled if signed(disabled.public_key) else None
