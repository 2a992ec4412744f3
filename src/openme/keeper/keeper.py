"""From frame to decision: the only judge of a knock, and who is in. Without I/O: frame and time in, decision out.

A frame is the word of the listener, which may have been taken over. Everything that decides is therefore done here
again or here alone: the packet is opened, the signature checked, the time and the policy asked. What remains the
listener's word is the source address, which decides only for a knock that names no target. Whether a knock is the first
of its kind says the store; `server.admission` has the whole way.
"""

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from openme.clocks import Now
from openme.config.model import ClientEntry, DisabledClient, ServerConfig
from openme.firewall.base import PortList, Rules
from openme.keeper.grants import Change, Grant, Grants
from openme.keeper.policy import Opening, PolicyRefusal, client_lists, decide, door_network, refused_place
from openme.keeper.registry import Registry
from openme.keeper.rules import rules_for
from openme.keeper.stages import Authenticated, Decided, Opened, Refused, Searched
from openme.keys.erasing import wipe
from openme.reasons import End, Reason
from openme.seam.messages import MAX_FAMILIAR_ADDRESSES, Frame, unpack_frame_untrusted
from openme.wire.base import Keys, Signed, Version
from openme.wire.knock import BadPacket, IPAddress
from openme.wire.receipt import Receipt, receipt_text
from openme.wire.versions import by_number

if TYPE_CHECKING:
    from openme.keeper.epochs import Epochs

_NS = 10**9
_MAX_SOURCES = 65536  # addresses of which the last clients are remembered, to try their keys first
_MAX_KEYS_PER_SOURCE = 4  # people behind one address

_PLACE_LOST = {Reason.ALLOWED_FROM: End.ALLOWED_FROM, Reason.ALL_OF_IPV4: End.ALL_OF_IPV4}


@dataclass(frozen=True, slots=True)
class Reconfiguration:
    """What a config asks of the firewall for `addresses`, rules and doors to move or close, and what follows."""

    rules: Rules
    change: Change
    ended: tuple[tuple[Grant, End], ...]
    config: ServerConfig
    registry: Registry
    grants: Grants
    addresses: tuple[IPAddress, ...]
    moved: tuple[tuple[Grant, Grant], ...] = ()
    """Those that go on under another name, with other ports or for another network: as they were and as they are."""


