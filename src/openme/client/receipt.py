"""Asking the server's health port for the receipt of a knock, and judging what it says (spec wire-v2.md "Receipt")."""

import socket
import struct
import time
from typing import TYPE_CHECKING, NamedTuple

from openme.client.addresses import Endpoint
from openme.client.known import PastKnock
from openme.wire.knock import BadPacket
from openme.wire.receipt import MAX_SIZE, Receipt, open_receipt_untrusted

if TYPE_CHECKING:
    from openme.client.driver import Driver

PATIENCE = 3.0  # seconds in which a receipt is asked for again while the server does not know it yet
CLOCK_DIFFERENCE = 5.0  # seconds between the clocks that are worth a word
CONNECT_SECONDS = 1.0
READ_SECONDS = 2.5  # a little more than a server waits
_PAUSE = 0.05
RESET, ORDERLY = struct.pack("ii", 1, 0), struct.pack("ii", 0, 0)  # socket(7), SO_LINGER
_LEAST = 0.001  # seconds: a timeout of zero would mean not to wait for anything, and be another error


class Proof(NamedTuple):
    """What became of asking for a receipt: `receipt`, or None and `problem`, in words for the user.

    `endpoint`: who was asked. `knock`: which knock it is the receipt of.
    """

    endpoint: Endpoint
    knock: PastKnock
    receipt: Receipt | None
    problem: str | None = None

    @property
    def opened_as_asked(self) -> bool:
        """Whether the server proved itself, and opened what the knock named, if it named an address."""
        return self.receipt is not None and self.knock.target in {None, self.receipt.ip}

    @property
    def clock_difference(self) -> float | None:
        """Seconds by which the server's clock is ahead of ours, if that is worth a word."""
        if self.receipt is None:
            return None
        difference = self.receipt.server_time - self.knock.sent_ns / 10**9
        return difference if abs(difference) > CLOCK_DIFFERENCE else None


async def prove(
    driver: "Driver",
    endpoint: Endpoint,
    port: int,
    knock: PastKnock,
    patience: float = PATIENCE,
    *,
    limit: float = CONNECT_SECONDS + READ_SECONDS,
) -> Proof:
    """Ask for a receipt, again for `patience` seconds while the server closes without a word.

    `limit`: seconds that one time of asking may take, from connecting to the last byte.
    """
    deadline = driver.monotonic() + patience
    while True:
        answer = await driver.ask(endpoint, port, knock.receipt.id, limit)
        if answer:
            try:
                return Proof(endpoint, knock, open_receipt_untrusted(answer, knock.receipt))
            except BadPacket:
                return Proof(endpoint, knock, None, "something else than the server answered on the health port")
        if driver.monotonic() + _PAUSE >= deadline:
            return Proof(endpoint, knock, None, "the server gave no receipt")
        await driver.pause(_PAUSE)


def ask(endpoint: Endpoint, port: int, receipt_id: bytes, seconds: float) -> bytes:
    """All that is said on the health port to this receipt id, one byte more than allowed at most; empty for nothing.

    `seconds`: for all of it, from connecting to the last byte.
    """
    limit = time.monotonic() + seconds
    answer = bytearray()
    try:
        with socket.socket(endpoint.family, socket.SOCK_STREAM) as asking:
            asking.settimeout(max(_LEAST, min(CONNECT_SECONDS, limit - time.monotonic())))
            asking.connect((endpoint.host, port))
            # A reset unless all was read: the server takes an orderly end for the word that it was.
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            asking.sendall(receipt_id)
            end = min(limit, time.monotonic() + READ_SECONDS)
            while len(answer) <= MAX_SIZE and (left := end - time.monotonic()) > 0:
                asking.settimeout(left)
                chunk = asking.recv(MAX_SIZE + 1 - len(answer))
                if not chunk:
                    asking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ORDERLY)
                    break
                answer += chunk
    except OSError:
        return b""
    return bytes(answer)
