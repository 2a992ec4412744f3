"""Sending knocks."""

import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from openme.client.addresses import Endpoint, resolve, target_for
from openme.config.model import Profile
from openme.errors import OpenmeError
from openme.wire import v1
from openme.wire.knock import IPAddress, Knock


@dataclass(frozen=True, slots=True)
class Sent:
    """One datagram that has left: where to, and the address that it names (None: the source address)."""

    endpoint: Endpoint
    target: IPAddress | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of knocking over every family: the datagrams sent, and (endpoint, reason) of those that were not."""

    sent: tuple[Sent, ...]
    failed: tuple[tuple[Endpoint, str], ...]


def build(profile: Profile, target: IPAddress | None, now_ns: int) -> bytes:
    """A fresh version 1 packet for this profile; every call draws new randomness. OpenmeError if a key is missing."""
    if profile.private_key is None:
        raise OpenmeError(
            f"profile {profile.name} has no private_key",
            "complete it with the file that 'openme add' made for this client",
        )
    knock = Knock(now_ns, secrets.token_bytes(v1.RANDOM_NONCE_SIZE), target)
    try:
        return v1.seal(
            profile.server_pubkey,
            profile.private_key,
            knock,
            ephemeral_private=secrets.token_bytes(v1.EPHEMERAL_SIZE),
            aead_nonce=secrets.token_bytes(v1.AEAD_NONCE_SIZE),
        )
    except ValueError as error:
        raise OpenmeError(f"profile {profile.name}: server_pubkey: {error}", "get the server's key anew") from None


def knock(profile: Profile, wanted: str | None, clock_ns: Callable[[], int] = time.time_ns) -> Attempt:
    """Send one knock over each address family that the server's name has.

    `wanted`: see `addresses.target_for`. A family that this machine cannot send over is no failure as long as the
    other one works; OpenmeError if nothing could be sent.
    """
    sent: list[Sent] = []
    failed: list[tuple[Endpoint, str]] = []
    for endpoint in resolve(profile.server_host, profile.server_udp_port):
        try:
            with socket.socket(endpoint.family, socket.SOCK_DGRAM) as sock:
                sock.connect((endpoint.host, profile.server_udp_port))
                target = target_for(wanted, sock)
                sock.send(build(profile, target, clock_ns()))
        except OSError as error:
            failed.append((endpoint, error.strerror or str(error)))
        else:
            sent.append(Sent(endpoint, target))
    if not sent:
        reasons = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in failed)
        raise OpenmeError(f"no knock could be sent: {reasons}", "check this machine's network")
    return Attempt(tuple(sent), tuple(failed))
