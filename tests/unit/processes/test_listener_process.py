"""The listener's shell on loopback: datagrams in, frames out, and never an answer."""

import errno
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from types import SimpleNamespace

import pytest

from openme.listener.listener import Listener
from openme.listener.receipts import PENDING_SECONDS
from openme.processes import listener_process
from openme.processes.listener_process import (
    HEALTH_PER_ADDRESS,
    HEALTH_SECONDS,
    RECEIPT_PATIENCE,
    ListenerProcess,
    address_of,
)
from openme.processes.listener_reports import TELL_INTERVAL
from openme.reasons import Reason
from openme.seam import messages
from openme.seam.channel import ChannelClosedError, channel, send
from openme.seam.messages import (
    FRAME_SIZE,
    REPORT_SIZE,
    Delivered,
    Dropped,
    FamiliarAddress,
    ForgetReceipt,
    ForgetV1Key,
    KnockNotOpened,
    LeaveHealthPort,
    LeftHealthPort,
    NoHealthPort,
    Report,
    Serve,
    Serving,
    UseEpochKey,
    UseV1Key,
    opening_orders,
    unpack_frame_untrusted,
    unpack_report_untrusted,
)
from openme.server.sockets import bind_health, bind_knock
from openme.wire import v2
from openme.wire.base import ReceiptKeys
from openme.wire.receipt import seal_receipt
from support import independent_v2
from support.command import until
from support.keeper_process import KeptMessages
from support.knocks import ALICE, EPOCH, SERVER, packet, packet_v2, ratchet
from support.ports import free_port


@dataclass
class Running:
    process: ListenerProcess
    keeper: socket.socket
    port: int
    thread: threading.Thread

    def knock(self, datagram: bytes, host: str = "127.0.0.1") -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.connect((host, self.port))
        client.send(datagram)
        return client

    def frame(self) -> bytes:
        """The next frame; reports are passed over."""
        while len(message := self.keeper.recv(1000)) == REPORT_SIZE:
            pass
        return message


@pytest.fixture
def running() -> Iterator[Running]:
    port = free_port()
    listener_end, keeper_end = channel()
    keeper_end.settimeout(5)
    with bind_knock(port) as knock, bind_health(port) as health, listener_end:
        process = ListenerProcess(Listener(), knock, health, listener_end)
        thread = threading.Thread(target=process.run)
        send(keeper_end, UseV1Key(0, SERVER.raw).pack())
        send(keeper_end, UseEpochKey(EPOCH, ratchet().private_key(EPOCH)).pack())
        send(keeper_end, Serve().pack())
        thread.start()
        until(lambda: health.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), "the health port listens")
        assert unpack_report_untrusted(keeper_end.recv(1000)) == Serving()
        yield Running(process, keeper_end, port, thread)
        keeper_end.close()
        thread.join(5)
        assert not thread.is_alive(), "the listener outlives its keeper"
        for connection in process._connections.values():
            connection.socket.close()


