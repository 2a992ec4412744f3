"""Making packets, and sending one for each address family."""

import secrets
import socket
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import TYPE_CHECKING, NamedTuple

from openme.client.addresses import AUTO, SOURCE, BadPageError, Endpoint, is_page
from openme.client.errors import NotSentError, ProfileError, SigningError
from openme.client.known import PastKnock
from openme.client.plan import by_family, hangs_on_prefixes, is_translated, packets, target
from openme.config.profile_model import Profile
from openme.keys.ratchet import epoch_at
from openme.moments import day
from openme.wire.base import Keys, ReceiptKeys, Version
from openme.wire.knock import RANDOM_NONCE_SIZE, IPAddress, Knock
from openme.wire.versions import VERSIONS, by_name

if TYPE_CHECKING:
    from openme.client.driver import Driver
    from openme.client.identity import Checked
    from openme.keys.ed25519 import Signer


class Sent(NamedTuple):
    """One datagram that has left: to `endpoint`, naming `target` (None: the address that it comes from).

    `past` is what a version 2 knock can be asked about later; None under version 1. `told_by`: the page that gave the
    address. `is_own`: the address is the one that this machine sends from.
    """

    endpoint: Endpoint
    target: IPAddress | None
    past: PastKnock | None = None
    told_by: str | None = None
    is_own: bool = False


class Attempt(NamedTuple):
    """What became of knocking over every family: the datagrams `sent`, and of the `failed` ones (endpoint, reason).

    `left_out`: how many addresses the name has beyond those that are knocked at. `unnamed`: the families, as `IPv4`,
    that were not knocked over since the page that was to tell our address did not, and why.
    """

    sent: tuple[Sent, ...]
    failed: tuple[tuple[Endpoint, str], ...]
    left_out: int = 0
    unnamed: tuple[tuple[str, str], ...] = ()


class Built(NamedTuple):
    """A packet, and under version 2 its epoch and what opens its receipt."""

    datagram: bytes
    epoch: int
    receipt: ReceiptKeys | None


def version_of(profile: Profile) -> Version:
    """The wire version that a profile knocks with: the first that it has keys for, unless it says otherwise."""
    if profile.protocol is not None:
        return by_name(profile.protocol)
    return next(version for version in VERSIONS if version.keys is not Keys.EPOCH or profile.epoch_keys is not None)


def protocol_of(profile: Profile) -> str:
    """What a config calls the wire version that a profile knocks with: `v1` or `v2`."""
    return version_of(profile).name


def build(
    profile: Profile,
    target: IPAddress | None,
    now_ns: int,
    epoch_keys: Mapping[int, bytes] | None = None,
    identity: "Signer | None" = None,
) -> Built:
    """A fresh packet for this profile.

    `epoch_keys` are all that are known, by epoch; None for those of the profile itself. `identity`: who signs, in place
    of the profile's private key. Every call draws new randomness. ProfileError if a key is missing.
    """
    signer = identity or profile.private_key
    if signer is None:
        raise ProfileError(
            f"profile {profile.name} has no private_key",
            "import the file that 'openme add' made for this client: openme import FILE",
        )
    knock = Knock(now_ns, secrets.token_bytes(RANDOM_NONCE_SIZE), target)
    version = version_of(profile)
    epoch, key, field = 0, profile.server_pubkey, "server_pubkey"
    cure = "get the server's key again"
    if version.keys is Keys.EPOCH:
        epoch, key = _epoch_key(profile, version, now_ns, epoch_keys)
        field, cure = "epoch_keys", "get a new file from the server"
    try:
        datagram, receipt = version.seal(key, signer, knock)
    except ValueError as error:
        raise ProfileError(f"profile {profile.name}: {field}: {error}", cure) from None
    return Built(datagram, epoch, receipt)


def _epoch_key(profile: Profile, version: Version, now_ns: int, known: Mapping[int, bytes] | None) -> tuple[int, bytes]:
    """The epoch of our clock, and its key. ProfileError with the clock and the dates that there are keys for."""
    keys = profile.epoch_keys
    if keys is None:
        raise ProfileError(
            f"profile {profile.name} has no epoch_keys, which protocol: {version.name} needs",
            "get a file with them from the server (openme renew NAME), or remove protocol",
        )
    length = int(keys.length)
    if known is None:
        known = keys.by_epoch()
    epoch = epoch_at(now_ns, length)
    if epoch not in known:
        first, last = min(known), max(known)
        raise ProfileError(
            f"profile {profile.name} has no epoch key for this machine's date, {day(now_ns // 10**9)}:"
            f" it has keys from {day(first * length)} to {day((last + 1) * length - 1)}",
            "if the date is wrong, set the clock; else get a new file from the server: openme renew NAME",
        )
    return epoch, known[epoch]


AskPage = Callable[[str, socket.AddressFamily, int], IPAddress]
Prefixes = Callable[[IPv6Address], Iterable[IPv6Network]]


def _ask_page(url: str, family: socket.AddressFamily, version: int) -> IPAddress:
    from openme.client.address_page import fetch  # noqa: PLC0415  # with ssl and http, which few profiles need

    return fetch(url, family, version)


