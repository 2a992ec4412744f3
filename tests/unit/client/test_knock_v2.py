"""Version 2 knocks: which key, which address, and what is said when there is none."""

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, IPv6Network, ip_address

import pytest

from openme.client import addresses
from openme.client.addresses import Endpoint
from openme.client.blocking import finish
from openme.client.errors import ProfileError
from openme.client.knock import Attempt, Prefixes, build, send, version_of
from openme.config.profile_model import EpochKeys, Profile
from openme.wire.knock import IPAddress
from support import independent_v2
from support.driven import Driven
from support.knocks import ALICE, EPOCH, NS, SERVER, START, WEEK, ratchet
from support.ports import free_port

PORT = free_port()
KEYS = ratchet().public_keys(EPOCH, 4)
PROFILE = Profile(
    *("home", "host.example", SERVER.public, PORT, PORT, ALICE, ALICE.public),
    epoch_keys=EpochKeys(float(WEEK), EPOCH, KEYS[:3]),
)
HERE = Endpoint(socket.AF_INET, "127.0.0.1")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", PORT))
        sock.settimeout(5)
        yield sock


def knock(
    profile: Profile,
    wanted: str | None,
    *,
    at: Endpoint = HERE,
    own: str | None = None,
    now_ns: Callable[[], int] = lambda: START,
    prefixes: Prefixes = lambda _: (),
) -> Attempt:
    driver = Driven(at, own=None if own is None else ip_address(own), now_ns=now_ns)
    return finish(send(driver, profile, wanted, prefixes=prefixes))


def plaintext(datagram: bytes, epoch: int = EPOCH) -> bytes:
    return independent_v2.opened(datagram, ratchet().private_key(epoch), ALICE.public.raw).plaintext


def target(datagram: bytes) -> bytes:
    return plaintext(datagram)[25:41]


# -- which version


def test_epoch_keys_mean_version_2_and_the_profile_may_say_otherwise() -> None:
    bare = PROFILE._replace(epoch_keys=None)
    profiles = [PROFILE, bare, PROFILE._replace(protocol="v1"), PROFILE._replace(protocol="v2")]
    assert [version_of(profile).number for profile in profiles] == [2, 1, 1, 2]
    assert version_of(bare._replace(protocol="v2")).number == 2


def test_version_2_without_epoch_keys_is_told_and_never_version_1() -> None:
    with pytest.raises(ProfileError, match="has no epoch_keys") as caught:
        build(PROFILE._replace(epoch_keys=None, protocol="v2"), None, START)
    assert "openme renew NAME" in (caught.value.hint or "")


# -- which key


@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_the_key_is_that_of_the_clocks_epoch_and_the_timestamp_the_same_reading(ahead: int) -> None:
    now = START + ahead * WEEK * NS
    built = build(PROFILE, None, now)
    assert built.epoch == EPOCH + ahead
    assert plaintext(built.datagram, EPOCH + ahead)[1:9] == now.to_bytes(8, "big")


def test_the_clock_is_read_once_for_a_knock(server: socket.socket) -> None:
    readings = iter([EPOCH * WEEK * NS + WEEK * NS - 1, EPOCH * WEEK * NS + WEEK * NS])
    (sent,) = knock(PROFILE, "source", now_ns=lambda: next(readings)).sent
    assert sent.past is not None
    assert (sent.past.epoch, sent.past.sent_ns) == (EPOCH, EPOCH * WEEK * NS + WEEK * NS - 1)
    assert int.from_bytes(plaintext(server.recv(1000))[1:9], "big") == sent.past.sent_ns


def test_keys_that_came_later_are_used() -> None:
    later = START + 3 * WEEK * NS
    built = build(PROFILE, None, later, dict(enumerate(KEYS, EPOCH)))
    assert plaintext(built.datagram, EPOCH + 3)[0] == 2


def test_every_packet_is_fresh() -> None:
    one, two = (build(PROFILE, None, START) for _ in range(2))
    assert one.datagram[:32] != two.datagram[:32]
    assert plaintext(one.datagram)[9:25] != plaintext(two.datagram)[9:25]
    assert one.receipt != two.receipt


