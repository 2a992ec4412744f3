"""What a datagram costs the server under each wire version, and one client among many: side by side, as ratios.

    .venv/bin/python -m bench.studies.wire_v2 [ROUNDS]

Needs no root: listener and keeper are plain objects. Every figure is the median of ROUNDS (2,000), one core.
"""

import logging
import secrets
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace

from bench.timing import timed
from openme.config.model import ClientEntry  # noqa: TC001  # a script
from openme.keeper.registry import Registry
from openme.keys.ed25519 import ClientPrivateKey
from openme.wire import v1, v2
from openme.wire.knock import BadPacket
from support.knocks import ALICE, EPOCH, HOME, NOW, SERVER, config, frame, keeper, listener, packet, packet_v2, ratchet

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 2000


def median(action: Callable[[], object]) -> float:
    """Microseconds."""
    return statistics.median(timed(action, ROUNDS)) * 1e6


def refused(datagram: bytes) -> Callable[[], None]:
    """The listener drops this one."""
    ears = listener()

    def drop() -> None:
        try:
            ears.frame_untrusted(datagram, HOME)
        except BadPacket:
            return
        raise AssertionError("this was no noise")

    return drop


def line(what: str, microseconds: float, against: float) -> None:
    """One figure and its ratio."""
    print(f"{what:<64}{microseconds:9.1f} µs {microseconds / against:8.2f}")


def main() -> None:
    """Print the table."""
    logging.getLogger("openme").addHandler(logging.NullHandler())
    logging.getLogger("openme").propagate = False
    ears = listener()
    old, new = packet(), packet_v2()
    base = median(lambda: ears.frame_untrusted(old, HOME))
    print(f"{'':<64}{'median':>12} {'ratio':>8}")
    line("listener: a version 1 knock, from datagram to frame", base, base)
    line("listener: a version 2 knock", median(lambda: ears.frame_untrusted(new, HOME)), base)
    line("listener: 165 random bytes", median(refused(b"\x02" + secrets.token_bytes(164))), base)
    line("listener: 165 random bytes that begin with 0x01", median(refused(b"\x01" + secrets.token_bytes(164))), base)

    judge = keeper()
    v1_frame, v2_frame = frame(old), frame(new)
    first = median(lambda: judge.judge_untrusted(v1_frame, NOW))
    line("keeper: a version 1 knock (a copy, two clients)", first, base)
    line("keeper: a version 2 knock (a copy, two clients)", median(lambda: judge.judge_untrusted(v2_frame, NOW)), base)

    epoch_public = ratchet().public_keys(EPOCH, 1)[0]
    schedule = v2.schedule_untrusted(new, ratchet().private_key(EPOCH), epoch_public)
    signed = v2.open_untrusted(new, schedule.aead_key, schedule.aead_nonce)
    pattern = next(iter(config().clients.values()))
    crowd: list[ClientEntry] = [
        replace(pattern, name=str(number), public_key=ClientPrivateKey(number.to_bytes(32, "big")).public)
        for number in range(100_000)
    ]
    alice = replace(pattern, name="alice", public_key=ALICE.public)

    def found(registry: Registry) -> None:
        for client in registry.by_key_id(signed.key_id):
            if v2.signed_by(new, signed, epoch_public, client.public_key):
                return
        raise AssertionError("not found")

    for count in (10, 100_000):
        registry = Registry([*crowd[: count - 1], alice])
        line(f"registry: version 2, one client among {count:,}", median(lambda r=registry: found(r)), base)  # type: ignore[misc]
    ten = Registry([*crowd[:9], alice])
    line(
        "registry: version 1, the last of 10, by search",
        median(lambda: next(c for c in ten.search(lambda key: v1.signed_by(old, key)) if c is not None)),
        base,
    )
    key = v1.aead_key_untrusted(old, SERVER.raw)
    line("version 1: AEAD alone", median(lambda: v1.open_untrusted(old, key)), base)


if __name__ == "__main__":
    main()