async def send(
    driver: "Driver",
    profile: Profile,
    wanted: str | None,
    epoch_keys: Mapping[int, bytes] | None = None,
    *,
    identity: "Checked | None" = None,
    prefixes: Prefixes = lambda _own: (),
    page: AskPage = _ask_page,
) -> Attempt:
    """Send one knock for each address family that the server's name has, to all its addresses of that family.

    `wanted`: see `plan.target`, or the URL of a page that `page` asks over that family (`address_page.fetch`); without
    it version 2 names our own address where that is a global one. `prefixes`: those of the NAT64 in the network where
    we have this address; asked where it matters. What cannot be sent, or is not signed, is no failure as long as
    something could be sent; NotSentError, SigningError if nothing could.
    """
    port = profile.server_udp_port
    sent: list[Sent] = []
    failed: list[tuple[Endpoint, str]] = []
    unnamed: list[tuple[str, str]] = []
    left_out = 0
    for family in by_family(await driver.resolve(profile.server_host, port)):
        left_out += family.left_out
        own, reached = _reached(driver, family.endpoints, port, failed)
        if own is None:
            continue
        try:
            # One packet for all of them, named after the address that the first one is reached from.
            named = await _named(driver, profile, wanted, own, family.endpoints, prefixes=prefixes, page=page)
        except BadPageError as error:
            # Never the source address instead: whoever keeps the page away would have a knock to steal.
            field = "ip" if wanted == profile.ip else "--ip"
            over = "IPv6" if family.endpoints[0].family == socket.AF_INET6 else "IPv4"
            unnamed.append((over, f"profile {profile.name}: {field}: {wanted}: {error}"))
            continue
        try:
            built, now_ns = await _built(driver, profile, named, epoch_keys, identity)
        except SigningError as error:
            if not sent:
                raise
            failed += ((endpoint, error.message) for endpoint in reached)
            continue
        if named == own and wanted in {None, AUTO} and not _is_still(driver, reached[0], port, own):
            # Whoever has the address now must not get the door: a signature and a resolver may have taken a while.
            failed += ((endpoint, f"this machine no longer has the address {own}") for endpoint in reached)
            continue
        for endpoint, datagram, pause in packets(reached, built.datagram, version_of(profile).pause):
            if pause and sent:
                await driver.pause(pause)
            try:
                driver.send(endpoint, port, datagram)
            except OSError as error:
                failed.append((endpoint, error.strerror or str(error)))
                continue
            past = None
            if built.receipt is not None:
                past = PastKnock(endpoint.host, named, now_ns, built.epoch, built.receipt)
            sent.append(Sent(endpoint, named, past, wanted if is_page(wanted) else None, named == own))
    if not sent:
        reasons = "; ".join(f"{where}: {reason}" for where, reason in (*failed, *unnamed))
        cure = "name the address yourself with --ip, or another page" if unnamed else "check this machine's network"
        raise NotSentError(f"no knock could be sent: {reasons}", cure)
    return Attempt(tuple(sent), tuple(failed), left_out, tuple(unnamed))


def _reached(
    driver: "Driver", endpoints: tuple[Endpoint, ...], port: int, failed: list[tuple[Endpoint, str]]
) -> tuple[IPAddress | None, tuple[Endpoint, ...]]:
    """The address from which the first that can be reached is, and the endpoints from that one on."""
    for at, endpoint in enumerate(endpoints):
        try:
            return driver.source(endpoint, port), endpoints[at:]
        except OSError as error:
            failed.append((endpoint, error.strerror or str(error)))
    return None, ()


def _is_still(driver: "Driver", endpoint: Endpoint, port: int, own: IPAddress) -> bool:
    """Whether this machine sends to there from that address now."""
    try:
        return driver.source(endpoint, port) == own
    except OSError:
        return False


async def _built(
    driver: "Driver",
    profile: Profile,
    named: IPAddress | None,
    epoch_keys: Mapping[int, bytes] | None,
    identity: "Checked | None",
) -> tuple[Built, int]:
    """The packet, and the time in it. Who signs elsewhere may take a while."""
    now_ns = driver.now_ns()
    if identity is None:
        return build(profile, named, now_ns, epoch_keys), now_ns
    built = await driver.call(lambda: build(profile, named, now_ns, epoch_keys, identity), identity.interrupt)
    return built, now_ns


async def _named(
    driver: "Driver",
    profile: Profile,
    wanted: str | None,
    own: IPAddress,
    endpoints: tuple[Endpoint, ...],
    *,
    prefixes: Prefixes,
    page: AskPage,
) -> IPAddress | None:
    """The address that a knock to these endpoints names; BadPageError if the page that is to tell it does not."""
    if wanted is not None and is_page(wanted):
        if not isinstance(own, IPv6Address):
            return await driver.call(lambda: page(wanted, socket.AF_INET, 4))
        # Behind NAT64 the server sees an IPv4 address, and so does a page without IPv6.
        networks = await driver.call(lambda: prefixes(own))
        version = 4 if is_translated(endpoints, networks) else 6
        return await driver.call(lambda: page(wanted, socket.AF_INET6, version))
    by_default = AUTO if version_of(profile).names_own_address else SOURCE
    named = target(wanted, own, endpoints, by_default=by_default)
    if isinstance(own, IPv6Address) and hangs_on_prefixes(wanted, own, named, by_default=by_default):
        networks = await driver.call(lambda: prefixes(own))
        named = target(wanted, own, endpoints, networks, by_default=by_default)
    return named
