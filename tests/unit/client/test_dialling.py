"""A dial over loopback: the first connection that stands, and nothing given up that may have been let in."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from openme.client import dialling
from openme.client.addresses import Endpoint
from openme.client.dialling import Dialler
from openme.client.errors import UnknownHostError
from openme.client.race import GIVEN_UP, SPACING
from support.ports import free_port

V4 = Endpoint(socket.AF_INET, "127.0.0.1")
V6 = Endpoint(socket.AF_INET6, "::1")
NOWHERE = Endpoint(socket.AF_INET6, "ff02::1")
SECONDS = 20.0


class Clock:
    """A clock that stands: waiting is what passes time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 50.0
        monkeypatch.setattr(dialling, "time", SimpleNamespace(monotonic=lambda: self.now, sleep=self.sleep))

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def select(self, seconds: float) -> list[object]:
        """Nobody answers within that time."""
        self.sleep(max(seconds, 0.001))
        return []


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def listening(stack: ExitStack, endpoint: Endpoint, port: int, backlog: int = 5) -> socket.socket:
    sock = stack.enter_context(socket.socket(endpoint.family, socket.SOCK_STREAM))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((endpoint.host, port))
    sock.listen(backlog)
    sock.settimeout(SECONDS)
    return sock


def silent(stack: ExitStack, port: int) -> socket.socket:
    """A port that says nothing to a SYN, until somebody accepts: its backlog is full."""
    sock = listening(stack, V4, port, 0)
    for _ in range(2):
        client = stack.enter_context(socket.socket())
        client.setblocking(False)  # noqa: FBT003  # the standard library's signature
        client.connect_ex(("127.0.0.1", port))
    return sock


def test_it_connects_and_the_connection_is_as_ssh_would_have_it(stack: ExitStack) -> None:
    port = free_port()
    server = listening(stack, V4, port)
    with Dialler(port) as dial:
        found = dial([V4], SECONDS)
    assert found is not None
    peer, _ = server.accept()
    with peer, found:
        assert found.gettimeout() is None, "it blocks"
        assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert found.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        peer.sendall(b"welcome")
        assert found.recv(10) == b"welcome"


@pytest.mark.parametrize(("good", "bad"), [(V4, V6), (V6, V4), (V4, NOWHERE), (V6, NOWHERE)], ids=str)
def test_a_family_that_refuses_or_has_no_network_is_no_hindrance(
    stack: ExitStack, good: Endpoint, bad: Endpoint
) -> None:
    port = free_port()
    listening(stack, good, port)
    for order in ([good, bad], [bad, good]):
        with Dialler(port) as dial:
            found = dial(order, SECONDS)
        assert found is not None
        with found:
            assert found.getpeername()[0] == good.host


@pytest.mark.parametrize("endpoints", [[V6, V4], [NOWHERE, V4]], ids=str)
def test_where_all_refuse_it_says_so_at_once_and_is_asked_again(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch, endpoints: list[Endpoint]
) -> None:
    port = free_port()
    clock = Clock(monkeypatch)
    with Dialler(port) as dial:
        assert dial(endpoints, SECONDS) is None
        assert clock.now == 50.0 + SPACING, "the second has its turn as soon as the first has failed"
        assert dial.problem == "Connection refused"
        listening(stack, V4, port)
        found = dial(endpoints, SECONDS)
        assert found is not None
        found.close()


def test_silence_takes_its_time_and_no_more(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    silent(stack, port)
    clock = Clock(monkeypatch)
    with Dialler(port) as dial:
        monkeypatch.setattr(dial, "_select", clock.select)
        assert dial([V4], 2.0) is None
        assert 52.0 <= clock.now < 52.01
        assert dial.problem is None, "nobody has said anything"


def test_what_is_under_way_is_not_given_up_between_two_dials(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server may have let the first attempt in, and nobody after it."""
    port = free_port()
    silent(stack, port)
    clock = Clock(monkeypatch)
    with Dialler(port) as dial:
        monkeypatch.setattr(dial, "_select", clock.select)
        dial([V4], 0.25)
        first = list(dial._begun)
        dial([V4], 1.0)
        assert set(first) <= set(dial._begun)
        dial([V4], GIVEN_UP)
        assert not set(first) & set(dial._begun), "they are of no use any more"
        assert all(sock.fileno() == -1 for sock in first)


def test_one_connection_is_made_and_the_attempts_beside_it_end_before_they_are_one(
    stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    full = silent(stack, port)
    clock = Clock(monkeypatch)
    with Dialler(port) as dial:
        with monkeypatch.context() as patched:
            patched.setattr(dial, "_select", clock.select)
            assert dial([V4], 0.5) is None
        begun = list(dial._begun)
        assert begun
        server = listening(stack, V6, port)
        found = dial([V6], SECONDS)
        assert found is not None
        assert dial._begun == {}
        assert all(sock.fileno() == -1 for sock in begun), "not when the session is over"
    server.accept()[0].close()
    found.close()
    full.close()


def test_a_dialler_that_is_closed_leaves_nothing_behind(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    silent(stack, port)
    clock = Clock(monkeypatch)
    with Dialler(port) as dial:
        monkeypatch.setattr(dial, "_select", clock.select)
        dial([V4], 1.0)
        begun = list(dial._begun)
    assert begun
    assert all(sock.fileno() == -1 for sock in begun)


def test_another_host_than_the_servers_is_looked_up_by_the_dialler(stack: ExitStack) -> None:
    port = free_port()
    listening(stack, V4, port)
    with Dialler(port, "127.0.0.1") as dial:
        found = dial([Endpoint(socket.AF_INET, "192.0.2.1")], SECONDS)
        assert found is not None
        found.close()
    with Dialler(port, "a" * 64 + ".invalid") as dial, pytest.raises(UnknownHostError) as caught:
        dial([V4], SECONDS)
    assert caught.value.hint == "check the name, and this machine's network"


def test_a_server_without_an_address_is_no_mistake() -> None:
    with Dialler(free_port()) as dial:
        assert dial([], SECONDS) is None


def test_a_descriptor_that_lacks_is_a_problem_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(24, "Too many open files")

    with Dialler(free_port()) as dial:
        monkeypatch.setattr(dialling, "socket", SimpleNamespace(socket=none_left, SOCK_STREAM=socket.SOCK_STREAM))
        assert dial([V4, V6], SECONDS) is None
        assert dial.problem == "Too many open files"


def test_a_connection_with_itself_is_none() -> None:
    """Which TCP makes when a port of this machine's is the one that the attempt goes out from."""
    with Dialler(port := free_port()) as dial, socket.socket() as alone:
        alone.bind(("127.0.0.1", port))
        alone.connect(("127.0.0.1", port))
        assert not dial._stands(alone)
        assert dial.problem == "nothing listens there"
