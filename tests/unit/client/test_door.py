"""Is the door open: asked of real sockets on loopback."""

import socket
from types import SimpleNamespace

import pytest

from openme.client import door
from openme.client.addresses import Endpoint
from openme.client.blocking import Blocking, finish
from openme.client.door import open_endpoints, wait_open
from support.ports import free_port

V4 = Endpoint(socket.AF_INET, "127.0.0.1")
V6 = Endpoint(socket.AF_INET6, "::1")


class Clock(Blocking):
    """Seconds that pass only by pauses, and by `step` for each look at the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: float = 0.0) -> None:
        self.now = 0.0
        self.pauses = 0
        self.opens: dict[int, int] = {}  # after so many pauses, this port
        self.sockets: list[socket.socket] = []
        self._step = step
        monkeypatch.setattr(door, "time", SimpleNamespace(monotonic=self.monotonic))

    def monotonic(self) -> float:
        self.now += self._step
        return self.now

    async def pause(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1
        if self.pauses in self.opens:
            self.sockets.append(listening(V4, self.opens[self.pauses]))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def listening(endpoint: Endpoint, port: int) -> socket.socket:
    sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((endpoint.host, port))
    sock.listen()
    return sock


@pytest.mark.parametrize("endpoint", [V4, V6], ids=str)
def test_a_port_that_accepts_is_open_and_one_that_refuses_is_not(endpoint: Endpoint) -> None:
    port = free_port()
    assert open_endpoints([endpoint], port) == []
    with listening(endpoint, port):
        assert open_endpoints([endpoint], port) == [endpoint]


def test_only_the_family_that_accepts_is_open() -> None:
    port = free_port()
    with listening(V6, port):
        assert open_endpoints([V4, V6], port) == [V6]


def test_a_port_that_says_nothing_is_closed_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch, step=0.1)
    port = free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as full:
        full.bind(("127.0.0.1", port))
        full.listen(0)
        clients = []
        for _ in range(4):  # a backlog that is full makes the kernel ignore what comes
            client = socket.socket()
            client.setblocking(False)  # noqa: FBT003  # the standard library's signature
            client.connect_ex(("127.0.0.1", port))
            clients.append(client)
        assert open_endpoints([V4], port, 0.3) == []
        assert clock.now == pytest.approx(0.4)  # the look at the beginning, and the time itself
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    "endpoint",
    [
        Endpoint(socket.AF_INET, "255.255.255.255"),
        Endpoint(socket.AF_INET6, "ff02::1"),
        Endpoint(socket.AF_INET6, "fe80::1"),
        Endpoint(socket.AF_INET, "224.0.0.1"),
    ],
    ids=str,
)
def test_an_address_that_cannot_be_connected_to_is_closed(endpoint: Endpoint) -> None:
    assert open_endpoints([endpoint], free_port(), 0.5) == []


def test_waiting_ends_as_soon_as_the_door_opens(clock: Clock) -> None:
    port = free_port()
    clock.opens[5] = port
    assert finish(wait_open(clock, [V4], port, 10.0)) == [V4]
    assert clock.pauses == 5
    clock.sockets[0].close()


def test_waiting_gives_up_at_its_end(clock: Clock) -> None:
    assert finish(wait_open(clock, [V4, V6], free_port(), 0.4)) == []
    assert 0.4 <= clock.now < 0.4 + 0.03


def test_with_one_family_open_the_other_gets_half_a_second_more(clock: Clock) -> None:
    port = free_port()
    with listening(V4, port):
        assert finish(wait_open(clock, [V6, V4], port, 30.0)) == [V4]
    assert 0.5 <= clock.now < 0.5 + 0.05


def test_no_socket_is_left_open() -> None:
    port = free_port()
    with listening(V4, port) as server:
        open_endpoints([V4], port)
        server.settimeout(5)
        peer, _ = server.accept()
        with peer:
            peer.settimeout(5)
            assert peer.recv(1) == b""
