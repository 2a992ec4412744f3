"""What a server's file says, once it has been checked: plain values, in seconds, ports and keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal

from openme.config.client_index import ClientIndex, Fewer, index_of
from openme.config.faults import ConfigFault
from openme.config.profile_model import DEFAULT_UDP_PORT, WIRE_VERSIONS
from openme.keys.ed25519 import ClientPublicKey
from openme.keys.x25519 import ServerPrivateKey
from openme.ports import PortRange, merged, port
from openme.wire import versions as wire_versions
from openme.wire.base import Keys

Network = IPv4Network | IPv6Network
HiddenAs = Literal["drop", "reject"]

DEFAULT_EPOCH_LENGTH = 7 * 86400.0  # seconds


@dataclass(frozen=True, slots=True)
class ClientEntry:
    """One client as the server knows it (spec config.md "Server").

    `ports` is what a knock opens: groups and specs resolved and merged. `allowed_ports` is the list as written, None
    where the file has none. `protocols` never exceeds the server's. `expires` is in UTC, `max_timeout` in seconds.
    `prefix_v4`, `prefix_v6`: lengths of the networks that doors are for; full with `single_use`.
    """

    name: str
    public_key: ClientPublicKey
    ports: tuple[PortRange, ...] = ()
    allowed_ports: tuple[str, ...] | None = None
    expires: datetime | None = None
    disable_health_port: bool = False
    protocols: frozenset[str] = frozenset(WIRE_VERSIONS)
    allowed_from: tuple[Network, ...] = ()
    require_target_ip: bool = False
    single_use: bool = False
    max_timeout: float | None = None
    prefix_v4: int = 32
    prefix_v6: int = 128
    line: int = 0

    @property
    def has_epochs(self) -> bool:
        """Whether it may speak a version that is opened by the keys of epochs."""
        return wire_versions.opened_by(Keys.EPOCH, self.protocols)

    @property
    def needs_epochs(self) -> bool:
        """Whether it may speak nothing else, so that its file carries such keys."""
        return not wire_versions.opened_by(Keys.SERVER, self.protocols)


MOST_DISABLED = 256


@dataclass(frozen=True, slots=True)
class DisabledClient:
    """A client that the file names and that opens nothing: `why` in a few words."""

    name: str
    public_key: ClientPublicKey
    why: str


@dataclass(frozen=True)
class ServerConfig:
    """A server's file. Durations are seconds; defaults are those of spec config.md "Server".

    A client whose entry has a fault is missing from `clients` and named in `client_faults`, so that one slip shuts out
    one person; the ports it names stay managed, as `orphan_ports`. `has_built_in_default`: the group `default` is
    openme's own, as the file has none. `listens`: whether openme listens on the health port, where a running server has
    decided that; None where nobody has. `disabled`: those of them whose key is known, the first `MOST_DISABLED`, so
    that the log can name them when they knock. `warnings` are lines for the log or stderr about
    things that work, but not as their writer may think.
    """

    path: Path
    private_key: ServerPrivateKey
    public_key: bytes
    previous_private_key: ServerPrivateKey | None = None
    host: str | None = None
    udp_port: int = DEFAULT_UDP_PORT
    health_port: int = DEFAULT_UDP_PORT
    firewall: str = "nft"
    knock_timeout: float = 30.0
    replay_window: float = 60.0
    open_knock_port: bool = True
    drop_ports: bool = False
    interface: str | None = None
    default_profile: str = "default"
    protocols: frozenset[str] = frozenset(WIRE_VERSIONS)
    epoch_length: float = DEFAULT_EPOCH_LENGTH
    epoch_horizon: int = 53
    hidden_as: HiddenAs = "drop"
    hide_udp_errors: bool = True
    always_open_from: tuple[Network, ...] = ()
    prefix_v4: int = 32
    prefix_v6: int = 128
    state_dir: Path = Path("/var/lib/openme")
    run_as: str | None = None
    groups: Mapping[str, tuple[PortRange, ...]] = field(default_factory=dict)
    has_built_in_default: bool = False
    listens: bool | None = None
    hide: tuple[PortRange, ...] = ()
    clients: Mapping[str, ClientEntry] = field(default_factory=dict)
    client_faults: tuple[ConfigFault, ...] = ()
    disabled: tuple[DisabledClient, ...] = ()
    orphan_ports: tuple[PortRange, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def has_epochs(self) -> bool:
        """Whether a version is accepted that is opened by the keys of epochs."""
        return wire_versions.opened_by(Keys.EPOCH, self.protocols)

    @property
    def keys(self) -> tuple[ServerPrivateKey | None, ...]:
        """The keys that open knocks of versions without epochs, if one is accepted: this one, and the one before it."""
        served = wire_versions.opened_by(Keys.SERVER, self.protocols)
        return (self.private_key, self.previous_private_key) if served else ()

    @cached_property
    def managed_ports(self) -> tuple[PortRange, ...]:
        """What `drop_ports` hides: ports of all groups, clients and `hide:`, and the health port (TCP), merged."""
        return merged((port("tcp", self.health_port), *self.named_ports, *self.hide))

    @cached_property
    def named_ports(self) -> tuple[PortRange, ...]:
        """The ports that a group or a client names, merged.

        Those of clients at fault are among them: nobody may open them now, and they must not lie open to everybody.
        """
        ranges = {r for group in self.groups.values() for r in group}
        ranges.update(r for item in self.index.openable for r in item.ports)
        return merged((*ranges, *self.orphan_ports))

    @property
    def health_port_is_named(self) -> bool:
        """Whether a group, a client or `hide:` names the health port: it is a service's then."""
        named = (*self.named_ports, *self.hide)
        return any(item.proto == "tcp" and item.first <= self.health_port <= item.last for item in named)

    @property
    def health_port_is_ours(self) -> bool:
        """Whether openme listens on the health port, as far as is known: as decided, else by what the file names."""
        return not self.health_port_is_named if self.listens is None else self.listens

    def with_health_port(self, *, listens: bool) -> "ServerConfig":
        """The same config, of which it is decided whether openme listens on the health port."""
        return replace(self, listens=listens).with_index(self.index, self.named_ports)

    @cached_property
    def index(self) -> ClientIndex:
        """The clients as the keeper looks for them."""
        return index_of(self.clients)

    def less_those_gone_in(self, later: "ServerConfig") -> "ServerConfig":
        """The same without the clients whose keys `later` does not have any more; itself if it has all."""
        gone = later.index.missing(self.index.keys())
        if not gone:
            return self
        names = (client.name for key in gone if (client := self.index.by_key(key)) is not None)
        return replace(self, clients=Fewer(self.clients, names)).with_index(self.index.without(gone))

    def with_index(self, index: ClientIndex, named_ports: tuple[PortRange, ...] | None = None) -> "ServerConfig":
        """Know what is known already of this config's clients, and perhaps of the ports it names. Returns itself."""
        self.__dict__["index"] = index
        if named_ports is not None:
            self.__dict__["named_ports"] = named_ports
        return self
