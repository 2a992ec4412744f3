"""What another clock says: one question to an NTP server (RFC 5905, the client of RFC 4330), whose answer decides
nothing but what doctor says.
"""

import secrets
import selectors
import socket
import struct
import time
from contextlib import ExitStack
from typing import NamedTuple

PORT = 123
SECONDS = 3.0
"""For the answer. The name is looked up before."""
_MOST_ASKED = 4  # addresses of the server's
_HEAD = struct.Struct("!BBbb4s4s4s8s8s8s8s")  # RFC 5905 figure 8, without extensions
_QUESTION = 0x23  # version 4, mode 3: a client
_ANSWER_MODE = 4
_VERSIONS = (3, 4)
_UNSYNCHRONISED = 3  # the leap indicator of a server that does not know the time
_MOST_STRATA = 15
_COOKIE_SIZE = 8
_EPOCH_1900 = 2_208_988_800  # seconds from 1900 to 1970
_ERA = 1 << 32  # seconds; RFC 4330 section 3: a first half of an era is that from 2036 on


class BadAnswerError(ValueError):
    """What came is no answer to our question."""


class Measured(NamedTuple):
    """`offset`: seconds by which the other clock is ahead of ours, right to half of `delay`, that of the way there and
    back.
    """

    offset: float
    delay: float


def measure(host: str, *, port: int = PORT, seconds: float = SECONDS) -> Measured | None:
    """Ask `host`, all of its addresses at once: the first answer; None if none comes. OSError for an unknown name."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    end = time.monotonic() + seconds
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for family, kind, _, _, address in list(dict.fromkeys(found))[:_MOST_ASKED]:
            try:
                asking = stack.enter_context(socket.socket(family, kind))
                asking.connect(address)
                # Where our own time would stand in it the question has a number that nobody can guess.
                cookie = secrets.token_bytes(_COOKIE_SIZE)
                asked = time.time(), time.monotonic()
                asking.send(_HEAD.pack(_QUESTION, 0, 0, 0, b"", b"", b"", b"", b"", b"", cookie))
            except OSError:
                continue
            selector.register(asking, selectors.EVENT_READ, (cookie, *asked))
        while selector.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                cookie, sent, begun = key.data
                try:
                    answer = key.fileobj.recv(_HEAD.size + 1024)  # type: ignore[union-attr]  # only sockets are there
                    received, answered = times_untrusted(answer, cookie)
                except (OSError, BadAnswerError):
                    selector.unregister(key.fileobj)
                    continue
                way = time.monotonic() - begun
                back = sent + way  # our clock may be set meanwhile
                return Measured(((received - sent) + (answered - back)) / 2, max(0.0, way - (answered - received)))
    return None


def times_untrusted(answer: bytes, cookie: bytes) -> tuple[float, float]:
    """When the question came and the answer left, in Unix seconds by the server's clock. BadAnswerError.

    Only of an answer to the question with this cookie, by a server that says that it knows the time.
    """
    if len(answer) < _HEAD.size:
        raise BadAnswerError("it is too short")
    first, stratum, _, _, _, _, _, _, origin, received, answered = _HEAD.unpack_from(answer)
    if first & 7 != _ANSWER_MODE or first >> 3 & 7 not in _VERSIONS or origin != cookie:
        raise BadAnswerError("it is no answer to the question")
    if first >> 6 == _UNSYNCHRONISED or not 0 < stratum <= _MOST_STRATA or not any(answered):
        raise BadAnswerError("that server does not know the time")
    return _unix(received), _unix(answered)


def _unix(stamp: bytes) -> float:
    seconds, fraction = struct.unpack("!II", stamp)
    return float(seconds + (0 if seconds >> 31 else _ERA) - _EPOCH_1900 + fraction / _ERA)