def test_it_sleeps_until_there_is_something_to_do(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """For ever while nobody comes; as long as a knock may wait for its verdict; a second until refusals can be told."""
    patience: list[float | None] = []
    select_ = running.process._selector.select

    def noted(timeout: float | None = None) -> object:
        patience.append(timeout)
        return select_(timeout)

    monkeypatch.setattr(running.process._selector, "select", noted)
    datagram = packet_v2()
    running.knock(datagram).close()
    running.frame()
    until(lambda: patience, "it has slept")
    assert patience[-1] == pytest.approx(PENDING_SECONDS, abs=1)
    send(running.keeper, KnockNotOpened(datagram[: v2.REPRESENTATIVE_SIZE]).pack())
    until(lambda: patience[-1] is None, "it sleeps for ever")
    for _ in range(2):
        running.knock(b"noise").close()
        assert unpack_report_untrusted(running.keeper.recv(1000)) == Dropped(Reason.LENGTH, 1)
    until(lambda: patience[-1] is None, "it sleeps for ever")
    assert any(seconds is not None and 0.0 < seconds <= TELL_INTERVAL for seconds in patience)


@pytest.mark.parametrize(("host", "source"), [("127.0.0.1", "127.0.0.1"), ("::1", "::1")])
def test_a_knock_becomes_a_frame_with_its_source(running: Running, host: str, source: str) -> None:
    running.knock(packet(), host).close()
    raw = running.frame()
    assert len(raw) == FRAME_SIZE
    frame = unpack_frame_untrusted(raw)
    assert (frame.packet, frame.source) == (packet(), ip_address(source))


def test_what_is_no_knock_gets_no_frame_and_no_answer_and_is_counted(running: Running) -> None:
    bad = {
        b"": "length",
        b"\x01" * 164: "length",
        packet() + b"x": "length",
        b"\x02" + packet()[1:]: "filter",
        b"\x01" + bytes(164): "low_order",
        packet()[:-100] + bytes(100): "decrypt",
    }
    clients = [running.knock(datagram) for datagram in bad]
    running.knock(packet(label="good")).close()
    assert unpack_frame_untrusted(running.frame()).packet == packet(label="good")
    assert running.process._counts.total == {"length": 3, "filter": 1, "low_order": 1, "decrypt": 1}
    for client in clients:
        client.setblocking(False)  # noqa: FBT003  # the standard library's signature
        with client, pytest.raises(BlockingIOError):
            client.recv(1000)


def test_without_a_key_nothing_is_a_version_1_knock(running: Running) -> None:
    send(running.keeper, ForgetV1Key(0).pack())
    until(lambda: not running.process._listener._keys[1], "the key is forgotten")
    running.knock(packet()).close()
    until(lambda: running.process._counts.total, "it is counted")
    assert running.process._counts.total == {"filter": 1}


def test_a_keeper_that_is_busy_costs_a_count_and_no_wait(running: Running) -> None:
    number = 0
    while not running.process._counts.total[Reason.BUSY]:
        running.knock(packet(label=number)).close()
        number += 1
        assert number < 1_000_000
    assert unpack_frame_untrusted(running.frame()).packet == packet(label=0)


def closed(connection: socket.socket) -> bool:
    connection.settimeout(10)
    try:
        return connection.recv(10) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def _counted(counts: Counter[Reason], before: int) -> None:
    until(lambda: counts[Reason.LENGTH] > before, "it is counted")


class HeldClock:
    """The listener's clock, which stands until a test moves it."""

    def __init__(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        self._running = running
        self._now = time.monotonic()
        monkeypatch.setattr(listener_process, "time", SimpleNamespace(monotonic=lambda: self._now))

    def advance(self, seconds: float) -> None:
        """So much later the listener has gone through its loop at least once."""
        self._now += seconds
        counts = self._running.process._counts.total
        for _ in range(2):  # when the second is counted, all that followed the first is done
            before = counts[Reason.LENGTH]
            self._running.knock(b"wake up").close()
            _counted(counts, before)

    def is_held(self, host: str) -> bool:
        """Whether the listener holds a health connection of this address."""
        return self._running.process._per_address[ip_address(host)] > 0


@pytest.fixture
def clock(running: Running, monkeypatch: pytest.MonkeyPatch) -> HeldClock:
    return HeldClock(running, monkeypatch)


def asks_until(clock: HeldClock, connection: socket.socket, seconds: float) -> None:
    """The connection stays for so long, and no longer."""
    until(lambda: clock.is_held("127.0.0.1"), "it is accepted")
    clock.advance(seconds - 0.01)
    assert clock.is_held("127.0.0.1")
    clock.advance(0.02)
    assert closed(connection)


def test_a_health_connection_says_nothing_and_is_closed(running: Running, clock: HeldClock) -> None:
    with socket.create_connection(("127.0.0.1", running.port), 5) as quiet:
        asks_until(clock, quiet, HEALTH_SECONDS)
    with socket.create_connection(("127.0.0.1", running.port), 5) as talker:
        talker.send(b"GET / HTTP/1.0\r\n\r\n")
        assert closed(talker)


def test_one_address_gets_so_many_connections_at_a_time(running: Running, clock: HeldClock) -> None:
    held = [socket.create_connection(("127.0.0.1", running.port), 5) for _ in range(HEALTH_PER_ADDRESS)]
    with socket.create_connection(("127.0.0.1", running.port), 5) as more:
        assert closed(more)  # while the clock stands
    with socket.create_connection(("::1", running.port), 5) as neighbour:
        until(lambda: clock.is_held("::1"), "it is accepted")
        clock.advance(0)
        assert clock.is_held("::1")
        assert len(running.process._connections) == HEALTH_PER_ADDRESS + 1
        neighbour.close()
    for connection in held:
        connection.close()
    until(lambda: not running.process._per_address, "all are gone")
    assert running.process._connections == {}


def test_a_refusal_is_reported_with_its_reason_and_its_source(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running.process._reporter, "_each", True)  # as on level debug
    running.knock(b"x").close()
    report = Dropped(Reason.LENGTH, 1, ip_address("127.0.0.1"))
    assert unpack_report_untrusted(running.keeper.recv(1000)) == report


@pytest.mark.parametrize(
    ("host", "address"),
    [("::ffff:192.0.2.9", "192.0.2.9"), ("192.0.2.9", "192.0.2.9"), ("fe80::1%eth0", "fe80::1"), ("::1", "::1")],
)
def test_an_address_has_one_form_however_it_came_in(host: str, address: str) -> None:
    assert address_of((host,)) == ip_address(address)


# -- receipts on the health port


def test_counts_reach_the_keeper_within_seconds_though_nothing_else_happens(running: Running) -> None:
    address = ("127.0.0.1", running.port)
    running.keeper.settimeout(10)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"short", address)
        assert unpack_report_untrusted(running.keeper.recv(1000)) == Dropped(Reason.LENGTH, 1)  # the first one at once
        for _ in range(20):
            stranger.sendto(b"short", address)
            stranger.sendto(bytes(165), address)
    counts: Counter[str] = Counter()
    while counts != {"length": 20, "filter": 20}:
        report = unpack_report_untrusted(running.keeper.recv(1000))
        assert isinstance(report, Dropped)
        counts[report.reason] += report.count


TEXT = b'{"client": "alice"}'


def receipt_of(running: Running, datagram: bytes) -> ReceiptKeys:
    """Knock and take the frame from the channel, as the keeper does."""
    with running.knock(datagram):
        raw = running.frame()
    assert unpack_frame_untrusted(raw).packet == datagram
    opened = independent_v2.opened(datagram, ratchet().private_key(EPOCH), ALICE.public.raw)
    return ReceiptKeys(*opened.receipt)


def grant(running: Running, datagram: bytes, text: bytes = TEXT) -> None:
    """Tell the listener, as the keeper does, that this knock opened."""
    ends = round((time.monotonic() + 30) * 10**9)
    for order in opening_orders(datagram[:32], ends, text):
        send(running.keeper, order.pack())


def asking(running: Running, said: bytes, host: str = "127.0.0.1") -> socket.socket:
    connection = socket.create_connection((host, running.port), 5)
    connection.sendall(said)
    return connection


def heard(connection: socket.socket) -> bytes:
    """All that is said until the end."""
    answer = b""
    connection.settimeout(5)
    while chunk := connection.recv(70_000):
        answer += chunk
    return answer


@pytest.mark.parametrize("text", [TEXT, b"x" * 60_000])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_receipt_is_all_that_is_said_and_the_same_to_everybody(running: Running, text: bytes, host: str) -> None:
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    grant(running, datagram, text)
    for _ in range(3):
        with asking(running, keys.id, host) as connection:
            assert heard(connection) == seal_receipt(text, keys)


def test_whoever_asks_before_the_verdict_is_told_when_it_comes(running: Running) -> None:
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    with asking(running, keys.id) as connection:
        until(lambda: any(c.said == keys.id for c in running.process._connections.values()), "the question is read")
        grant(running, datagram)
        assert heard(connection) == seal_receipt(TEXT, keys)


def test_a_question_may_come_in_pieces(running: Running) -> None:
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    grant(running, datagram)
    with asking(running, keys.id[:5]) as connection:
        until(lambda: any(c.said for c in running.process._connections.values()), "the first piece is read")
        connection.sendall(keys.id[5:])
        assert heard(connection) == seal_receipt(TEXT, keys)


def test_an_asker_who_has_no_more_to_say_waits_all_the_same(running: Running) -> None:
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    with asking(running, keys.id) as connection:
        connection.shutdown(socket.SHUT_WR)
        until(lambda: any(c.said == keys.id for c in running.process._connections.values()), "the question is read")
        grant(running, datagram)
        assert heard(connection) == seal_receipt(TEXT, keys)


def test_a_verdict_and_the_askers_last_word_at_once_end_nobody(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are told to the loop in one breath: the answer closes a connection of which it then hears something more."""
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    entered, go_on = threading.Event(), threading.Event()
    work = running.process._work

    def held_up() -> None:
        entered.set()
        go_on.wait(5)
        work()

    with asking(running, keys.id) as connection:
        until(lambda: any(c.said == keys.id for c in running.process._connections.values()), "the question is read")
        monkeypatch.setattr(running.process, "_work", held_up)
        running.knock(b"wake up").close()
        assert entered.wait(5)
        grant(running, datagram)
        connection.shutdown(socket.SHUT_WR)
        go_on.set()
        assert heard(connection) == seal_receipt(TEXT, keys)
    with asking(running, keys.id) as connection:
        assert heard(connection) == seal_receipt(TEXT, keys)


def test_an_unknown_id_is_closed_after_the_patience_for_a_verdict(running: Running, clock: HeldClock) -> None:
    with asking(running, bytes(16)) as connection:
        until(lambda: any(c.said == bytes(16) for c in running.process._connections.values()), "the question is read")
        asks_until(clock, connection, RECEIPT_PATIENCE)


def test_part_of_an_id_and_silence_is_closed(running: Running, clock: HeldClock) -> None:
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    grant(running, datagram)
    with asking(running, keys.id[:15]) as connection:
        asks_until(clock, connection, HEALTH_SECONDS)
    with asking(running, keys.id[:15]) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert closed(connection)


@pytest.mark.parametrize("more", [b"x", b"x" * 100])
def test_more_than_an_id_is_no_question(running: Running, more: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_process, "HEALTH_SECONDS", 60)
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    grant(running, datagram)
    with asking(running, keys.id + more) as connection:
        assert closed(connection)
    with asking(running, keys.id) as connection:
        assert heard(connection) == seal_receipt(TEXT, keys)


def test_more_after_the_id_while_it_waits_is_no_question(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_process, "HEALTH_SECONDS", 60)
    monkeypatch.setattr(listener_process, "RECEIPT_PATIENCE", 60)
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    with asking(running, keys.id) as connection:
        until(lambda: any(c.said == keys.id for c in running.process._connections.values()), "the question is read")
        connection.sendall(b"x")
        assert closed(connection)


def test_a_receipt_that_is_forgotten_or_refused_is_not_said(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_process, "RECEIPT_PATIENCE", 0.05)
    one, two = packet_v2(label=1), packet_v2(label=2)
    keys = [receipt_of(running, datagram) for datagram in (one, two)]
    grant(running, one)
    with asking(running, keys[0].id) as connection:
        assert heard(connection) == seal_receipt(TEXT, keys[0])
    send(running.keeper, ForgetReceipt(knock=one[:32]).pack())
    send(running.keeper, KnockNotOpened(knock=two[:32]).pack())
    until(lambda: not running.process._receipts._made and not running.process._receipts._pending, "both are gone")
    for known in keys:
        with asking(running, known.id) as connection:
            assert heard(connection) == b""


# -- what waits for what


def test_version_1_waits_until_no_version_2_packet_does(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Event(), threading.Event()
    work = running.process._work

    def held_up() -> None:
        entered.set()
        go_on.wait(5)
        work()

    monkeypatch.setattr(running.process, "_work", held_up)
    running.knock(b"wake up").close()
    assert entered.wait(5)
    old = [packet(label=number) for number in range(3)]
    new = [packet_v2(label=number) for number in range(20)]
    for datagram in (*old, *new):
        running.knock(datagram).close()
    monkeypatch.setattr(listener_process, "_SHARE", 0.0)  # one packet a turn
    go_on.set()
    versions = [unpack_frame_untrusted(running.frame()).version for _ in range(23)]
    assert versions == [2] * 20 + [1] * 3


def test_a_copy_goes_to_the_keeper_twice_from_an_address_and_no_more(running: Running) -> None:
    datagram = packet_v2()
    for _ in range(6):
        running.knock(datagram).close()
    for _ in range(3):
        running.knock(datagram, "::1").close()
    running.knock(packet_v2(label="end")).close()
    sources = []
    while (frame := unpack_frame_untrusted(running.frame())).packet == datagram:
        sources.append(str(frame.source))
    assert sorted(sources) == ["127.0.0.1", "127.0.0.1", "::1", "::1"]
    assert running.process._counts.total == {"copy": 5}


def test_a_packet_that_does_not_decrypt_is_not_worked_on_for_ever(running: Running) -> None:
    """Whoever holds E_i can make M right; a copy of that is dropped before any curve arithmetic."""
    public = ratchet().public_keys(EPOCH, 1)[0]
    raw = b"\x07" * 165
    noise = raw[:32] + independent_v2.filter_mac(public, raw) + raw[40:]
    for _ in range(6):
        running.knock(noise).close()
    running.knock(packet_v2()).close()
    running.frame()
    assert running.process._counts.total == {"decrypt": 2, "copy": 4}


def test_the_listener_keeps_no_key_of_a_knock(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    wiped: list[bytes] = []
    for module in (listener_process, messages):
        monkeypatch.setattr(module, "wipe", lambda *secrets: wiped.extend(map(bytes, secrets)))
    with running.knock(packet_v2()):
        raw = running.frame()
    frame = unpack_frame_untrusted(raw)
    until(lambda: len(wiped) >= 3, "the frame is wiped")
    assert {raw, frame.aead_key, frame.aead_nonce} == set(wiped)


@pytest.fixture
def kept() -> Iterator[tuple[ListenerProcess, KeptMessages, socket.socket]]:
    """A listener that does only what it is told to, and what became of the messages that it had in its hands."""
    listener_end, keeper_end = channel()
    with listener_end, keeper_end, socket.socket() as knock, socket.socket() as health:
        messages = KeptMessages(listener_end)
        process = ListenerProcess(Listener(), knock, health, messages)  # type: ignore[arg-type]  # all it does with it
        send(keeper_end, UseV1Key(0, SERVER.raw).pack())
        send(keeper_end, UseEpochKey(EPOCH, ratchet().private_key(EPOCH)).pack())
        process._on_orders()
        yield process, messages, keeper_end
        process._selector.close()


class NotedFilter:
    """A kernel filter that notes what it is told."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def judge(self) -> None:
        self.said.append("judge")

    def emptied(self) -> None:
        self.said.append("emptied")

    def make_familiar(self, address: object) -> None:
        self.said.append(address)

    def dropped(self) -> dict[Reason, int]:
        return {}


@pytest.fixture
def filtered() -> Iterator[tuple[ListenerProcess, NotedFilter, socket.socket]]:
    """A listener with a kernel filter before it; it does only what it is told to."""
    listener_end, keeper_end = channel()
    noted, port = NotedFilter(), free_port()
    with bind_knock(port) as knock, listener_end, keeper_end, socket.socket(type=socket.SOCK_DGRAM) as client:
        process = ListenerProcess(Listener(), knock, None, listener_end, noted)  # type: ignore[arg-type]
        client.connect(("127.0.0.1", port))
        yield process, noted, client
        process._selector.close()


def test_the_filter_hears_when_the_socket_is_found_empty_and_not_before(
    filtered: tuple[ListenerProcess, NotedFilter, socket.socket],
) -> None:
    process, noted, client = filtered
    for _ in range(listener_process._DRAIN + 1):
        client.send(b"noise")
    process._on_datagrams()
    assert noted.said == [], "one more waits"
    process._on_datagrams()
    assert noted.said == ["emptied"]


def test_the_filter_hears_it_before_the_listener_sleeps_and_which_addresses_are_familiar(
    filtered: tuple[ListenerProcess, NotedFilter, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the last look at the socket took exactly all: it would be woken by nobody whom the filter keeps out."""
    process, noted, _ = filtered
    said_when_asleep: list[list[object]] = []

    def slept(timeout: float | None = None) -> list[object]:
        if timeout == 0:
            noted.said.clear()
            process._on_familiar_address(FamiliarAddress(ip_address("192.0.2.1")))
            return []
        said_when_asleep.append(list(noted.said))
        raise ChannelClosedError

    monkeypatch.setattr(process._selector, "select", slept)
    process.run()
    assert said_when_asleep == [[ip_address("192.0.2.1"), "emptied"]]


def test_an_epochs_key_does_not_stay_in_the_order_that_brought_it(
    kept: tuple[ListenerProcess, KeptMessages, socket.socket],
) -> None:
    _, messages, _ = kept
    assert [any(message) for message in messages.given] == [True, False]  # version 1's key has no such promise


@pytest.mark.parametrize("room", [True, False])
def test_a_frame_is_wiped_whether_or_not_the_keeper_took_it(
    kept: tuple[ListenerProcess, KeptMessages, socket.socket], *, room: bool
) -> None:
    process, messages, keeper_end = kept
    if not room:
        while send(messages, bytes(FRAME_SIZE)):  # type: ignore[arg-type]
            pass
    messages.taken.clear()
    process._on_datagram_untrusted((packet_v2(), ("127.0.0.1",)), v2.WIRE)
    ((message, copy),) = messages.taken
    assert unpack_frame_untrusted(copy).packet == packet_v2()
    assert not any(message)
    if room:
        assert keeper_end.recv(1000) == copy


# -- whether a receipt was read to its end


def told(running: Running) -> Report:
    return unpack_report_untrusted(running.keeper.recv(1000))


def nothing_told(running: Running) -> bool:
    """Whether what waits in the channel says of no receipt that it was read."""
    waiting = []
    while select.select([running.keeper], [], [], 0)[0]:
        waiting.append(running.keeper.recv(1000))
    return all(not isinstance(unpack_report_untrusted(message), Delivered) for message in waiting)


def test_whoever_reads_a_receipt_to_its_end_is_reported(running: Running) -> None:
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    grant(running, datagram)
    for _ in range(2):
        with asking(running, keys.id) as connection:
            heard(connection)
            assert nothing_told(running), "it has not said yet that it has read that"
        running.keeper.settimeout(5)
        assert told(running) == Delivered(datagram[:16])


def test_whoever_ended_before_it_was_told_anything_has_not_read_it(running: Running) -> None:
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    with asking(running, keys.id) as connection:
        connection.shutdown(socket.SHUT_WR)
        grant(running, datagram)
        until(lambda: len(connection.recv(9000, socket.MSG_PEEK)) > 0, "it is answered")
        until(lambda: not running.process._connections, "the connection is gone")
    assert nothing_told(running)


def test_whoever_resets_has_not_read_it(running: Running) -> None:
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    grant(running, datagram)
    connection = asking(running, keys.id)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    until(lambda: len(connection.recv(9000, socket.MSG_PEEK)) > 0, "it is answered")
    connection.close()  # with a reset
    until(lambda: not running.process._connections, "the connection is gone")
    assert nothing_told(running)


@pytest.mark.parametrize("is_there", [True, False], ids=["the answer is there", "the answer comes later"])
def test_whoever_ends_before_the_answer_has_not_read_it(running: Running, *, is_there: bool) -> None:
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    if is_there:
        grant(running, datagram)
        until(lambda: running.process._receipts.knock_of(keys.id) is not None, "there is a receipt")
    with asking(running, b"") as connection:
        until(lambda: running.process._connections, "it is let in")
        # Both in one segment, so that the end is there when the question is read.
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        connection.sendall(keys.id)
        connection.shutdown(socket.SHUT_WR)
        if not is_there:
            until(lambda: any(entry.said for entry in running.process._connections.values()), "it is heard")
            grant(running, datagram)
        heard(connection)
        until(lambda: not running.process._connections, "the connection is gone")
    assert nothing_told(running)


def test_whoever_says_more_after_it_has_not_ended(running: Running) -> None:
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    grant(running, datagram)
    with asking(running, keys.id) as connection:
        heard(connection)
        connection.sendall(b"x")
        until(lambda: not running.process._connections, "the connection is gone")
    assert nothing_told(running)


def test_whoever_never_ends_is_closed_in_time(running: Running, clock: HeldClock) -> None:
    datagram = packet_v2()
    keys = receipt_of(running, datagram)
    grant(running, datagram)
    with asking(running, keys.id) as connection:
        heard(connection)
        until(lambda: clock.is_held("127.0.0.1"), "it waits")
        clock.advance(HEALTH_SECONDS)
        until(lambda: not running.process._connections, "the connection is gone")
    assert nothing_told(running)


def test_it_serves_without_a_health_port() -> None:
    ours, theirs = channel()
    with ours, theirs, bind_knock(free_port()) as knock:
        process = ListenerProcess(Listener(), knock, None, ours)
        process._serve(Serve())
        process._leave_health_port(LeaveHealthPort())
        kinds = [type(unpack_report_untrusted(theirs.recv(1000))) for _ in range(2)]
        assert kinds == [Serving, LeftHealthPort]
        assert {key.fileobj for key in process._selector.get_map().values()} == {knock}


def test_a_service_can_have_the_health_port_once_it_is_left_and_who_is_connected_stays(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), 5):
        until(lambda: running.process._connections, "it is accepted")
        send(running.keeper, LeaveHealthPort().pack())
        assert unpack_report_untrusted(running.keeper.recv(1000)) == LeftHealthPort()
        with socket.create_server(("127.0.0.1", running.port)):
            assert running.process._connections
    running.knock(packet()).close()
    assert len(running.frame()) == FRAME_SIZE


def test_a_health_port_that_somebody_listens_on_first_costs_receipts_and_no_knock() -> None:
    """Any user can bind it beside us as long as nobody listens; the one who listens first has it."""
    port = free_port()
    ours, theirs = channel()
    with ours, theirs, bind_health(port) as health, bind_knock(free_port()) as knock, socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", port))
        thief.listen()
        process = ListenerProcess(Listener(), knock, health, ours)
        process._serve(Serve())
        assert unpack_report_untrusted(theirs.recv(1000)) == NoHealthPort(errno.EADDRINUSE)
        assert {key.fileobj for key in process._selector.get_map().values()} == {knock}
