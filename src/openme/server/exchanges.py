"""What clients have lost the right to, and may have begun: UDP exchanges and TCP handshakes, which are ended."""

from collections.abc import Callable, Iterable, Sequence

from openme.clocks import Now
from openme.config.client_index import ClientIndex
from openme.config.model import ClientEntry
from openme.firewall.base import CutTarget, Steps
from openme.keeper.grants import Grant
from openme.keeper.lost_rights import lost_by_change, lost_by_keys
from openme.server.cutting import Cutting
from openme.server.slices import Slices
from openme.store.base import Store


class Exchanges:
    """Ends them; by whom they were begun, and from where, the store knows."""

    def __init__(
        self,
        cutting: Cutting,
        store: Store,
        client: Callable[[bytes], ClientEntry | None],
        slices: Slices,
        clocks: Callable[[], Now],
    ) -> None:
        """`client` tells who has a public key now."""
        self._cutting = cutting
        self._store = store
        self._client = client
        self._slices = slices
        self._clocks = clocks
        self._rules_were_away = False
        self._is_ending = False

    def end_of(self, client_keys: Iterable[bytes], ended: Sequence[Grant], now: Now) -> None:
        """What these clients have lost.

        Their open doors, which have `ended`, count too, whether or not the disk knows of them.
        """
        self._end(lost_by_keys(client_keys, self._client, self._store.holders_of, now.utc), ended)

    def end_by_change(self, before: ClientIndex, after: ClientIndex, ended: Sequence[Grant], now: Now) -> None:
        """What the clients of the config before have lost by the one in force; `ended` may grow while doors follow."""
        gone = after.taken_out_of(before)
        keys = self._store.holder_keys() if gone is None else gone
        self._end(lost_by_change(keys, before.by_key, self._client, self._store.holders_of, now.utc), ended)

    def end_what_was_lost_before(self) -> None:
        """What clients lost while no server ran."""
        self._end(self._lost_by_all())

    def end_what_began_without_rules(self) -> None:
        """What clients without a right may have begun while somebody had taken our rules away.

        One look at all of them at a time, however often that happens.
        """
        self._rules_were_away = True
        if not self._is_ending:
            self._is_ending = True
            self._slices.add(self._end_again())

    def _end_again(self) -> Steps[None]:
        while self._rules_were_away:
            self._rules_were_away = False
            cut = self._cutting.add(self._lost_by_all())
            while not cut.done:
                yield
        self._is_ending = False

    def _lost_by_all(self) -> Steps[list[CutTarget]]:
        """What everybody whom the disk knows has lost. StoreError where it does not tell whom."""
        keys, now = self._store.holder_keys(), self._clocks().utc
        return (yield from lost_by_keys(keys, self._client, self._store.holders_of, now))

    def _end(self, lost: Steps[list[CutTarget]], ended: Sequence[Grant] = ()) -> None:
        self._cutting.add(lost, (CutTarget(grant.address, grant.ports, network=grant.network) for grant in ended))
