"""What does a datagram cost that the kernel filter drops, and what where the listener makes the check itself?

    sudo .venv/bin/python -m bench.studies.kernel_filter [ROUNDS]

The first table is of the checks alone, in nanoseconds: the program by the kernel's own test run, the listener's
function, and the bare hash of PyNaCl. The second one is of whole datagrams over loopback, sending included, in
microseconds of the processor's time: dropped by the filter, or taken by `recvfrom` and refused in this process. The
median of each is shown.
"""

import secrets
import socket
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress

from nacl.bindings import crypto_shorthash_siphash24

from openme.kernel_filter.filter import put_before
from openme.kernel_filter.program import knock_filter
from openme.knock_size import KNOCK_SIZE
from openme.listener.listener import Listener
from openme.seam.messages import ForgetEpochKey, UseEpochKey, UseV1Key
from openme.wire.knock import BadPacket
from support.judged import Judge, judging
from support.knocks import EPOCH, SERVER, obey, packet_v2, ratchet
from support.shaped import shaped

RUNS = 100_000  # of the program, a round
CALLS = 20_000  # of a Python function, a round
DATAGRAMS = 20_000  # a round
OWN = b"\x03"  # begins noise that has not version 1's shape by chance


def noise() -> bytes:
    """Random bytes of the right length."""
    return OWN + secrets.token_bytes(KNOCK_SIZE - 1)


def called(check: Callable[[], object]) -> float:
    """Nanoseconds of a call."""
    begun = time.process_time_ns()
    for _ in range(CALLS):
        check()
    return (time.process_time_ns() - begun) / CALLS


def checked(listener: Listener, datagram: bytes) -> Callable[[], None]:
    """The listener's check of a datagram."""

    def check() -> None:
        with suppress(BadPacket):
            listener.version_untrusted(datagram)

    return check


def checks(judge: Judge, rounds: int) -> None:
    """The first table."""
    listener = Listener(judge.filter)
    judge.filter.judge()
    give = [UseEpochKey(epoch, ratchet().private_key(epoch)) for epoch in (EPOCH, EPOCH + 1)]
    obey(listener, give[0])
    knock = packet_v2(label="bench")
    print(f"program: {len(knock_filter())} instructions\n\n{'ns a packet':34}{'kernel':>9}{'listener':>10}{'times':>8}")

    def row(name: str, datagram: bytes) -> None:
        kernel = statistics.median(judge.run(datagram, RUNS)[1] for _ in range(rounds))
        process = statistics.median(called(checked(listener, datagram)) for _ in range(rounds))
        print(f"{name:34}{kernel:9.0f}{process:10.0f}{process / kernel:8.0f}")

    row("another length", noise()[:100])
    row("noise, one live epoch", noise())
    row("copies of a knock", knock)
    obey(listener, give[1])
    row("noise, two live epochs", noise())
    obey(listener, ForgetEpochKey(EPOCH + 1))
    obey(listener, UseV1Key(0, SERVER.raw))
    row("noise, version 1 on", noise())
    row("version 1's shape, copies", shaped())
    content, key = secrets.token_bytes(157), secrets.token_bytes(16)
    bare = statistics.median(called(lambda: crypto_shorthash_siphash24(content, key)) for _ in range(rounds))
    print(f"{'(the hash alone, PyNaCl)':34}{'':9}{bare:10.0f}")


def sent(knock: socket.socket, take: Callable[[socket.socket], None]) -> float:
    """Microseconds of the processor's time for a datagram of noise that is sent and taken."""
    datagrams = [noise() for _ in range(1000)]
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.connect(knock.getsockname())
        begun = time.process_time_ns()
        for number in range(DATAGRAMS):
            sender.send(datagrams[number % 1000])
            take(knock)
    return (time.process_time_ns() - begun) / DATAGRAMS / 1000


def whole(rounds: int) -> None:
    """The second table."""
    listener = Listener()
    obey(listener, UseEpochKey(EPOCH, ratchet().private_key(EPOCH)))

    def refuse(knock: socket.socket) -> None:
        datagram, _ = knock.recvfrom(KNOCK_SIZE + 1)
        with suppress(BadPacket):
            listener.version_untrusted(datagram)

    def nothing(_knock: socket.socket) -> None:
        """It is dropped already."""

    found: dict[str, list[float]] = {"dropped by the filter": [], "refused by the process": []}
    for _ in range(rounds):
        for name, costs in found.items():
            with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as knock:
                knock.bind(("127.0.0.1", 0))
                if name == "dropped by the filter":
                    with closing(put_before(knock)) as made:
                        obey(Listener(made), UseEpochKey(EPOCH, ratchet().private_key(EPOCH)))
                        made.judge()
                        costs.append(sent(knock, nothing))
                        if (dropped := made.dropped().total()) != DATAGRAMS:
                            raise SystemExit(f"the filter has dropped {dropped} of {DATAGRAMS}")
                else:
                    costs.append(sent(knock, refuse))
    print("\nµs a datagram of noise, sending included")
    for name, costs in found.items():
        print(f"{name:34}{statistics.median(costs):9.2f}")


def main() -> None:
    """Print both tables."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with judging() as judge:
        checks(judge, rounds)
    whole(rounds)


if __name__ == "__main__":
    main()