class Keeper:
    """Judges frames and knows who is in."""

    def __init__(self, config: ServerConfig, is_own: Callable[[IPAddress], bool | None]) -> None:
        """`is_own` tells the addresses that are this host's own or a broadcast address of its networks.

        None: it cannot be told.
        """
        self.grants = Grants()
        self.config = config
        self.epochs: Epochs | None = None
        """The version 2 epochs; None while that version is off."""
        self.revoked_with: Callable[[bytes], Iterable[DisabledClient]] = lambda _key_id: ()
        """The revoked clients with a version 2 key id, also those that no config names any more."""
        self._is_own = is_own
        self._registry = Registry(config.index, config.disabled)
        self._last_from: dict[IPAddress, tuple[bytes, ...]] = {}
        self._passed_on: dict[IPAddress, None] = {}  # the latest ones of `new_sources`
        self.new_sources: deque[IPAddress] = deque(maxlen=MAX_FAMILIAR_ADDRESSES)
        """Addresses that clients have begun to knock from, for whoever passes them on to the listener. It forgets the
        one that it was told first, so that who still knocks then is a new one again.
        """

    # -- the stages that change nothing

    def authenticate_untrusted(self, raw: bytes) -> Authenticated | Searched | Refused:
        """Who signed what, of one frame. Never raises, whatever the bytes are.

        A version 1 knock from an address that nobody is known to use is still to be searched for.
        """
        try:
            frame = unpack_frame_untrusted(raw)
            version, signed = self._open_untrusted(frame)
        except BadPacket as bad:
            # The listener lets nothing of the kind through: a count other than zero shows that it is not itself.
            return Refused(bad.reason)
        if signed.key_id is not None:
            return self._named(frame, version, signed, signed.key_id)
        known = self._last_from.get(frame.source, ())
        client = self._registry.signer_among(signed.signed_by, known)
        if client is None:
            return Searched(frame, signed, self._registry, self._registry.search(signed.signed_by, known))
        return Authenticated(client, signed.knock, frame.source, frame.version)

    def _open_untrusted(self, frame: Frame) -> tuple[Version, Signed]:
        """What a frame's packet is and says. BadPacket: `version`, `epoch`, `decrypt`."""
        try:
            version = by_number(frame.version)
            if version is None:
                raise BadPacket(Reason.VERSION)
            public: bytes | None = b""
            if version.keys is Keys.EPOCH:
                public = None if self.epochs is None else self.epochs.live.get(frame.epoch)
            if public is None:
                raise BadPacket(Reason.EPOCH)
            return version, version.signed_untrusted(frame.packet, frame.aead_key, frame.aead_nonce, public)
        finally:
            # Nobody else holds this frame, and nothing needs its key any more.
            wipe(frame.aead_key, frame.aead_nonce)

    def _named(self, frame: Frame, version: Version, signed: Signed, key_id: bytes) -> Authenticated | Refused:
        """Whether the one whom the packet names by a key id has signed it."""
        representative = frame.packet[: version.representative_size] or None
        epoch = frame.epoch if version.keys is Keys.EPOCH else 0
        candidates = self._registry.by_key_id(key_id)
        signer = next((c for c in candidates if signed.signed_by(c.public_key)), None)
        disabled = None
        if signer is None:
            # Each key once: whoever is revoked may still stand in the config.
            named = {c.public_key.raw: c for c in self._shut_out(key_id)}.values()
            disabled = next((c for c in named if signed.signed_by(c.public_key)), None)
        signed.wipe()
        if signer is not None:
            return Authenticated(signer, signed.knock, frame.source, frame.version, representative, epoch)
        if disabled is not None:
            return _disabled(disabled, frame.source, representative)
        return Refused(
            Reason.SIGNATURE if candidates else Reason.UNKNOWN_KEY, frame.source, representative=representative
        )

    def _shut_out(self, key_id: bytes) -> tuple[DisabledClient, ...]:
        """Those with this key id who may not come in: revoked, or with a faulty entry; somebody may be both."""
        return (*self.revoked_with(key_id), *self._registry.disabled_with(key_id))

    def search(self, searched: Searched, may_go_on: Callable[[], bool]) -> Authenticated | Refused | None:
        """Try one public key after the other while `may_go_on`; None if the search is to be continued later."""
        frame = searched.frame
        if searched.registry is not self._registry:
            # The config has changed meanwhile: who was removed must not be found, who was added must be.
            searched.registry = self._registry
            searched.tries = self._registry.search(searched.signed.signed_by)
        while may_go_on():
            try:
                client = next(searched.tries)
            except StopIteration:
                return Refused(Reason.UNKNOWN_KEY, frame.source)
            if isinstance(client, DisabledClient):
                return _disabled(client, frame.source)
            if client is not None:
                return Authenticated(client, searched.signed.knock, frame.source, frame.version)
        return None

    def decide(self, knock: Authenticated, now: Now) -> Decided | Refused:
        """What the config and the clock give this knock, should it be the first of its kind.

        The order is that of spec wire-v2.md "What the server does with a datagram": signature before time, so that a
        refusal can name the client whose clock is wrong. What is refused here is not used up; what policy refuses is.
        """
        if refused := _no_right(knock, now):
            return refused
        skew_ns = knock.knock.timestamp_ns - now.unix_ns
        if abs(skew_ns) > self.config.replay_window * _NS:
            return _refused(knock, Reason.TIME, f", its clock is {_skew(skew_ns)} ours")
        return self._what_opens(knock, now)

    def decide_again(self, decided: Decided, now: Now) -> Decided | Refused:
        """The same for one whom the store has kept waiting: the config may have changed, and a door's time begins now.

        How late it is by now is not the knock's fault.
        """
        client = self._registry.by_key(decided.what.client.public_key.raw)
        knock = decided.what
        if client is None:
            key = knock.client.public_key
            disabled = next((gone for gone in self._shut_out(key.key_id) if gone.public_key == key), None)
            return (
                Refused(Reason.UNKNOWN_KEY, knock.source, representative=knock.representative)
                if disabled is None
                else _disabled(disabled, knock.source, knock.representative)
            )
        knock = replace(knock, client=client)
        return _no_right(knock, now) or self._what_opens(knock, now)

    def _what_opens(self, knock: Authenticated, now: Now) -> Decided:
        opening = decide(
            knock.client,
            knock.knock.target,
            knock.source,
            now.utc,
            self.config.knock_timeout,
            self.config.health_port,
            self._is_own,
        )
        if isinstance(opening, PolicyRefusal):
            return Decided(knock, None, opening.reason)
        return Decided(knock, _grant(knock.client, opening, now))

    # -- what follows from a knock that was the first

    def note_claimed(self, knock: Authenticated) -> None:
        """Know again whose address this is, and take an epoch's knock for evidence that those before it are over."""
        self._note_source(knock.source, knock.client.public_key.raw)
        version = by_number(knock.version)
        if self.epochs is not None and version is not None and version.keys is Keys.EPOCH:
            self.epochs.accepted(knock.epoch)

    def _note_source(self, source: IPAddress, client_key: bytes) -> None:
        if source not in self._passed_on:
            self.new_sources.append(source)
            self._passed_on[source] = None
            if len(self._passed_on) > MAX_FAMILIAR_ADDRESSES:
                del self._passed_on[next(iter(self._passed_on))]
        known = self._last_from.pop(source, ())
        self._last_from[source] = (client_key, *(key for key in known if key != client_key))[:_MAX_KEYS_PER_SOURCE]
        if len(self._last_from) > _MAX_SOURCES:
            del self._last_from[next(iter(self._last_from))]

    def remember_sources(self, sources: Iterable[tuple[IPAddress, bytes]]) -> None:
        """Know again, after a restart, who knocked from where: (address, 32-byte public key), the oldest first."""
        for source, client_key in sources:
            self._note_source(source, client_key)

    # -- a config that changes

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
        ended: list[tuple[Grant, End]] = []
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
        return Reconfiguration(rules, change, tuple(ended), config, registry, grants, tuple(places), tuple(moved))

    def settle(self, plan: Reconfiguration) -> None:
        """Hold the grants that were planned for some addresses; nothing else may have changed since."""
        self.grants.put_back(plan.grants, plan.addresses)

    def follow(self, plan: Reconfiguration) -> None:
        """Judge by what was planned from now on; nothing else may have changed since."""
        self.config, self._registry = plan.config, plan.registry
        self.settle(plan)
        if self.epochs is not None:
            self.epochs.follow(plan.config.replay_window, plan.config.epoch_horizon)

    def receipt_for(self, opened: Opened, now: Now) -> bytes | None:
        """The text of the receipt for a version 2 knock that opened; None for a client without a health port."""
        knock, grant = opened.decided.what, opened.grant
        if not opened.decided.has_receipt:
            return None
        keys = None if self.epochs is None else self.epochs.keys_from(knock.epoch)
        ports = tuple(map(str, grant.ports))
        return receipt_text(
            Receipt(knock.client.name, grant.named, ports, grant.expires_at, now.unix, keys, grant.network)
        )

    def renewed_to(self, opened: Opened) -> int | None:
        """The last epoch whose key the receipt for this knock carries; None without a receipt."""
        return opened.decided.what.epoch + self.config.epoch_horizon - 1 if opened.decided.has_receipt else None

    def overdue(self, client_keys: Iterable[bytes], now: Now) -> list[tuple[Grant, End]]:
        """Grants of those among these clients who have lost their right while the door is open, with the reason."""
        grants = (grant for key in client_keys for grant in self.grants.of_client(key))
        return [(grant, why) for grant in grants if (why := _over(grant, self._registry, now))]

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


def _refused(knock: Authenticated, reason: Reason, detail: str = "") -> Refused:
    return Refused(reason, knock.source, knock.client.name, detail, knock.representative)


def _disabled(client: DisabledClient, source: IPAddress, representative: bytes | None = None) -> Refused:
    return Refused(Reason.DISABLED, source, client.name, f", {client.why}", representative)


def _no_right(knock: Authenticated, now: Now) -> Refused | None:
    """Why this client's knocks open nothing, whatever they say."""
    client = knock.client
    version = by_number(knock.version)
    if version is None or version.name not in client.protocols:
        return _refused(knock, Reason.PROTOCOL)
    if client.expires is not None and client.expires <= now.utc:
        return _refused(knock, Reason.EXPIRED)
    return None


def _over(grant: Grant, registry: Registry, now: Now) -> End | None:
    """Why this grant's client has no right to it any more; None while it has."""
    client = registry.by_key(grant.client_key)
    if client is None:
        return End.REVOKED
    if client.expires is not None and client.expires <= now.utc:
        return End.EXPIRED
    refusal = refused_place(client, grant.named)
    return None if refusal is None else _PLACE_LOST[refusal]


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
