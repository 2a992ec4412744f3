"""Sending knocks."""

import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import NamedTuple

from openme.client.addresses import AUTO, SOURCE, BadPageError, Endpoint, is_page, local_address, resolve
from openme.client.known import PastKnock
from openme.client.plan import by_family, is_translated, target
from openme.config.model import Profile
from openme.errors import OpenmeError
from openme.keys.ratchet import epoch_at
from openme.moments import day
from openme.wire.base import Keys, ReceiptKeys, Version
from openme.wire.knock import RANDOM_NONCE_SIZE, IPAddress, Knock
from openme.wire.versions import VERSIONS, by_name


@dataclass(frozen=True, slots=True)
class Sent:
    """One datagram that has left: where to, and the address that it names (None: the source address).

    `past` is what a version 2 knock can be asked about later; None under version 1. `told_by`: the page that gave the
    address. `is_own`: the address is the one that this machine sends from.
    """

    endpoint: Endpoint
    target: IPAddress | None
    past: PastKnock | None = None
    told_by: str | None = None
    is_own: bool = False


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of knocking over every family: the datagrams sent, and (endpoint, reason) of those that were not.

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


def build(
    profile: Profile, target: IPAddress | None, now_ns: int, epoch_keys: Mapping[int, bytes] | None = None
) -> Built:
    """A fresh packet for this profile.

    `epoch_keys` are all that are known, by epoch; None for those of the profile itself. Every call draws new
    randomness. OpenmeError if a key is missing.
    """
    if profile.private_key is None and profile.identity is not None:
        raise OpenmeError(f"profile {profile.name}: identity cannot be used yet", "use private_key")
    if profile.private_key is None:
        raise OpenmeError(
            f"profile {profile.name} has no private_key",
            "complete it with the file that 'openme add' made for this client",
        )
    knock = Knock(now_ns, secrets.token_bytes(RANDOM_NONCE_SIZE), target)
    version = version_of(profile)
    epoch, key, field = 0, profile.server_pubkey, "server_pubkey"
    cure = "get the server's key again"
    if version.keys is Keys.EPOCH:
        epoch, key = _epoch_key(profile, version, now_ns, epoch_keys)
        field, cure = "epoch_keys", "get a new file from the server"
    try:
        datagram, receipt = version.seal(key, profile.private_key, knock)
    except ValueError as error:
        raise OpenmeError(f"profile {profile.name}: {field}: {error}", cure) from None
    return Built(datagram, epoch, receipt)


def _epoch_key(profile: Profile, version: Version, now_ns: int, known: Mapping[int, bytes] | None) -> tuple[int, bytes]:
    """The epoch of our clock, and its key. OpenmeError with the clock and the dates that there are keys for."""
    keys = profile.epoch_keys
    if keys is None:
        raise OpenmeError(
            f"profile {profile.name} has no epoch_keys, which protocol: {version.name} needs",
            "get a file with them from the server (openme renew NAME), or remove protocol",
        )
    length = int(keys.length)
    if known is None:
        known = keys.by_epoch()
    epoch = epoch_at(now_ns, length)
    if epoch not in known:
        first, last = min(known), max(known)
        raise OpenmeError(
            f"profile {profile.name} has no epoch key for this machine's date, {day(now_ns // 10**9)}:"
            f" it has keys from {day(first * length)} to {day((last + 1) * length - 1)}",
            "if the date is wrong, set the clock; else get a new file from the server: openme renew NAME",
        )
    return epoch, known[epoch]


AskPage = Callable[[str, socket.AddressFamily, int], IPAddress]


def _ask_page(url: str, family: socket.AddressFamily, version: int) -> IPAddress:
    from openme.client.address_page import fetch  # noqa: PLC0415  # with ssl and http, which few profiles need

    return fetch(url, family, version)


