"""A page that tells our address: who is believed, how long it is waited for, and what of its words is an address."""

import random
import socket
import ssl
import string
import threading
import time
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openme.client.address_page import (
    MOST_BYTES,
    MOST_RAW,
    address_untrusted,
    fetch,
    text_untrusted,
)
from openme.client.addresses import BadPageError
from openme.visible import is_visible
from support.fuzzing import SEED, mutated, rounds
from support.web import Answer, Authority, Certificate, drips, hangs, http, page, says

T = TypeVar("T")

V4, V6 = socket.AF_INET, socket.AF_INET6
OURS = "8.8.4.4"
GOOD = http(b"8.8.4.4\n")
SHORT = 0.4  # seconds that a page has which will not answer


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def certificate(authority: Authority) -> Certificate:
    return authority.certificate()


@pytest.fixture
def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.file))


def why(url: str, context: ssl.SSLContext | None, family: socket.AddressFamily = V4, patience: float = 3.0) -> str:
    """Why a page gives no address."""
    with pytest.raises(BadPageError) as caught:
        fetch(url, family, 4 if family == V4 else 6, context=context, patience=patience)
    return str(caught.value)


# -- whom it believes


def test_it_asks_over_the_family_of_the_knock(certificate: Certificate, trusting: ssl.SSLContext) -> None:
    with page(certificate, says(GOOD)) as url:
        assert fetch(url, V4, 4, context=trusting) == IPv4Address(OURS)
        assert "no connection" in why(url, trusting, V6)
    with page(certificate, says(http(b"2606:4700::1111")), "::1") as url:
        assert fetch(url, V6, 6, context=trusting) == IPv6Address("2606:4700::1111")
        assert "no connection" in why(url, trusting, V4)


