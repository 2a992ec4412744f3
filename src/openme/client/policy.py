"""The rules of a session: which keys a knock uses, how long to wait for what, when to ask for keys, what to believe.

Coroutines over a `driver.Driver`, and nothing in here waits or touches a socket otherwise. `session.Session` and
`async_session.AsyncSession` are the two faces of this.
"""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from openme.client.addresses import Endpoint, parse_wanted
from openme.client.door import ATTEMPT_SECONDS, FIRST_ATTEMPT, wait_open
from openme.client.errors import ClientError, DiskError, KeysRefusedError, ProfileError, ShutError
from openme.client.grant import USUAL_INTERVAL, grant_seconds, renewal_seconds
from openme.client.identity import Checked, Identity, open_identity
from openme.client.knock import Attempt, send, version_of
from openme.client.known import Known, PastKnock
from openme.client.nat64 import Nat64
from openme.client.plan import by_family
from openme.client.profiles import choose_profile
from openme.client.receipt import PATIENCE, Proof, prove
from openme.client.renewal import fetch, is_due, last_moment
from openme.config.profile_model import ClientConfig
from openme.keys.ratchet import NS
from openme.wire.base import Keys
from openme.wire.knock import IPAddress

if TYPE_CHECKING:
    from openme.client.driver import Driver
    from openme.client.key_file import Passphrase
    from openme.client.roaming import Roaming
    from openme.client.turns import Turns

T = TypeVar("T")

LOOK_SECONDS = 2.0  # for a look at a door that nobody has just knocked at
HEAD_START = 0.02
"""Seconds between a knock of `reach` and the first connection, which would overtake the opening of the door."""
KNOCKS = 3
"""Knocks of `reach` before it gives up."""
REACH_SECONDS = 2.0
"""For `reach`'s first knock; each further one has twice the time of the one before."""


class State(Enum):
    """What is known of a door. The value is a word for the user."""

    OPEN = "open"
    """It answers; under version 2, right after a knock, by the server's own word and for the address that was named."""
    CLOSED = "closed"
    """Nothing answers."""
    NOT_AS_ASKED = "not as asked"
    """The server has proven itself, and opened another address than the knock named."""
    NOT_CONFIRMED = "not confirmed"
    """Something answers, and does not prove to be the server."""


class Answer(Enum):
    """What came back. The value is a word for programs."""

    PROVEN = "proven"
    """A receipt: the server itself says what it has opened."""
    UNPROVEN = "unproven"
    """Something answers on the health port, and nothing says that it is the server."""
    NONE = "none"
    """Nothing."""


class Outcome(NamedTuple):
    """What became of a knock, or of a look.

    `endpoints`: the addresses that were asked. `opened`: those of them that answer. `proofs`: one for each knock that
    was asked about. `problems`: why keys that receipts brought were not kept (KeysRefusedError, DiskError); no failure
    of the knock. `attempt`: the knock, None for a look. `must_prove`: an answer without proof counts for nothing.
    `left_out`: how many addresses the name has beyond those that a look asks.
    """

    endpoints: tuple[Endpoint, ...]
    opened: tuple[Endpoint, ...]
    proofs: tuple[Proof, ...] = ()
    problems: tuple[ClientError, ...] = ()
    attempt: Attempt | None = None
    must_prove: bool = False
    left_out: int = 0

    @property
    def state(self) -> State:
        """What is known of the door."""
        if not self.opened:
            return State.CLOSED
        is_proven = any(proof.receipt is not None for proof in self.proofs)
        if any(proof.opened_as_asked for proof in self.proofs) or not (self.must_prove or is_proven):
            return State.OPEN
        return State.NOT_AS_ASKED if is_proven else State.NOT_CONFIRMED

    @property
    def answer(self) -> Answer:
        """Whether something came back, and proved who it is from."""
        if any(proof.receipt is not None for proof in self.proofs):
            return Answer.PROVEN
        return Answer.UNPROVEN if self.opened else Answer.NONE

    @property
    def is_open(self) -> bool:
        """Whether the door is open, as far as it can be known."""
        return self.state is State.OPEN


class Reached(NamedTuple, Generic[T]):
    """A `connection` that stands, and `attempt`, the last knock that it took; None if there was no need for one."""

    connection: T
    attempt: Attempt | None


