"""The sockets that strangers reach: both families, and one line when a port is taken."""

import os
import pwd
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openme.errors import OpenmeError
from openme.server.port_holder import holders_of
from openme.server.sockets import bind_health, bind_knock
from openme.visible import is_visible, visible
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
    [(bind_knock, "knock port {}/udp", "ss -uanp"), (bind_health, "health port {}/tcp", "ss -tanp")],
)
@pytest.mark.parametrize("is_known", [True, False])
def test_a_port_in_use_is_one_line_and_a_way_to_see_by_whom(
    bind: Callable[[int], socket.socket], what: str, tool: str, monkeypatch: pytest.MonkeyPatch, *, is_known: bool
) -> None:
    if not is_known:
        monkeypatch.setattr("openme.server.sockets.holders_of", lambda *_: None)
    port = free_port()
    with bind(port) as held:
        if held.type == socket.SOCK_STREAM:
            held.listen()
        with pytest.raises(OpenmeError) as caught:
            bind(port)
    holder = f"{own_name()} (process {os.getpid()} of user {own_user()})" if is_known else "another program"
    assert caught.value.message == f"{what.format(port)} is in use by {holder}"
    assert ("docs/operating.md" if is_known else tool) in str(caught.value.hint)
    bind(port).close()


def test_a_health_port_is_free_again_right_after_its_server_has_gone() -> None:
    port = free_port()
    with bind_health(port) as health:
        health.listen()
        with socket.create_connection(("127.0.0.1", port), 5):
            health.setblocking(True)  # noqa: FBT003  # the standard library's signature
            health.accept()[0].close()
    bind_health(port).close()


@pytest.fixture
def child() -> Iterator[Callable[[Callable[[], object], int], int]]:
    """Starts a process of a user that holds what it has made until the test is over; its process id."""
    ours: list[tuple[int, int]] = []

    def start(makes: Callable[[], object], uid: int) -> int:
        told, tell = os.pipe()
        lifeline, end = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.close(end)
                Path("/proc/self/comm").write_text("port \x1b[1mthief")
                if uid != os.geteuid():
                    os.setgroups([])
                    os.setresgid(uid, uid, uid)
                    os.setresuid(uid, uid, uid)
                held = makes()
                os.write(tell, b"1")
                os.read(lifeline, 1)
                del held
            finally:
                os._exit(0)
        os.close(lifeline)
        os.close(tell)
        assert os.read(told, 1) == b"1"
        os.close(told)
        ours.append((pid, end))
        return pid

    yield start
    for pid, end in ours:
        os.close(end)
        os.waitpid(pid, 0)


def listening(port: int) -> socket.socket:
    held = socket.socket()
    held.bind(("127.0.0.1", port))
    held.listen()
    return held


def receiving(port: int) -> socket.socket:
    held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    held.bind(("127.0.0.1", port))
    return held


@pytest.mark.skipif(os.geteuid() != 0, reason="starts a process of another user")
@pytest.mark.parametrize(("bind", "makes"), [(bind_knock, receiving), (bind_health, listening)])
def test_whoever_took_the_port_is_named(
    child: Callable[[Callable[[], object], int], int],
    bind: Callable[[int], socket.socket],
    makes: Callable[[int], socket.socket],
) -> None:
    """Any local user can, as long as no server runs: one address of one family is enough."""
    port = free_port()
    pid = child(lambda: makes(port), pwd.getpwnam("nobody").pw_uid)
    with pytest.raises(OpenmeError) as caught:
        bind(port)
    assert caught.value.message.endswith(f" is in use by port \x1b[1mthief (process {pid} of user nobody)")
    assert is_visible(visible(caught.value.message))
    assert "docs/operating.md" in str(caught.value.hint)


def test_the_other_end_of_somebodys_connection_is_no_holder() -> None:
    """A connection from here whose local number it is by chance holds the port; who it goes to does not."""
    with listening(free_port()) as server, socket.create_connection(server.getsockname()) as client:
        port = client.getsockname()[1]
        assert holders_of("tcp", port) == f"{own_name()} (process {os.getpid()} of user {own_user()})"
        assert holders_of("udp", port) is None


def own_name() -> str:
    return Path("/proc/self/comm").read_text().rstrip("\n")


def own_user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def proc(root: Path, *rows: str) -> Path:
    """A /proc in which these sockets are, and no process of ours."""
    (root / "thread-self/net").mkdir(parents=True)
    (root / "thread-self/net/udp").write_text("\n".join(["head", *rows, "garbage", " 1: x y"]))
    return root


def row(inode: int, uid: int, port: int = 0x1234) -> str:
    return f"  77: 00000000:{port:04X} 00000000:0000 07 00000000:00000000 00:00000000 00000000  {uid}  0 {inode} 2 0 0"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], None),
        ([row(9, 0, 0x1235)], None),
        ([row(0, 0)], "the kernel itself (such as WireGuard or VXLAN)"),
        ([row(9, 4_000_000)], "a program of user 4000000 that cannot be seen from here"),
        (
            [row(9 + number, 4_000_000 + number) for number in range(5)],
            " and ".join(f"a program of user {4_000_000 + n} that cannot be seen from here" for n in range(3))
            + " and 2 more",
        ),
    ],
)
def test_what_can_be_said_of_a_holder_that_cannot_be_seen(tmp_path: Path, rows: list[str], words: str | None) -> None:
    assert holders_of("udp", 0x1234, proc(tmp_path, *rows)) == words


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