def test_its_host_is_looked_up_in_that_family_alone(
    authority: Authority, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the other one there may be more addresses than are tried."""
    known = [*((V6, f"::{number}") for number in range(1, 6)), (V4, "127.0.0.1")]

    def getaddrinfo(_host: str, port: int, family: int, kind: int) -> list[tuple[object, ...]]:
        return [(of, kind, 6, "", (address, port)) for of, address in known if family in {0, of}]

    with page(authority.certificate("page.example"), says(GOOD)) as url:
        port = url.rstrip("/").rpartition(":")[2]
        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        assert fetch(f"https://page.example:{port}/", V4, 4, context=trusting) == IPv4Address(OURS)


def test_what_it_sends_is_one_plain_request(certificate: Certificate, trusting: ssl.SSLContext) -> None:
    got: list[bytes] = []

    def tells(connection: ssl.SSLSocket, _over: object) -> None:
        connection.sendall(GOOD)

    with page(certificate, tells, asked=got) as url:
        netloc = url.removeprefix("https://").rstrip("/")
        fetch(f"{url}ip?who=me", V4, 4, context=trusting)
    (asked,) = got
    assert asked.startswith(f"GET /ip?who=me HTTP/1.1\r\nHost: {netloc}\r\n".encode())
    assert b"\r\nConnection: close\r\n" in asked


def test_this_systems_authorities_decide(
    authority: Authority, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with page(certificate, says(GOOD)) as url:
        assert "its certificate is not accepted: " in why(url, None)
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        assert fetch(url, V4, 4) == IPv4Address(OURS)


def test_a_certificate_that_has_ended_or_names_another_is_refused(
    authority: Authority, trusting: ssl.SSLContext
) -> None:
    with page(authority.certificate(days=0), says(GOOD)) as url:
        assert why(url, trusting) == "its certificate is not accepted: certificate has expired"
    with page(authority.certificate("other.example"), says(GOOD)) as url:
        assert "its certificate is not accepted: IP address mismatch" in why(url, trusting)


def test_proxies_of_the_environment_are_not_used(
    certificate: Certificate, trusting: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page would see the proxy's address."""
    for name in ("https_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with page(certificate, says(GOOD)) as url:
        assert fetch(url, V4, 4, context=trusting) == IPv4Address(OURS)


# -- how long


@pytest.mark.parametrize("answer", [hangs, drips(GOOD.ljust(400)), drips(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 400)])
def test_no_page_takes_longer_than_it_may(certificate: Certificate, trusting: ssl.SSLContext, answer: Answer) -> None:
    with page(certificate, answer) as url:
        began = time.monotonic()
        reason = why(url, trusting, patience=SHORT)
        assert time.monotonic() - began < SHORT + 0.5
    assert reason == f"no whole answer within {SHORT:g} s"


def test_nor_one_that_speaks_no_tls(trusting: ssl.SSLContext) -> None:
    with page(None, hangs) as url:
        began = time.monotonic()
        assert why(url, trusting, patience=SHORT) == f"no whole answer within {SHORT:g} s"
        assert time.monotonic() - began < SHORT + 0.5
    with page(None, says(GOOD, orderly=False)) as url:
        assert why(url, trusting).startswith("no TLS: ")


def test_nor_a_resolver_that_never_answers(trusting: ssl.SSLContext) -> None:
    never = threading.Event()

    def look(*_: object) -> list[str]:
        never.wait(30)
        return []

    before = set(threading.enumerate())
    began = time.monotonic()
    with pytest.raises(BadPageError, match=r"no whole answer within 0\.1 s"):
        fetch("https://page.example/", V4, 4, context=trusting, look=look, patience=0.1)
    assert time.monotonic() - began < 1
    (left,) = set(threading.enumerate()) - before
    assert left.daemon, "it keeps nothing from ending"
    never.set()
    left.join(10)


def test_of_several_addresses_one_that_is_silent_leaves_time_for_the_next(
    certificate: Certificate, trusting: ssl.SSLContext
) -> None:
    with socket.create_server(("127.0.0.2", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for one in waiting:  # a full queue answers no further SYN
            one.setblocking(False)  # noqa: FBT003  # the standard library's signature
            one.connect_ex(("127.0.0.2", port))
        try:
            with page(certificate, says(GOOD), port=port) as url:
                found = fetch(url, V4, 4, context=trusting, look=lambda *_: ["127.0.0.2", "127.0.0.1"], patience=1)
            assert found == IPv4Address(OURS)
        finally:
            for one in waiting:
                one.close()


def test_an_unknown_host_and_a_refused_connection_are_told(trusting: ssl.SSLContext) -> None:
    assert why("https://no-such-host.invalid/", trusting).startswith("no connection: ")
    with page(None, hangs) as url:
        pass
    assert why(url, trusting) == "no connection: Connection refused"


# -- what it may say


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "it closed without an answer"),
        (b"8.8.4.4", "its answer is no whole HTTP"),
        (http(b"", "302 Found", "Location: https://other.example/"), "it leads elsewhere (status 302), which is not"),
        (http(b"", "301 Moved", "Location: http://127.0.0.1/"), "it leads elsewhere (status 301), which is not"),
        (http(b"8.8.4.4", "404 Not Found"), "it answered with status 404"),
        (http(b"8.8.4.4", "203 Transformed"), "it answered with status 203"),
        (http(b"8.8.4.4", length=9), "its answer is no whole HTTP"),
        (http(b"8.8.4.4", length=10**30), "its answer is no whole HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n8.8.4.4",
            "its answer is no whole HTTP",
        ),
        (http(b" " * MOST_BYTES + b"8.8.4.4"), "it says more than 1024 bytes"),
        (http(b"8.8.4.4" + b" " * MOST_RAW), "an answer of more than 16384 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000, "an answer of more than 16384 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n8.8.4.4\r\n", "its answer is no whole HTTP"),
        (http(b"10.0.0.1"), "expected an address that can be reached from everywhere, it says 10.0.0.1"),
        (http(b"2606:4700::1111"), "expected an IPv4 address, it says 2606:4700::1111"),
        (http(b"<html>\x1b[2J"), r"expected an IPv4 address alone, it says <html>\x1b[2J"),
        (http(b""), "expected an IPv4 address alone, it says nothing"),
    ],
)
def test_whatever_else_a_page_says_is_told(
    certificate: Certificate, trusting: ssl.SSLContext, raw: bytes, reason: str
) -> None:
    with page(certificate, says(raw)) as url:
        assert why(url, trusting).startswith(reason)


def test_of_a_page_without_end_no_more_is_read_than_it_may_say(
    certificate: Certificate, trusting: ssl.SSLContext
) -> None:
    def streams(connection: ssl.SSLSocket, over: threading.Event) -> None:
        while not over.is_set():
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 1000)

    with page(certificate, streams) as url:
        assert why(url, trusting, patience=20) == f"an answer of more than {MOST_RAW} bytes"


def test_answers_of_all_forms_are_read(certificate: Certificate, trusting: ssl.SSLContext) -> None:
    for raw, orderly in (
        (GOOD, True),
        (GOOD, False),
        (b"HTTP/1.0 200 OK\r\n\r\n 8.8.4.4\r\n", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n8.8\r\n4\r\n.4.4\r\n0\r\n\r\n", False),
        (http(b"8.8.4.4" + b" " * (MOST_BYTES - 7)), True),
    ):
        with page(certificate, says(raw, orderly=orderly)) as url:
            assert fetch(url, V4, 4, context=trusting) == IPv4Address(OURS)


def test_a_cut_off_address_is_none(certificate: Certificate, trusting: ssl.SSLContext) -> None:
    """Whoever sits on the way can end a connection early, and must not choose the address by it."""
    for head in (b"HTTP/1.0 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"):
        with page(certificate, says(head + b"8.8.4.4", orderly=False)) as url:
            assert why(url, trusting) == "the connection was cut before the end of its answer"


# -- the parsers


@pytest.mark.parametrize(
    ("text", "version", "address"),
    [
        (b" 8.8.4.4\r\n", 4, "8.8.4.4"),
        (b"::ffff:8.8.4.4", 4, "8.8.4.4"),
        (b"2606:4700::1111", 6, "2606:4700::1111"),
        (b"::ffff:8.8.4.4", 6, None),
        (b"8.8.4.4", 6, None),
        (b"2606:4700::1111", 4, None),
        (b"2606:4700::1111%eth0", 6, None),
        (b"8.8.4.4/32", 4, None),
        (b"08.8.4.4", 4, None),
        (b"8.8.4.4 8.8.8.8", 4, None),
        (b"8.8.4.4\n1.1.1.1", 4, None),
        ("٨.8.4.4".encode(), 4, None),
        *(
            (text.encode(), 4, None)
            for text in (
                *("10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "127.0.0.1", "169.254.0.1", "0.0.0.0"),
                *(
                    "224.0.0.1",
                    "239.1.1.1",
                    "232.1.1.1",
                    "240.0.0.1",
                    "255.255.255.255",
                    "192.0.2.1",
                    "::ffff:10.0.0.1",
                ),
            )
        ),
        *(
            (text.encode(), 6, None)
            for text in (
                *("::", "::1", "fe80::1", "fd00::1", "ff02::1", "ff0e::1", "2001:db8::1", "64:ff9b::808:404"),
                *("4000::1", "::8.8.4.4", "fec0::1"),
            )
        ),
    ],
)
def test_only_a_global_unicast_address_of_its_version_is_one(text: bytes, version: int, address: str | None) -> None:
    if address is not None:
        assert address_untrusted(text, version) == ip_address(address)
        return
    with pytest.raises(BadPageError):
        address_untrusted(text, version)


def refusal(parse: Callable[[], T]) -> T | str:
    """What is parsed, or why it is refused."""
    try:
        return parse()
    except BadPageError as error:
        return str(error)


def judged(text: bytes, version: int) -> None:
    """An address of that version that is written there, or BadPageError in words that can be seen."""
    found = refusal(lambda: address_untrusted(text, version))
    if isinstance(found, str):
        assert is_visible(found)
        assert len(found) < 800
        return
    assert found.version == version
    assert found.is_global
    assert not found.is_multicast
    assert "%" not in str(found)
    told = ip_address(text.strip().decode("ascii"))
    assert found in {told, getattr(told, "ipv4_mapped", None)}


@given(st.binary(max_size=80) | st.ip_addresses().map(lambda a: str(a).encode()), st.sampled_from([4, 6]))
@example(b"\xff\xfe\x00", 4)
def test_any_text_is_an_address_or_refused(text: bytes, version: int) -> None:
    judged(text, version)


@given(st.text(string.hexdigits + ":.% \n", max_size=50), st.sampled_from([4, 6]))
def test_any_near_miss_is_an_address_or_refused(text: str, version: int) -> None:
    judged(text.encode(), version)


def test_any_answer_is_a_text_or_refused() -> None:
    corpus = [
        GOOD,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n8.8.4.4\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.0 200 OK\r\n\r\n8.8.4.4",
        http(b"x", "302 Found", "Location: https://other.example/", "Connection: close"),
        b"\xff" * 100,
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n8.8.4.4",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 4000 + b"\r\n8.8.4.4",
    ]
    for number, raw in enumerate(corpus):
        chance = random.Random(f"{SEED}-page-{number}")
        for round_number in range(rounds(400)):
            said = raw if round_number == 0 else mutated(raw, chance)
            text = refusal(partial(text_untrusted, said, is_whole=chance.random() < 0.5))
            if isinstance(text, str):
                assert is_visible(text)
            else:
                assert len(text) <= MOST_BYTES
                judged(text, 4)
