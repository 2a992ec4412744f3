"""A page on the web whose text is the address that it was asked from, for machines that cannot know their own.

Whoever runs the page chooses whose address opens, and nobody else: https alone, the certificate checked against this
system's authorities, no redirect followed, no proxy used (the page would see the proxy's address). Imported only where
a profile asks for it, since `ssl` and `http` make a plain knock start later.
"""

import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable
from io import BytesIO
from ipaddress import IPv4Address, IPv6Network, ip_address

from openme.client.addresses import BadPageError, parse_page
from openme.client.waiting import within
from openme.visible import visible
from openme.wire.knock import IPAddress

PATIENCE = 3.0  # seconds for all of it: the name, the connection, TLS and the last byte
MOST_BYTES = 1024
"""Of the page's text."""
MOST_RAW = 16384
"""Bytes of the whole answer, head included."""

_MOST_TRIED = 4  # addresses of the page's host; each has its share of the time that is left
_MOST_SHOWN = 60  # characters of a page that says something else
_LEAST = 0.001  # seconds: a timeout of zero would mean not to wait for anything, and be another error
_UNICAST = IPv6Network("2000::/3")  # what IANA gives out as global unicast; Python calls the rest global as well

Look = Callable[[str, int, socket.AddressFamily], list[str]]


def fetch(
    url: str,
    family: socket.AddressFamily,
    version: int,
    *,
    patience: float = PATIENCE,
    context: ssl.SSLContext | None = None,
    look: Look | None = None,
) -> IPAddress:
    """The address that the page at `url` names when it is asked over `family`; BadPageError in at most `patience` s.

    `version`: 4 or 6, of the address; another one than the family's where NAT64 stands in between. `context`, `look`:
    TLS and the resolver, for tests; else this system's.
    """
    deadline = time.monotonic() + patience
    page = parse_page(url)
    try:
        with _connected(page.host, page.port, family, deadline, look or _look) as plain:
            raw, is_whole = _said(plain, page.host, _request(page.netloc, page.path), context, deadline)
    except ssl.SSLCertVerificationError as error:
        raise BadPageError(f"its certificate is not accepted: {visible(error.verify_message)}") from None
    except TimeoutError:
        raise BadPageError(f"no whole answer within {patience:g} s") from None
    except ssl.SSLError as error:
        raise BadPageError(f"no TLS: {visible(error.reason or 'the connection was cut')}") from None
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a host name"
        raise BadPageError(f"no connection: {reason or error}") from None
    return address_untrusted(text_untrusted(raw, is_whole=is_whole), version)


def _look(host: str, port: int, family: socket.AddressFamily) -> list[str]:
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return max(_LEAST, left)


def _connected(host: str, port: int, family: socket.AddressFamily, deadline: float, look: Look) -> socket.socket:
    """Connected to the first of the host's addresses that answers in its share of the time."""
    addresses = within(_left(deadline), lambda: look(host, port, family))[:_MOST_TRIED]
    failure: OSError = OSError("no address")
    for tried, address in enumerate(addresses):
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            made.settimeout(_left(deadline) / (len(addresses) - tried))
            made.connect((address, port))
        except OSError as error:
            made.close()
            failure = error
        else:
            return made
    raise failure


def _request(netloc: str, path: str) -> bytes:
    lines = (f"GET {path} HTTP/1.1", f"Host: {netloc}", "User-Agent: openme", "Accept: text/plain", "Connection: close")
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")


def _said(
    plain: socket.socket, host: str, request: bytes, context: ssl.SSLContext | None, deadline: float
) -> tuple[bytes, bool]:
    """All that is answered, one byte more than allowed at most, and whether its end is the page's own word.

    Every operation has what is left of the time, not a time of its own: bytes that drip in do not make it longer.
    """
    context = context or ssl.create_default_context()
    plain.settimeout(_left(deadline))
    with context.wrap_socket(plain, server_hostname=host, suppress_ragged_eofs=False) as tls:
        tls.settimeout(_left(deadline))
        tls.sendall(request)
        answer = bytearray()
        while len(answer) <= MOST_RAW:
            tls.settimeout(_left(deadline))
            try:
                chunk = tls.recv(MOST_RAW + 1 - len(answer))
            except ssl.SSLEOFError:
                # Cut by whoever sits on the way, perhaps, who must not get 203.0.113.5 out of 203.0.113.55.
                return bytes(answer), False
            if not chunk:
                break
            answer += chunk
    return bytes(answer), True


class _Bytes:
    """What http.client reads an answer from, in place of a socket."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> BytesIO:
        return BytesIO(self._raw)


def text_untrusted(raw: bytes, *, is_whole: bool = True) -> bytes:
    """The body of an HTTP answer; BadPageError for any other than a whole, short one with status 200.

    `is_whole`: the other side itself has ended the connection. Without that only an answer that tells its length will
    do.
    """
    if not raw:
        raise BadPageError("it closed without an answer")
    if len(raw) > MOST_RAW:
        raise BadPageError(f"an answer of more than {MOST_RAW} bytes")
    response = http.client.HTTPResponse(_Bytes(raw), method="GET")  # type: ignore[arg-type]  # makefile is all it uses
    try:
        response.begin()
        status, told = response.status, response.chunked or response.length is not None
        body = response.read(MOST_BYTES + 1)
        # One more read, so that a body that is shorter than it says, or a last chunk that is missing, is seen.
        rest = response.read() if len(body) <= MOST_BYTES else b""
    except (http.client.HTTPException, ValueError, OSError, OverflowError):  # the last of a length beyond all
        raise BadPageError("its answer is no whole HTTP") from None
    finally:
        response.close()
    if 300 <= status < 400:
        raise BadPageError(f"it leads elsewhere (status {status}), which is not followed: name the last page itself")
    if status != http.client.OK:
        raise BadPageError(f"it answered with status {status}")
    if len(body) + len(rest) > MOST_BYTES:
        raise BadPageError(f"it says more than {MOST_BYTES} bytes, where an address alone is expected")
    if not told and not is_whole:
        raise BadPageError("the connection was cut before the end of its answer")
    return body + rest


_ADDRESS = re.compile(rb"[0-9A-Fa-f:.]{2,45}")


def address_untrusted(text: bytes, version: int) -> IPAddress:
    """The global unicast address of this version (4 or 6) that a page's text is; BadPageError with the text otherwise.

    White space around it does not count; a v4-mapped one is IPv4, as services on sockets for both families see it.
    """
    word = text.strip()
    try:
        address = ip_address(word.decode("ascii")) if _ADDRESS.fullmatch(word) else None
    except ValueError:
        address = None
    if address is not None and not isinstance(address, IPv4Address):
        address = address.ipv4_mapped or address
    if address is None:
        raise BadPageError(f"expected an IPv{version} address alone, it says {_shown(word)}")
    if address.version != version:
        raise BadPageError(f"expected an IPv{version} address, it says {address}")
    if not _is_global_unicast(address):
        raise BadPageError(f"expected an address that can be reached from everywhere, it says {address}")
    return address


def _is_global_unicast(address: IPAddress) -> bool:
    if address.is_multicast or not address.is_global:
        return False
    return isinstance(address, IPv4Address) or address in _UNICAST


def _shown(word: bytes) -> str:
    if not word:
        return "nothing"
    text = word[: 4 * _MOST_SHOWN].decode("utf-8", "backslashreplace")
    return visible(text[:_MOST_SHOWN]) + ("…" if len(text) > _MOST_SHOWN else "")
