"""The listener's shell on loopback: datagrams in, frames out, and never an answer."""

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from openme.listener.listener import Listener
from openme.server import listener_process
from openme.server.channel import channel, send
from openme.server.listener_process import HEALTH_PER_ADDRESS, ListenerProcess, address_of
from openme.server.sockets import bind_health, bind_knock
from openme.wire.frame import FRAME_SIZE, Order, OrderKind, unpack_frame_untrusted
from support.command import until
from support.knocks import EPOCH, SERVER, lines, packet, ratchet
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
        return self.keeper.recv(1000)


@pytest.fixture
def running() -> Iterator[Running]:
    port = free_port()
    listener_end, keeper_end = channel()
    keeper_end.settimeout(5)
    with bind_knock(port) as knock, bind_health(port) as health, listener_end:
        process = ListenerProcess(Listener(), knock, health, listener_end)
        thread = threading.Thread(target=process.run)
        send(keeper_end, Order(OrderKind.USE_V1_KEY, key=SERVER.raw).pack())
        send(keeper_end, Order(OrderKind.USE_EPOCH_KEY, EPOCH, ratchet().private_key(EPOCH)).pack())
        send(keeper_end, Order(OrderKind.SERVE).pack())
        thread.start()
        until(lambda: health.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), "the health port listens")
        yield Running(process, keeper_end, port, thread)
        keeper_end.close()
        thread.join(5)
        assert not thread.is_alive(), "the listener outlives its keeper"
        for connection in process._connections.values():
            connection.socket.close()


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
    send(running.keeper, Order(OrderKind.FORGET_V1_KEY).pack())
    deadline = time.monotonic() + 5
    while running.process._listener._v1_keys:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.knock(packet()).close()
    while not running.process._counts.total:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert running.process._counts.total == {"filter": 1}


def test_a_keeper_that_is_busy_costs_a_count_and_no_wait(running: Running) -> None:
    deadline = time.monotonic() + 20
    number = 0
    while not running.process._counts.total["busy"]:
        running.knock(packet(label=number)).close()
        number += 1
        assert time.monotonic() < deadline
    assert unpack_frame_untrusted(running.frame()).packet == packet(label=0)


def closed(connection: socket.socket, seconds: float = 5.0) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(10) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_a_health_connection_says_nothing_and_is_closed(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener_process, "HEALTH_SECONDS", 0.2)
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", running.port), 5) as quiet:
        assert closed(quiet)
    assert time.monotonic() - start >= 0.15
    with socket.create_connection(("127.0.0.1", running.port), 5) as talker:
        talker.send(b"GET / HTTP/1.0\r\n\r\n")
        assert closed(talker)


def test_one_address_gets_so_many_connections_at_a_time(running: Running) -> None:
    held = [socket.create_connection(("127.0.0.1", running.port), 5) for _ in range(HEALTH_PER_ADDRESS)]
    with socket.create_connection(("127.0.0.1", running.port), 5) as more:
        assert closed(more, 1.0)  # well before its time as a connection would be over
    with socket.create_connection(("::1", running.port), 5) as neighbour:
        assert not closed(neighbour, 0.1)
    for connection in held:
        connection.close()
    deadline = time.monotonic() + 5
    while running.process._per_address:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert running.process._connections == {}


def test_a_debug_line_names_the_reason_and_the_source(running: Running) -> None:
    with lines("openme.listener") as records:
        running.knock(b"x").close()
        running.knock(packet()).close()
        running.frame()
    assert [r.getMessage() for r in records if r.levelname == "DEBUG"] == ["refused: length (from 127.0.0.1)"]


@pytest.mark.parametrize(
    ("host", "address"),
    [("::ffff:192.0.2.9", "192.0.2.9"), ("192.0.2.9", "192.0.2.9"), ("fe80::1%eth0", "fe80::1"), ("::1", "::1")],
)
def test_an_address_has_one_form_however_it_came_in(host: str, address: str) -> None:
    assert address_of((host,)) == ip_address(address)
