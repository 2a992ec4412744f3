"""The sockets that strangers reach: both families, and one line when a port is taken."""

import socket
from collections.abc import Callable

import pytest

from openme.errors import OpenmeError
from openme.server.sockets import bind_health, bind_knock
from support.ports import free_port


def test_the_knock_port_takes_datagrams_of_both_families() -> None:
    port = free_port()
    with bind_knock(port) as knock:
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family, socket.SOCK_DGRAM) as client:
                client.sendto(b"x", (host, port))
            knock.settimeout(5)
            assert knock.recv(10) == b"x"


def test_the_health_port_takes_connections_of_both_families() -> None:
    port = free_port()
    with bind_health(port) as health:
        health.listen()
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family, socket.SOCK_STREAM) as client:
                client.settimeout(5)
                client.connect((host, port))


@pytest.mark.parametrize(
    ("bind", "what", "tool"),
    [(bind_knock, "knock port {}/udp", "ss -ulnp"), (bind_health, "health port {}/tcp", "ss -tlnp")],
)
def test_a_port_in_use_is_one_line_and_a_way_to_see_by_whom(
    bind: Callable[[int], socket.socket], what: str, tool: str
) -> None:
    port = free_port()
    with bind(port) as held:
        if held.type == socket.SOCK_STREAM:
            held.listen()
        with pytest.raises(OpenmeError) as caught:
            bind(port)
    assert caught.value.message == f"{what.format(port)} is in use by another program"
    assert tool in str(caught.value.hint)
    bind(port).close()


def test_a_health_port_is_free_again_right_after_its_server_has_gone() -> None:
    port = free_port()
    with bind_health(port) as health:
        health.listen()
        with socket.create_connection(("127.0.0.1", port), 5):
            health.setblocking(True)  # noqa: FBT003  # the standard library's signature
            health.accept()[0].close()
    bind_health(port).close()


def test_a_health_connection_has_small_buffers() -> None:
    port = free_port()
    with bind_health(port) as health:
        health.listen()
        with socket.create_connection(("127.0.0.1", port), 5):
            health.settimeout(5)
            accepted, _ = health.accept()
            with accepted:
                held = [accepted.getsockopt(socket.SOL_SOCKET, o) for o in (socket.SO_RCVBUF, socket.SO_SNDBUF)]
    assert sum(held) <= 256 << 10
