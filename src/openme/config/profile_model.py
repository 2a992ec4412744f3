"""What a client's file says, once it has been checked: plain values. And what the server's file has in common with it.

Every knock makes these classes, so they are tuples: a dataclass takes five times as long (decision 0027).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from openme.keys.ed25519 import ClientPrivateKey, ClientPublicKey
from openme.wire import versions as wire_versions

DEFAULT_UDP_PORT = 54154
WIRE_VERSIONS = wire_versions.names()

HOST_PATTERN = r"[^\s\x00-\x1f\x7f]{1,253}"
PAGE = r"https://(?P<host>[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>[0-9]{1,5}))?(?P<path>[/?][!\"$-~]{0,2000})?"
"""A page whose text is our address (`ip`): no user, no fragment, nothing outside ASCII."""


class EpochKeys(NamedTuple):
    """A server's version 2 public keys as a client carries them: `keys[n]` belongs to epoch `first + n`.

    `length` is an epoch's length in seconds.
    """

    length: float
    first: int
    keys: tuple[bytes, ...]

    def by_epoch(self) -> dict[int, bytes]:
        """The keys by their epochs."""
        return dict(enumerate(self.keys, self.first))


class Profile(NamedTuple):
    """A server as a client knows it (spec config.md "Client").

    `same_server_as`: other profiles' hosts that are known to be this server, and so may have the same epoch keys.
    """

    name: str
    server_host: str
    server_pubkey: bytes
    server_udp_port: int = DEFAULT_UDP_PORT
    server_health_port: int = DEFAULT_UDP_PORT
    private_key: ClientPrivateKey | None = None
    public_key: ClientPublicKey | None = None
    post_knock: str | None = None
    ip: str | None = None
    epoch_keys: EpochKeys | None = None
    protocol: str | None = None
    identity: str | None = None
    same_server_as: tuple[str, ...] = ()
    line: int = 0


class KeyPair(NamedTuple):
    """A profile that names no server yet, only keys: what `keygen` leaves and `import` completes."""

    name: str
    private_key: ClientPrivateKey | None
    public_key: ClientPublicKey | None
    identity: str | None
    line: int


class ClientConfig(NamedTuple):
    """A client's file: the profiles one can knock with, and those that still wait for their server."""

    path: Path
    profiles: Mapping[str, Profile]
    waiting: Mapping[str, KeyPair] = MappingProxyType({})
    warnings: Sequence[str] = ()