def knock(
    profile: Profile,
    wanted: str | None,
    clock_ns: Callable[[], int] = time.time_ns,
    epoch_keys: Mapping[int, bytes] | None = None,
    *,
    prefixes: Callable[[IPv6Address], Iterable[IPv6Network]] = lambda _own: (),
    pause: Callable[[float], None] = time.sleep,
    page: AskPage = _ask_page,
) -> Attempt:
    """Send one knock for each address family that the server's name has, to all its addresses of that family.

    `wanted`: see `plan.target`, or the URL of a page that `page` asks over that family (`address_page.fetch`); without
    it version 2 names our own address where that is a global one. `prefixes`: those of the NAT64 in the network where
    we have this address; asked where it matters. What cannot be sent is no failure as long as something could be sent;
    OpenmeError if nothing could.
    """
    version = version_of(profile)
    sent: list[Sent] = []
    failed: list[tuple[Endpoint, str]] = []
    unnamed: list[tuple[str, str]] = []
    left_out = 0
    for family in by_family(resolve(profile.server_host, profile.server_udp_port)):
        left_out += family.left_out
        built: Built | None = None
        named: IPAddress | None = None
        is_own = False
        now_ns = 0
        for endpoint in family.endpoints:
            try:
                with socket.socket(endpoint.family, socket.SOCK_DGRAM) as sock:
                    sock.connect((endpoint.host, profile.server_udp_port))
                    if built is None:
                        # One packet for all of them, named after the address that the first one is reached from.
                        own = local_address(sock)
                        if wanted is not None and is_page(wanted):
                            named = _told(wanted, own, family.endpoints, prefixes, page)
                        else:
                            named = _target(wanted, own, family.endpoints, prefixes, version)
                        is_own = named == own
                        now_ns = clock_ns()
                        built = build(profile, named, now_ns, epoch_keys)
                    if version.pause and sent:
                        pause(version.pause)
                    sock.send(built.datagram)
            except OSError as error:
                failed.append((endpoint, error.strerror or str(error)))
                continue
            except BadPageError as error:
                # Never the source address instead: whoever keeps the page away would have a knock to steal.
                field = "ip" if wanted == profile.ip else "--ip"
                over = "IPv6" if endpoint.family == socket.AF_INET6 else "IPv4"
                unnamed.append((over, f"profile {profile.name}: {field}: {wanted}: {error}"))
                break
            past = None
            if built.receipt is not None:
                past = PastKnock(endpoint.host, named, now_ns, built.epoch, built.receipt)
            sent.append(Sent(endpoint, named, past, wanted if is_page(wanted) else None, is_own))
    if not sent:
        reasons = "; ".join(f"{where}: {reason}" for where, reason in (*failed, *unnamed))
        cure = "name the address yourself with --ip, or another page" if unnamed else "check this machine's network"
        raise OpenmeError(f"no knock could be sent: {reasons}", cure)
    return Attempt(tuple(sent), tuple(failed), left_out, tuple(unnamed))


def _told(
    url: str,
    own: IPAddress,
    endpoints: tuple[Endpoint, ...],
    prefixes: Callable[[IPv6Address], Iterable[IPv6Network]],
    page: AskPage,
) -> IPAddress:
    """The address that a page gives. Behind NAT64 the server sees an IPv4 one, and so does a page without IPv6."""
    if not isinstance(own, IPv6Address):
        return page(url, socket.AF_INET, 4)
    return page(url, socket.AF_INET6, 4 if is_translated(endpoints, prefixes(own)) else 6)


def _target(
    wanted: str | None,
    own: IPAddress,
    endpoints: tuple[Endpoint, ...],
    prefixes: Callable[[IPv6Address], Iterable[IPv6Network]],
    version: Version,
) -> IPAddress | None:
    by_default = AUTO if version.names_own_address else SOURCE
    named = target(wanted, own, endpoints, by_default=by_default)
    if named is None or (wanted or by_default) != AUTO or not isinstance(own, IPv6Address):
        return named
    return target(wanted, own, endpoints, prefixes(own), by_default=by_default)
