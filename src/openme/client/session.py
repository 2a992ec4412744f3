"""A client's dealings with one server, blocking."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from openme.client.addresses import Endpoint
from openme.client.blocking import Blocking, finish
from openme.client.errors import ClientError
from openme.client.identity import Identity
from openme.client.knock import Attempt
from openme.client.policy import KNOCKS, REACH_SECONDS, Outcome, Policy, Reached
from openme.config.profile_model import ClientConfig, Profile

if TYPE_CHECKING:
    from openme.client.key_file import Passphrase
    from openme.client.turns import Turns

T = TypeVar("T")


class Session:
    """A client's dealings with one server; each method waits until it is done.

    `name` chooses among the profiles of `config` (`choose_profile`). `identity` signs in place of whatever key the
    profile has or names. `passphrase` is called with the path of a key file that is sealed, and gives its passphrase,
    in a bytearray that is wiped afterwards, or in bytes. ProfileError if the profile cannot be used. What is learnt,
    epoch keys and the last knock, is kept beside `config.path`.
    """

    def __init__(
        self,
        config: ClientConfig,
        name: str | None = None,
        *,
        identity: Identity | None = None,
        passphrase: "Passphrase | None" = None,
    ) -> None:
        self._policy = Policy(Blocking(), config, name, identity, passphrase)

    @property
    def profile(self) -> Profile:
        """The profile that was chosen."""
        return self._policy.profile

    def knock(self, ip: str | None = None) -> Attempt:
        """Send a knock over each address family that the server's name has. Nobody answers one.

        The first one opens the key that the profile's `identity` names, and may ask for a passphrase; each may wait
        for an agent, half a minute for each family.

        `ip`: what it names in place of the profile's `ip`: an address, `auto`, `source` or a page. NotSentError if
        nothing could be sent; AddressError, UnknownHostError, ProfileError, SigningError before anything was.
        """
        return finish(self._policy.knock(ip))

    def check(self, attempt: Attempt) -> Outcome:
        """Wait for the door after a knock, some seconds at most, and have the server prove what it opened.

        Keys that the receipt brings are kept. That the door stays shut is an outcome, and no error.
        """
        return finish(self._policy.check(attempt))

    def status(self) -> Outcome:
        """Look whether the door is open, and ask for the receipt of this client's last knock. UnknownHostError."""
        return finish(self._policy.status())

    @property
    def grant(self) -> float | None:
        """Seconds that the last grant has by the last receipt that was fetched; None without."""
        return self._policy.grant

    def renew(self, attempt: Attempt, *, always: bool = False) -> None:
        """Fetch new epoch keys after a knock, where they are due: once a day, for a second at most.

        For who does not `check`, which fetches them too. That none came is no error: there is another try.
        `always`: fetch the receipt even where no keys are due, to learn `grant` from it.
        KeysRefusedError if they must not be believed, DiskError if they could not be kept.
        """
        finish(self._policy.renew(attempt, always=always))

    def keys_end(self) -> int | None:
        """The Unix second with which the last epoch key ends, if that is near enough for a warning; else None."""
        return self._policy.keys_end()

    def again(self, interval: float | None = None, ip: str | None = None) -> Iterator[Attempt | ClientError]:
        """Knock every `interval` seconds from this call on, for ever, the first time after one interval: each knock,
        or why it failed. None: every 25 s, or sooner where a grant (see `grant`) would be over by then.

        Turns that were missed, as where the machine slept, are not made up for. In another network there is one at
        once.
        """
        # Made now and not with the first turn: the network may change in between.
        return self._again(self._policy.turns(interval), ip)

    def _again(self, turns: "Turns", ip: str | None) -> Iterator[Attempt | ClientError]:
        while True:
            finish(turns.wait())
            try:
                attempt = self.knock(ip)
            except ClientError as error:
                # A network that is gone for a while must not end what is to keep a door open.
                yield error
            else:
                yield attempt

    def reach(
        self,
        dial: Callable[[Sequence[Endpoint], float], T | None],
        ip: str | None = None,
        *,
        look: float = 0.0,
        knocks: int = KNOCKS,
        seconds: float = REACH_SECONDS,
    ) -> Reached[T]:
        """Knock until a connection of the caller's stands, `knocks` times at most.

        `dial` gets the server's addresses and the seconds that it has, and returns a connection that stands, or None.
        It may race the addresses, begin anew while nothing answers, and return before its time, after which it is
        called again. It must not give up a connection early that the server may have let in: a door for a single use
        would be used up. No connection is made but by it.

        `look`: seconds for a dial before the first knock, in case that the door is open; 0 for none. `seconds`: for
        the dials after the first knock; each further knock has twice the time of the one before. ShutError when all
        was in vain, and whatever `knock` and `dial` raise.
        """

        async def dialled(endpoints: Sequence[Endpoint], left: float) -> T | None:
            return dial(endpoints, left)

        return finish(self._policy.reach(dialled, ip, look=look, knocks=knocks, seconds=seconds))
