"""What a client learns beside its file: epoch keys that came with receipts, and its last knock (spec wire-v2.md).

It lies in a directory beside the client's file, `config.yaml.known` for `config.yaml`. Each file there is named after
the first epoch key of the profile that it belongs to, and goes when the profile is replaced by a new one: after a theft
of the server the thief may have planted keys.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple

from openme.client.errors import KeysRefusedError, ProfileError
from openme.config.profile_model import ClientConfig, EpochKeys, Profile
from openme.files import replace_file
from openme.keys.ed25519 import KEY_SIZE
from openme.keys.x25519 import is_usable
from openme.wire.base import RECEIPT_ID_SIZE, RECEIPT_KEY_SIZE, RECEIPT_NONCE_SIZE, ReceiptKeys
from openme.wire.knock import IPAddress
from openme.wire.receipt import EpochKeyList

_NETWORKS = "networks.json"
HORIZON = 53
"""Epochs, from a knock's own on, for which a client takes keys from its receipt (spec wire-v2.md "Receipt")."""


class PastKnock(NamedTuple):
    """One version 2 datagram that was sent: to which address, for which target, when, and what opens its receipt."""

    host: str
    target: IPAddress | None
    sent_ns: int
    epoch: int
    receipt: ReceiptKeys


class Known:
    """What is kept beside one client file."""

    def __init__(self, config: ClientConfig) -> None:
        self._config = config
        self._directory = config.path.with_name(f"{config.path.name}.known")

    @property
    def directory(self) -> Path:
        """Where it is kept; made when there is something to keep."""
        return self._directory

    # -- epoch keys

    def keys(self, profile: Profile) -> Mapping[int, bytes]:
        """The epoch keys of a profile by epoch: those of its file, then those that came later."""
        if profile.epoch_keys is None:
            return {}
        keys = profile.epoch_keys.by_epoch()
        value = self._read(self._keys_path(profile.epoch_keys))
        try:
            first, raw = value["first"], base64.b64decode(value["keys"], validate=True)
        except (KeyError, TypeError, ValueError):
            return keys
        if type(first) is not int or first != profile.epoch_keys.first or len(raw) % KEY_SIZE:
            return keys
        return dict(enumerate((raw[at : at + KEY_SIZE] for at in range(0, len(raw), KEY_SIZE)), first)) | keys

    def add(self, profile: Profile, epoch: int, received: EpochKeyList) -> None:
        """Take over the keys that came with the receipt of a knock in `epoch`.

        Only what follows on those that are there, without a gap, and within the horizon: none is ever replaced.
        KeysRefusedError if one of them must not be believed, OSError if the disk refuses; none was stored then.
        """
        if profile.epoch_keys is None:
            return
        known = self.keys(profile)
        offered = dict(enumerate(received.keys, received.first))
        for index in known.keys() & offered.keys():
            if known[index] != offered[index]:
                raise KeysRefusedError("an epoch key in the receipt differs from one that is known: none was stored")
        added: list[bytes] = []
        following = max(known) + 1
        while following + len(added) < epoch + HORIZON and (key := offered.get(following + len(added))) is not None:
            added.append(key)
        if not added:
            return
        if not all(map(is_usable, added)):
            raise KeysRefusedError("an epoch key in the receipt is a low-order point: none was stored")
        if (other := self.other_host_with(profile, added)) is not None:
            raise KeysRefusedError(
                f"profile {other.name} ({other.server_host}) already has an epoch key of the receipt: none was stored"
            )
        # Those of the file as well: another profile with the same first key may have fewer.
        every = [known[index] for index in sorted(known)] + added
        value = {"first": profile.epoch_keys.first, "keys": base64.b64encode(b"".join(every)).decode("ascii")}
        self._write(self._keys_path(profile.epoch_keys), value, durable=True)

    def other_host_with(self, profile: Profile, keys: Iterable[bytes]) -> Profile | None:
        """A profile for another host that has one of these epoch keys, and is not said to be the same server."""
        wanted = set(keys)
        for other in self._config.profiles.values():
            if other.server_host in {profile.server_host, *profile.same_server_as}:
                continue
            if profile.server_host not in other.same_server_as and wanted & set(self.keys(other).values()):
                return other
        return None

    def other_host_with_server_key(self, profile: Profile) -> Profile | None:
        """A profile for another host that has the same version 1 key, and the same or an unknown client key.

        Under version 1 nothing in a knock names the server but that key, so that one could be passed on to the other.
        """
        for other in self._config.profiles.values():
            if other.server_pubkey != profile.server_pubkey or other.server_host in {
                profile.server_host,
                *profile.same_server_as,
            }:
                continue
            keys = {profile.public_key, other.public_key}
            if profile.server_host not in other.same_server_as and (len(keys) == 1 or None in keys):
                return other
        return None

    def refuse_shared_epoch_keys(self, profile: Profile) -> None:
        """ProfileError if another host's profile has one of the epoch keys in this one's file (spec wire-v2.md)."""
        keys = () if profile.epoch_keys is None else profile.epoch_keys.keys
        if (other := self.other_host_with(profile, keys)) is not None:
            raise ProfileError(
                f"profile {profile.name}: epoch_keys: profile {other.name} for {other.server_host} has the same:"
                " one server may be passing the other's keys off as its own",
                _one_server(profile, other),
            )

    def refuse_shared_server_key(self, profile: Profile) -> None:
        """ProfileError if another host's profile has the version 1 key of this one, and may have its client key."""
        if (other := self.other_host_with_server_key(profile)) is not None:
            raise ProfileError(
                f"profile {profile.name}: server_pubkey: profile {other.name} for {other.server_host} has the same,"
                " and is signed for by the same key: one server may be passing the other's key off as its own",
                _one_server(profile, other),
            )

    # -- the last knock

    def remember(self, profile: Profile, knocks: Iterable[PastKnock]) -> None:
        """Keep what opens the receipts of this profile's last knock. OSError if the disk refuses."""
        if (path := self._knock_path(profile)) is not None:
            self._write(path, {"knocks": [_value(knock) for knock in knocks]})

    def last(self, profile: Profile) -> list[PastKnock]:
        """The datagrams of this profile's last knock; none if nothing is known of it."""
        path = self._knock_path(profile)
        value = {} if path is None else self._read(path)
        try:
            return [_knock(item) for item in value["knocks"]]
        except (KeyError, TypeError, ValueError, OverflowError):
            return []

    # -- asking for new keys

    def tried(self, profile: Profile) -> int | None:
        """When this profile last tried to renew its keys, in Unix seconds; None if nothing is known of it."""
        path = self._tried_path(profile)
        value = None if path is None else self._read(path).get("tried")
        return value if type(value) is int else None

    def note_try(self, profile: Profile, unix: int) -> None:
        """Keep that this profile tries at this time. OSError if the disk refuses."""
        if (path := self._tried_path(profile)) is not None:
            self._write(path, {"tried": unix})

    # -- networks

    def networks(self) -> dict[str, Any]:
        """What was learnt of the networks that this machine has been in; see `nat64.Nat64`."""
        return self._read(self._directory / _NETWORKS)

    def note_networks(self, value: Mapping[str, Any]) -> None:
        """Keep it; what cannot be kept is asked again."""
        with suppress(OSError):
            self._write(self._directory / _NETWORKS, value)

    # -- files

    def _tried_path(self, profile: Profile) -> Path | None:
        path = self._knock_path(profile)
        return None if path is None else path.with_name(f"{path.name.removesuffix('.knock.json')}.tried.json")

    def _keys_path(self, keys: EpochKeys) -> Path:
        return self._directory / f"{_name(keys)}.keys.json"

    def _knock_path(self, profile: Profile) -> Path | None:
        if profile.epoch_keys is None or profile.public_key is None:
            return None
        return self._directory / f"{_name(profile.epoch_keys)}.{profile.public_key.fingerprint}.knock.json"

    @staticmethod
    def _read(path: Path) -> dict[str, Any]:
        """What one of our files says; nothing if it is not there, or not as we would have written it."""
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def _write(self, path: Path, value: Mapping[str, Any], *, durable: bool = False) -> None:
        """Put a file there. Only what costs more to learn anew than a sync does is `durable`."""
        path.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, json.dumps(value).encode(), durable=durable)
        for stale in self._stale():
            with suppress(OSError):
                stale.unlink()

    def _stale(self) -> Iterator[Path]:
        """Files of profiles that have been replaced."""
        names = {_name(profile.epoch_keys) for profile in self._config.profiles.values() if profile.epoch_keys}
        for path in self._directory.glob("*.json"):
            if path.name != _NETWORKS and path.name.partition(".")[0] not in names:
                yield path