class Policy:
    """One profile, and what is known of its server. See `session.Session` for what each does."""

    def __init__(
        self,
        driver: "Driver",
        config: ClientConfig,
        name: str | None,
        identity: Identity | None = None,
        passphrase: "Passphrase | None" = None,
    ) -> None:
        self.profile = profile = choose_profile(config, name)
        self._driver = driver
        self._endpoints: tuple[Endpoint, ...] = ()
        self.grant: float | None = None
        """Seconds of the last grant by its receipt; None without."""
        self._directory = config.path.parent
        self._passphrase = passphrase
        self._identity = None if identity is None else Checked(identity)
        if identity is not None and profile.public_key not in {None, identity.public}:
            raise ProfileError(
                f"profile {profile.name}: public_key is another one than that of the identity",
                "name the identity that the server knows, or remove public_key",
            )
        self._known = Known(config)
        self._has_epochs = version_of(profile).keys is Keys.EPOCH
        self._networks = Nat64(self._known.networks, self._known.note_networks)
        if self._has_epochs:
            self._known.refuse_shared_epoch_keys(profile)
        elif identity is not None or profile.identity is not None:
            self._known.refuse_shared_server_key(profile)

    # -- knocking

    async def knock(self, ip: str | None) -> Attempt:
        """See `Session.knock`."""
        profile = self.profile
        if (where := profile.identity) is not None and self._identity is None and profile.private_key is None:
            # Before the knock is made: whoever types a passphrase must not make it old.
            self._identity = await self._driver.call(
                lambda: open_identity(where, profile.public_key, self._directory, self._passphrase)
            )
        attempt = await send(
            self._driver,
            profile,
            profile.ip if ip is None else parse_wanted(ip),
            self._known.keys(profile) if self._has_epochs else None,
            identity=self._identity,
            prefixes=self._networks.prefixes,
        )
        self._endpoints = (*(sent.endpoint for sent in attempt.sent), *(endpoint for endpoint, _ in attempt.failed))
        if past := [sent.past for sent in attempt.sent if sent.past is not None]:
            # What cannot be kept costs a later look its proof, and never this knock.
            with suppress(OSError):
                await self._driver.call(lambda: self._known.remember(profile, past))
        return attempt

    async def reach(
        self,
        dial: Callable[[Sequence[Endpoint], float], Awaitable[T | None]],
        ip: str | None,
        *,
        look: float,
        knocks: int,
        seconds: float,
    ) -> Reached[T]:
        """See `Session.reach`."""
        if look > 0:
            found = await dial((await self._addresses())[0], look)
            if found is not None:
                return Reached(found, None)
        while True:
            attempt = await self.knock(ip)
            await self._driver.pause(HEAD_START)
            found = await self._dialled(dial, tuple(sent.endpoint for sent in attempt.sent), seconds)
            if found is not None:
                return Reached(found, attempt)
            knocks, seconds = knocks - 1, seconds * 2
            if knocks <= 0:
                raise ShutError(
                    f"{self.profile.server_host}: no connection after the knock",
                    "on the server, the log says why (journalctl -u openme), and 'openme list' shows the client's last"
                    " accepted knock",
                    attempt,
                )

    async def _dialled(
        self,
        dial: Callable[[Sequence[Endpoint], float], Awaitable[T | None]],
        endpoints: tuple[Endpoint, ...],
        seconds: float,
    ) -> T | None:
        """A dial that gives up before its time, as where a port refuses, is asked again, less and less often."""
        deadline = self._driver.monotonic() + seconds
        pause = FIRST_ATTEMPT
        while (left := deadline - self._driver.monotonic()) > 0:
            found = await dial(endpoints, left)
            if found is not None:
                return found
            await self._driver.pause(max(0.0, min(pause, deadline - self._driver.monotonic())))
            pause = min(pause * 2, ATTEMPT_SECONDS)
        return None

    def turns(self, interval: float | None) -> "Turns":
        """The turns of `Session.again`."""
        from openme.client.turns import Turns  # noqa: PLC0415  # for a knock that goes on

        def seconds() -> float:
            return min(USUAL_INTERVAL, renewal_seconds(self.grant)) if interval is None else interval

        return Turns(self._driver, seconds, self.roaming())

    def roaming(self) -> "Roaming":
        """Waits for the next knock, or until this machine is in another network."""
        from openme.client.roaming import Roaming  # noqa: PLC0415  # for a knock that goes on

        return Roaming(self._driver, self._sources)

    def _sources(self) -> frozenset[IPAddress] | None:
        """Our addresses towards where the last knock went; None before there is one."""
        if not self._endpoints:
            return None
        found: set[IPAddress] = set()
        for endpoint in self._endpoints:
            with suppress(OSError):
                found.add(self._driver.source(endpoint, self.profile.server_udp_port))
        return frozenset(found)

    # -- whether it worked

    async def check(self, attempt: Attempt) -> Outcome:
        """See `Session.check`."""
        endpoints = tuple(sent.endpoint for sent in attempt.sent)
        opened = await wait_open(self._driver, list(endpoints), self.profile.server_health_port)
        past = [(s.endpoint, s.past) for s in attempt.sent if s.past is not None and s.endpoint in opened]
        proofs = await self._asked(past, PATIENCE) if self._has_epochs else []
        self._note_grant(proofs)
        problems = await self._kept(proofs)
        return Outcome(endpoints, tuple(opened), tuple(proofs), problems, attempt, must_prove=self._has_epochs)

    async def status(self) -> Outcome:
        """See `Session.status`."""
        endpoints, left_out = await self._addresses()
        opened = await self._driver.open_endpoints(endpoints, self.profile.server_health_port, LOOK_SECONDS)
        proofs: list[Proof] = []
        problems: tuple[ClientError, ...] = ()
        if self._has_epochs:
            last = {knock.host: knock for knock in self._known.last(self.profile)}
            asked = await self._asked([(e, last[e.host]) for e in opened if e.host in last], 0)
            problems = await self._kept(asked)
            # A knock of which the server knows nothing any more says nothing about a door that answers.
            proofs = [proof for proof in asked if proof.receipt is not None]
        return Outcome(endpoints, tuple(opened), tuple(proofs), problems, left_out=left_out)

    async def _addresses(self) -> tuple[tuple[Endpoint, ...], int]:
        """Those that a knock goes to, and how many more the name has."""
        found = by_family(await self._driver.resolve(self.profile.server_host, self.profile.server_udp_port))
        endpoints = tuple(endpoint for family in found for endpoint in family.endpoints)
        return endpoints, sum(family.left_out for family in found)

    async def _asked(self, knocks: Iterable[tuple[Endpoint, PastKnock]], patience: float) -> list[Proof]:
        """One proof for each knock, however many addresses it went to: of one that gives it, else of the first."""
        proofs: dict[bytes, Proof] = {}
        port = self.profile.server_health_port
        for endpoint, past in knocks:
            so_far = proofs.get(past.receipt.id)
            if so_far is None or so_far.receipt is None:
                proof = await prove(self._driver, endpoint, port, past, patience)
                if so_far is None or proof.receipt is not None:
                    proofs[past.receipt.id] = proof
        return list(proofs.values())

    # -- keys

    async def renew(self, attempt: Attempt, *, always: bool = False) -> None:
        """See `Session.renew`."""
        profile = self.profile
        if not self._has_epochs or profile.epoch_keys is None:
            return
        now_ns = self._driver.now_ns()
        if is_due(profile.epoch_keys, self._known.keys(profile), now_ns, self._known.tried(profile)):
            try:
                await self._driver.call(lambda: self._known.note_try(profile, now_ns // NS))
            except OSError as error:
                # Where a try cannot be noted keys cannot be stored, and every knock would wait in vain.
                raise _not_stored(error) from error
        elif not always:
            return
        knocks = [(sent.endpoint, sent.past) for sent in attempt.sent if sent.past is not None]
        proof = await fetch(self._driver, knocks, profile.server_health_port)
        if proof is not None:
            self._note_grant([proof])
            await self._store(proof)

    def _note_grant(self, proofs: Iterable[Proof]) -> None:
        """A receipt that is lost says nothing against the one before."""
        if (seconds := grant_seconds(proofs)) is not None:
            self.grant = seconds

    def keys_end(self) -> int | None:
        """See `Session.keys_end`."""
        profile = self.profile
        if not self._has_epochs or profile.epoch_keys is None:
            return None
        return last_moment(profile.epoch_keys, self._known.keys(profile), self._driver.now_ns())

    async def _kept(self, proofs: Iterable[Proof]) -> tuple[ClientError, ...]:
        """Take over the keys that receipts brought; why not, of those that were not."""
        problems: list[ClientError] = []
        for proof in proofs:
            try:
                await self._store(proof)
            except (DiskError, KeysRefusedError) as error:
                problems.append(error)
        return tuple(problems)

    async def _store(self, proof: Proof) -> None:
        """Take over the keys that a receipt brought, if it did. KeysRefusedError, DiskError."""
        if proof.receipt is None or (received := proof.receipt.epoch_keys) is None:
            return
        try:
            await self._driver.call(lambda: self._known.add(self.profile, proof.knock.epoch, received))
        except OSError as error:
            raise _not_stored(error) from error


def _not_stored(error: OSError) -> DiskError:
    return DiskError(f"new epoch keys could not be stored: {error.strerror}")
