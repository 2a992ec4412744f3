"""The states of a knock, from frame to verdict, and what it is in each of them.

A knock is a value of one of these types at a time; each stage of `server.admission` takes one type and gives another.
`NEXT` is the table of the ways between them.

    framed ──▶ authenticated ──▶ decided ──▶ claimed ──▶ opened ──▶ told
       └─▶ searched ──┘                                                ▲
    from every state but the last two: ──▶ refused ────────────────────┘

Until it is claimed a knock has changed nothing. What it is refused for afterwards is no stranger's doing: policy had
decided before, the firewall refuses, or the config has changed while the store took its time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum

from openme.config.model import ClientEntry, DisabledClient
from openme.keeper.grants import Grant
from openme.keeper.registry import Registry
from openme.reasons import Reason
from openme.seam.messages import Frame
from openme.wire.base import Signed
from openme.wire.knock import IPAddress, Knock


class State(Enum):
    """Where a knock is on its way."""

    FRAMED = "framed"
    """Bytes that the listener passed on."""
    SEARCHED = "searched"
    """Its client is searched for among all; only version 1, which names none."""
    AUTHENTICATED = "authenticated"
    DECIDED = "decided"
    CLAIMED = "claimed"
    """The store says that it is the first of its kind; it is so no more."""
    OPENED = "opened"
    REFUSED = "refused"
    TOLD = "told"


NEXT: Mapping[State, frozenset[State]] = {
    State.FRAMED: frozenset({State.SEARCHED, State.AUTHENTICATED, State.REFUSED}),
    State.SEARCHED: frozenset({State.AUTHENTICATED, State.REFUSED}),
    State.AUTHENTICATED: frozenset({State.DECIDED, State.REFUSED}),
    State.DECIDED: frozenset({State.CLAIMED, State.REFUSED}),
    State.CLAIMED: frozenset({State.OPENED, State.REFUSED}),
    State.OPENED: frozenset({State.TOLD}),
    State.REFUSED: frozenset({State.TOLD}),
    State.TOLD: frozenset(),
}
"""The states that may follow."""


@dataclass(slots=True)
class Searched:
    """A knock from an address that no client is known to use: its signature is still to be matched with a client."""

    frame: Frame
    signed: Signed
    registry: Registry
    tries: Iterator[ClientEntry | DisabledClient | None]


@dataclass(frozen=True, slots=True)
class Authenticated:
    """A knock with a registered client's signature.

    `representative` and `epoch` are those of a version 2 knock: its R, by which the listener knows it, and the epoch
    whose key it was sealed with.
    """

    client: ClientEntry
    knock: Knock
    source: IPAddress
    version: int
    representative: bytes | None = None
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Decided:
    """What the config gives this knock, should it be the first: a grant, or a refusal, by a word, that uses it up."""

    what: Authenticated
    grant: Grant | None
    refusal: Reason | None = None

    @property
    def has_receipt(self) -> bool:
        """Whether there will be one to ask for: of a version 2 knock that is granted the health port."""
        return (
            self.what.representative is not None and self.grant is not None and not self.what.client.disable_health_port
        )


@dataclass(frozen=True, slots=True)
class Claimed:
    """It is the first, and so opens what it is granted, unless policy had refused it."""

    decided: Decided


@dataclass(frozen=True, slots=True)
class Opened:
    """The firewall has taken its doors."""

    decided: Decided
    grant: Grant


@dataclass(frozen=True, slots=True)
class Refused:
    """It opens nothing, for a reason in one word.

    `client`: the name of whose signature it carries, None for a stranger's. `source`: None for what no honest listener
    passes on. `representative`: as above.
    """

    reason: Reason
    source: IPAddress | None = None
    client: str | None = None
    detail: str = ""
    representative: bytes | None = None