def refuse_shared_keys(config: ClientConfig, profile: Profile) -> None:
    """ProfileError if the profile has keys that one for another host has (spec wire-v2.md)."""
    known = Known(config)
    known.refuse_shared_epoch_keys(profile)
    if profile.identity is not None:
        known.refuse_shared_server_key(profile)


def _one_server(profile: Profile, other: Profile) -> str:
    """The profile that was there first is one that can be edited, whatever becomes of this one."""
    return f"if both are one server, add to profile {other.name}: same_server_as: [{profile.server_host}]"


def _name(keys: EpochKeys) -> str:
    return hashlib.sha256(keys.keys[0]).hexdigest()[:16]


def _value(knock: PastKnock) -> dict[str, Any]:
    return {
        "host": knock.host,
        "target": None if knock.target is None else str(knock.target),
        "sent_ns": knock.sent_ns,
        "epoch": knock.epoch,
        "receipt": [part.hex() for part in (knock.receipt.id, knock.receipt.key, knock.receipt.nonce)],
    }


def _knock(value: dict[str, Any]) -> PastKnock:
    receipt_id, key, nonce = map(bytes.fromhex, value["receipt"])
    if (len(receipt_id), len(key), len(nonce)) != (RECEIPT_ID_SIZE, RECEIPT_KEY_SIZE, RECEIPT_NONCE_SIZE):
        raise ValueError("receipt")
    return PastKnock(
        host=str(value["host"]),
        target=None if value["target"] is None else ip_address(value["target"]),
        sent_ns=int(value["sent_ns"]),
        epoch=int(value["epoch"]),
        receipt=ReceiptKeys(receipt_id, key, nonce),
    )