@pytest.mark.parametrize(
    ("now", "date"),
    [
        (EPOCH * WEEK * NS - 1, "2026-11-18"),
        ((EPOCH + 3) * WEEK * NS, "2026-12-10"),
        (0, "1970-01-01"),
        (10**15 * NS, "an impossible date"),
    ],
)
def test_without_a_key_for_the_clock_it_says_the_clock_and_the_dates_that_there_are_keys_for(
    now: int, date: str
) -> None:
    with pytest.raises(ProfileError) as caught:
        build(PROFILE, None, now)
    message = caught.value.message
    assert f"this machine's date, {date}:" in message
    assert "from 2026-11-19 to 2026-12-09" in message
    assert "set the clock" in (caught.value.hint or "")
    assert "openme renew NAME" in (caught.value.hint or "")


def test_a_low_order_key_in_a_file_is_told() -> None:
    low = independent_v2.LOW_ORDER[2].to_bytes(32, "little")
    with pytest.raises(ProfileError, match="low-order"):
        build(PROFILE._replace(epoch_keys=EpochKeys(float(WEEK), EPOCH, (low,))), None, START)


# -- which address


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ("2606:4700::1111", True),
        ("8.8.8.8", True),
        ("192.168.1.5", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("fe80::1", False),
        ("fd00::1", False),
    ],
)
@pytest.mark.parametrize("wanted", [None, "auto"])
def test_its_own_address_is_named_where_it_is_a_global_one(
    server: socket.socket, wanted: str | None, own: str, *, named: bool
) -> None:
    (sent,) = knock(PROFILE, wanted, own=own).sent
    expected: IPAddress | None = ip_address(own) if named else None
    assert sent.target == expected
    raw = target(server.recv(1000))
    assert raw == (bytes(16) if expected is None else independent_target(expected))


def independent_target(address: IPAddress) -> bytes:
    return bytes(10) + b"\xff\xff" + address.packed if address.version == 4 else address.packed


@pytest.mark.parametrize("wanted", ["source", "::", "0.0.0.0"])
def test_on_demand_it_is_the_source_address(server: socket.socket, wanted: str) -> None:
    (sent,) = knock(PROFILE, wanted, own="8.8.8.8").sent
    assert sent.target is None
    assert target(server.recv(1000)) == bytes(16)


def test_version_1_names_none_by_itself(server: socket.socket) -> None:
    (sent,) = knock(PROFILE._replace(protocol="v1"), None, own="8.8.8.8").sent
    assert (sent.target, sent.past) == (None, None)
    assert server.recv(1000)[0] == 1


@pytest.mark.parametrize("wanted", ["203.0.113.5", "::ffff:203.0.113.5", "2001:db8::7"])
def test_a_named_address_is_the_one_named(server: socket.socket, wanted: str) -> None:
    (sent,) = knock(PROFILE, wanted).sent
    assert sent.past is not None
    assert sent.target == sent.past.target
    assert target(server.recv(1000)) == independent_target(addresses.parse_target(wanted))


def test_what_can_be_asked_about_is_what_was_sent(server: socket.socket) -> None:
    (sent,) = knock(PROFILE, "203.0.113.5").sent
    opened = independent_v2.opened(server.recv(1000), ratchet().private_key(EPOCH), ALICE.public.raw)
    assert sent.past is not None
    assert (sent.past.host, sent.past.epoch, sent.past.sent_ns) == ("127.0.0.1", EPOCH, START)
    assert (sent.past.receipt.id, sent.past.receipt.key, sent.past.receipt.nonce) == opened.receipt


def test_behind_a_nat64_that_this_network_has_its_own_address_is_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The door would open for an address from which nothing ever comes."""
    own = "2606:4700::1111"
    here = Endpoint(socket.AF_INET6, "2001:db8:64::c000:201")
    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda sock, _to: connect(sock, ("::1", PORT)), raising=False)
    asked: list[object] = []

    def prefixes(address: IPv6Address) -> list[IPv6Network]:
        asked.append(str(address))
        return [IPv6Network("2001:db8:64::/96")]

    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as listening:
        listening.bind(("::1", PORT))
        (sent,) = knock(PROFILE, None, at=here, own=own, prefixes=prefixes).sent
        assert (sent.target, asked) == (None, [own])
        (sent,) = knock(PROFILE, None, at=here, own=own).sent
        assert str(sent.target) == own
        knock(PROFILE, "source", at=here, own=own, prefixes=prefixes)
        knock(PROFILE, "2001:db8::7", at=here, own=own, prefixes=prefixes)
        assert asked == [own], "only who would name his own address needs to know"
