"""From frame to grant: the only judge of a knock. Without I/O: frame and time in, judgement out.

A frame is the word of the listener, which may have been taken over. Everything that decides is therefore done here
again or here alone: the packet is opened, the signature checked, the time, the replay memory and the policy asked. What
remains the listener's word is the source address, which decides only for a knock that names no target.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from openme.config.model import ClientEntry, DisabledClient, ServerConfig
from openme.firewall.base import PortList, Rules
from openme.keeper.grants import Change, Grant, Grants
from openme.keeper.journal import Journal
from openme.keeper.policy import Opening, PolicyRefusal, client_lists, decide, door_network, may_come_from
from openme.keeper.registry import Registry
from openme.keeper.replay import Remembered, ReplayMemory, ReplayRefusal, Reset
from openme.keeper.rules import rules_for
from openme.keys.erasing import wipe
from openme.seam.messages import Frame, unpack_frame_untrusted
from openme.wire import v1, v2
from openme.wire.knock import BadPacket, IPAddress, Knock
from openme.wire.receipt import Receipt, receipt_text

if TYPE_CHECKING:
    from openme.keeper.epochs import Epochs

_NS = 10**9
_MAX_SOURCES = 65536  # addresses of which the last clients are remembered, to try their keys first
_MAX_KEYS_PER_SOURCE = 4  # people behind one address
_MAX_NEW_SOURCES = 4096


@dataclass(frozen=True, slots=True)
class Now:
    """One reading of both clocks: Unix time in nanoseconds, and monotonic seconds."""

    unix_ns: int
    monotonic: float

    @property
    def unix(self) -> float:
        """Unix time in seconds."""
        return self.unix_ns / _NS

    @property
    def utc(self) -> datetime:
        """The wall clock's time as a datetime."""
        return datetime.fromtimestamp(self.unix, UTC)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a frame leads to.

    `remembered`: to be stored before anything opens, whether or not a grant follows. `grant`: the doors to open, or
    None when nothing opens; `reason` then says why, in one word. `tag` and `epoch` are those of a version 2 knock: its
    R, by which the listener knows it, and the epoch whose key it was sealed with.
    """

    reason: str
    source: IPAddress | None = None
    client: ClientEntry | None = None
    remembered: Remembered | None = None
    grant: Grant | None = None
    tag: bytes | None = None
    epoch: int = 0

    @property
    def has_receipt(self) -> bool:
        """Whether there will be one to ask for: of a version 2 knock that is granted the health port."""
        client = self.client
        granted = self.tag is not None and self.grant is not None
        return granted and client is not None and not client.disable_health_port


@dataclass(slots=True)
class Stranger:
    """A knock from an address that no client is known to use: its signature is still to be matched with a client."""

    frame: Frame
    knock: Knock
    registry: Registry
    tries: Iterator[ClientEntry | DisabledClient | None]


@dataclass(frozen=True, slots=True)
class Reconfiguration:
    """What a config asks of the firewall for `addresses`, rules and doors to move or close, and what follows."""

    rules: Rules
    change: Change
    ended: tuple[tuple[Grant, str], ...]
    config: ServerConfig
    registry: Registry
    grants: Grants
    addresses: tuple[IPAddress, ...]
    moved: tuple[tuple[Grant, Grant], ...] = ()
    """Those whose doors are for another network now, as they were and as they are."""


class Keeper:
    """Judges frames and knows who is in."""

    def __init__(
        self,
        config: ServerConfig,
        replay: ReplayMemory,
        journal: Journal,
        is_own: Callable[[IPAddress], bool | None],
    ) -> None:
        """`is_own` tells the addresses that are this host's own or a broadcast address of its networks.

        None: it cannot be told.
        """
        self.grants = Grants()
        self.config = config
        self.epochs: Epochs | None = None
        """The version 2 epochs; None while that version is off."""
        self.revoked_with: Callable[[bytes], Iterable[DisabledClient]] = lambda _key_id: ()
        """The revoked clients with a version 2 key id, also those that no config names any more."""
        self._replay = replay
        self._journal = journal
        self._is_own = is_own
        self._registry = Registry(config.index, config.disabled)
        self._last_from: dict[IPAddress, tuple[bytes, ...]] = {}
        self.new_sources: deque[IPAddress] = deque(maxlen=_MAX_NEW_SOURCES)
        """Addresses that clients have begun to knock from, for whoever passes them on to the listener."""

    def judge_untrusted(self, raw: bytes, now: Now) -> Judgement:
        """Judge one frame, however long the search for its client takes. Never raises, whatever the bytes are."""
        outcome = self.recognise_untrusted(raw, now)
        if isinstance(outcome, Stranger):
            found = self.search(outcome, now, lambda: True)
            if found is None:
                raise AssertionError("a search without a limit has an end")
            return found
        return outcome

    def recognise_untrusted(self, raw: bytes, now: Now) -> "Judgement | Stranger":
        """Judge one frame at once if it is garbage, or from a client that knocked from this address before.

        Anybody else is a stranger, whose client is still to be searched for. Never raises, whatever the bytes are.
        """
        try:
            frame = unpack_frame_untrusted(raw)
            if frame.version != v1.VERSION:
                return self._judge_v2_untrusted(frame, now)
            knock = v1.open_untrusted(frame.packet, frame.aead_key)
        except BadPacket as bad:
            # The listener lets nothing of the kind through: a count other than zero shows that it is not itself.
            self._journal.counts.add(bad.reason)
            return Judgement(bad.reason)
        known = self._last_from.get(frame.source, ())
        client = self._registry.signer_among(frame.packet, known)
        if client is None:
            return Stranger(frame, knock, self._registry, self._registry.search(frame.packet, known))
        return self._judge_signed(client, frame, knock, now)

    def _judge_v2_untrusted(self, frame: Frame, now: Now) -> Judgement:
        """Judge a version 2 frame: its key id names the client. BadPacket: `version`, `epoch`, `decrypt`."""
        try:
            if frame.version != v2.VERSION:
                raise BadPacket("version")
            epoch_public = None if self.epochs is None else self.epochs.live.get(frame.epoch)
            if epoch_public is None:
                raise BadPacket("epoch")
            signed = v2.open_untrusted(frame.packet, frame.aead_key, frame.aead_nonce)
        finally:
            # Nobody else holds this frame, and nothing needs its key any more.
            wipe(frame.aead_key, frame.aead_nonce)
        candidates = self._registry.by_key_id(signed.key_id)
        signer = next((c for c in candidates if v2.signed_by(frame.packet, signed, epoch_public, c.public_key)), None)
        disabled = None
        if signer is None:
            # Each key once: whoever is revoked may still stand in the config.
            also = (*self.revoked_with(signed.key_id), *self._registry.disabled_with(signed.key_id))
            named = {c.public_key.raw: c for c in also}.values()
            disabled = next((c for c in named if v2.signed_by(frame.packet, signed, epoch_public, c.public_key)), None)
        signed.wipe()
        if signer is not None:
            judgement = self._judge_signed(signer, frame, signed.knock, now)
        elif disabled is not None:
            judgement = self._refuse_disabled(disabled, frame)
        else:
            reason = "signature" if candidates else "unknown_key"
            self._journal.refused_stranger(reason, frame.source)
            judgement = Judgement(reason, frame.source)
        return replace(judgement, tag=frame.packet[: v2.REPRESENTATIVE_SIZE], epoch=frame.epoch)

    def search(self, stranger: "Stranger", now: Now, may_go_on: Callable[[], bool]) -> Judgement | None:
        """Try one public key after the other while `may_go_on`; None if the search is to be continued later."""
        if stranger.registry is not self._registry:
            # The config has changed meanwhile: who was removed must not be found, who was added must be.
            stranger.registry = self._registry
            stranger.tries = self._registry.search(stranger.frame.packet)
        while may_go_on():
            try:
                client = next(stranger.tries)
            except StopIteration:
                self._journal.refused_stranger("unknown_key", stranger.frame.source)
                return Judgement("unknown_key", stranger.frame.source)
            if isinstance(client, DisabledClient):
                return self._refuse_disabled(client, stranger.frame)
            if client is not None:
                return self._judge_signed(client, stranger.frame, stranger.knock, now)
        return None

    def _judge_signed(self, client: ClientEntry, frame: Frame, knock: Knock, now: Now) -> Judgement:
        """What follows once the signature is known to be this client's.

        The order is that of spec wire-v2.md "What the server does with a datagram": signature before time, so that a
        refusal can name the client whose clock is wrong; all mutation after the last check that a stranger can fail.
        """
        if f"v{frame.version}" not in client.protocols:
            return self._refuse(client, frame, "protocol")
        if client.expires is not None and client.expires <= now.utc:
            return self._refuse(client, frame, "expired")
        skew_ns = knock.timestamp_ns - now.unix_ns
        if abs(skew_ns) > self.config.replay_window * _NS:
            return self._refuse(client, frame, "time", f", its clock is {_skew(skew_ns)} ours")
        remembered = self._replay.accept(client.public_key.raw, knock, frame.source)
        if isinstance(remembered, ReplayRefusal):
            elsewhere = remembered.first_source not in {None, frame.source}
            detail = f", first seen from {remembered.first_source}: somebody is on the path" if elsewhere else ""
            return self._refuse(client, frame, remembered.reason, detail)
        self._note_source(frame.source, client.public_key.raw)
        if self.epochs is not None and frame.version == v2.VERSION:
            self.epochs.accepted(frame.epoch)
        opening = decide(
            client,
            knock.target,
            frame.source,
            now.utc,
            self.config.knock_timeout,
            self.config.health_port,
            self._is_own,
        )
        if isinstance(opening, PolicyRefusal):
            return self._refuse(client, frame, opening.reason, remembered=remembered)
        return Judgement("accepted", frame.source, client, remembered, _grant(client, opening, now))

    def _refuse_disabled(self, client: DisabledClient, frame: Frame) -> Judgement:
        self._journal.refused_client(client.name, "disabled", frame.source, f", {client.why}")
        return Judgement("disabled", frame.source)

    def _note_source(self, source: IPAddress, client_key: bytes) -> None:
        known = self._last_from.pop(source, ())
        if not known:
            self.new_sources.append(source)
        self._last_from[source] = (client_key, *(key for key in known if key != client_key))[:_MAX_KEYS_PER_SOURCE]
        if len(self._last_from) > _MAX_SOURCES:
            del self._last_from[next(iter(self._last_from))]

    def reset(self, client_key: bytes, now: Now) -> Reset | None:
        """See `ReplayMemory.reset`."""
        return self._replay.reset(client_key, now.unix_ns)

    def reset_all(self, now: Now) -> list[Reset]:
        """See `ReplayMemory.reset_all`."""
        return self._replay.reset_all(now.unix_ns)

    @property
    def floor_ns(self) -> int | None:
        """Knocks signed before this Unix time in nanoseconds are refused, whoever signed them; None: none are."""
        return self._replay.floor_ns

    def remember_sources(self, sources: Iterable[tuple[IPAddress, bytes]]) -> None:
        """Know again, after a restart, who knocked from where: (address, 32-byte public key), the oldest first."""
        for source, client_key in sources:
            self._note_source(source, client_key)

    def _refuse(
        self, client: ClientEntry, frame: Frame, reason: str, detail: str = "", remembered: Remembered | None = None
    ) -> Judgement:
        self._journal.refused_client(client.name, reason, frame.source, detail)
        return Judgement(reason, frame.source, client, remembered)

    def reconfigure(self, config: ServerConfig, now: Now) -> Reconfiguration:
        """Follow a changed config: the next knock is judged by it, and open doors are moved or closed."""
        plan = self.plan(config, now)
        self.follow(plan)
        return plan

    def plan(
        self,
        config: ServerConfig,
        now: Now,
        rules: Rules | None = None,
        addresses: Iterable[IPAddress] | None = None,
    ) -> Reconfiguration:
        """What a config would lead to for these addresses (None: all); nothing is changed yet.

        `rules`: those that it will be in force with.
        """
        registry = self._registry if config is self.config else Registry(config.index, config.disabled)
        places = dict.fromkeys(self.grants.addresses() if addresses is None else addresses)
        grants = self.grants.part(places)
        looked_at = list(grants)
        also: set[tuple[IPAddress, bytes]] = set()
        ended: list[tuple[Grant, str]] = []
        moved: list[tuple[Grant, Grant]] = []
        for grant in looked_at:
            if why := _over(grant, registry, now):
                ended.append((grant, why))
                continue
            client = registry.by_key(grant.client_key)
            lists = client_lists(client, config.health_port) if client is not None else ()
            if client is not None and (lists != grant.port_lists or client.name != grant.client_name):
                after = _moved(grant, client, lists)
                moved.append((grant, after))
                where = after.address, after.client_key
                if after.address not in places and where not in also:
                    # What this client has there, perhaps for a network of the length before, comes along.
                    also.add(where)
                    looked_at += filter(None, [self.grants.at(*where)])
        if also:
            places |= dict.fromkeys(address for address, _ in also)
            grants = self.grants.part(places)
        closing = grants.remove([*(grant for grant, _ in ended), *(grant for grant, _ in moved)], now.monotonic)
        rules = rules_for(config) if rules is None else rules
        # Who is still to follow may have a door of a list that goes.
        opening = {(d.port_list, d.address): d for d in closing.open if d.port_list in rules.port_lists}
        for _, grant in moved:
            # Of two that come to be for one network the one that lasts longer counts.
            there = grants.at(grant.address, grant.client_key)
            if there is None or there.deadline < grant.deadline:
                grants.add(grant)
        opening |= grants.lasting_doors_of([grants.at(g.address, g.client_key) or g for _, g in moved], now.monotonic)
        still = tuple(d for d in closing.close if d not in opening and d[0] in rules.port_lists)
        change = Change(tuple(opening.values()), still)
        elsewhere = tuple((before, after) for before, after in moved if before.address != after.address)
        return Reconfiguration(rules, change, tuple(ended), config, registry, grants, tuple(places), elsewhere)

    def settle(self, plan: Reconfiguration) -> None:
        """Hold the grants that were planned for some addresses; nothing else may have changed since."""
        self.grants.put_back(plan.grants, plan.addresses)

    def follow(self, plan: Reconfiguration) -> None:
        """Judge by what was planned from now on; nothing else may have changed since."""
        self.config, self._registry = plan.config, plan.registry
        self.settle(plan)
        self._replay.set_window(round(plan.config.replay_window * _NS))
        if self.epochs is not None:
            self.epochs.follow(plan.config.replay_window, plan.config.epoch_horizon)

    def receipt_for(self, judgement: Judgement, now: Now) -> bytes | None:
        """The text of the receipt for a version 2 knock that opened; None for a client without a health port."""
        grant, client = judgement.grant, judgement.client
        if grant is None or client is None or not judgement.has_receipt:
            return None
        keys = None if self.epochs is None else self.epochs.keys_from(judgement.epoch)
        ports = tuple(map(str, grant.ports))
        return receipt_text(Receipt(client.name, grant.named, ports, grant.expires_at, now.unix, keys, grant.network))

    def renewed_to(self, judgement: Judgement) -> int | None:
        """The last epoch whose key the receipt for this judgement carries; None without a receipt."""
        return judgement.epoch + self.config.epoch_horizon - 1 if judgement.has_receipt else None

    def overdue(self, now: Now) -> list[tuple[Grant, str]]:
        """Grants whose client has lost its right while the door is open, with the reason."""
        return [(grant, why) for grant in self.grants if (why := _over(grant, self._registry, now))]

    def client(self, key: bytes) -> ClientEntry | None:
        """The client with this 32-byte public key, as it is in force."""
        return self._registry.by_key(key)

    def grants_of(self, name: str) -> list[Grant]:
        """The open doors of the client with this name."""
        client = self.config.clients.get(name)
        if client is not None:
            # Under whatever name they were opened: after a changed config they follow one by one.
            return self.grants.of_client(client.public_key.raw)
        return [grant for grant in self.grants if grant.client_name == name]

    def adopt(self, grants: Iterable[Grant]) -> None:
        """Take over grants of an earlier run, whose doors are still open in the kernel."""
        for grant in grants:
            self.grants.add(grant)


def _over(grant: Grant, registry: Registry, now: Now) -> str | None:
    """Why this grant's client has no right to it any more; None while it has."""
    client = registry.by_key(grant.client_key)
    if client is None:
        return "revoked"
    if client.expires is not None and client.expires <= now.utc:
        return "expired"
    if not may_come_from(client, grant.named):
        return "allowed_from"
    return None


def _moved(grant: Grant, client: ClientEntry, lists: tuple[PortList, ...]) -> Grant:
    """The same grant as the client's entry has it now: another network is around the same address."""
    network = door_network(client, grant.named)
    return replace(
        grant,
        client_name=client.name,
        ports=client.ports,
        port_lists=lists,
        address=grant.named if network is None else network.network_address,
        network=network,
        knocked_for=None if network is None else grant.named,
    )


def _grant(client: ClientEntry, opening: Opening, now: Now) -> Grant:
    return Grant(
        client_key=client.public_key.raw,
        client_name=client.name,
        address=opening.address if opening.network is None else opening.network.network_address,
        ports=client.ports,
        port_lists=opening.port_lists,
        opened_at=now.unix,
        expires_at=now.unix + opening.seconds,
        deadline=now.monotonic + opening.seconds,
        network=opening.network,
        knocked_for=None if opening.network is None else opening.address,
    )


def _skew(skew_ns: int) -> str:
    seconds = abs(skew_ns) // _NS
    return f"{seconds} s {'ahead of' if skew_ns > 0 else 'behind'}"
