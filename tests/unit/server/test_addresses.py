"""Own addresses: the kernel's answer decides, and where there is none that makes sense, no door opens."""

import errno
import socket
import struct
from ipaddress import ip_address

import pytest

from openme.keeper.policy import refused_target
from openme.netlink.routes import RouteQuestions
from openme.server.addresses import OwnAddresses

ADDRESS = ip_address("192.0.2.7")
LINK_LOCAL = ip_address("fe80::7")
KERNEL, PROGRAM = 0, 4711


def header(kind: int, sequence: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


def route(sequence: int, kind: int = 1, family: int = socket.AF_INET) -> bytes:
    return header(24, sequence, struct.pack("=BBBBBBBBI", family, 32, 0, 0, 254, 0, 0, kind, 0))


def error(sequence: int, code: int) -> bytes:
    return header(2, sequence, struct.pack("=i", -code) + bytes(16))


class Kernel:
    """Stands for the socket: answers are queued by the test, with `sequence` filled in when the question comes."""

    def __init__(self) -> None:
        self.queue: list[tuple[bytes, int] | OSError] = []
        self.answers: list[tuple[object, int]] = []
        self.refuses: OSError | None = None

    def sendto(self, data: bytes, to: tuple[int, int]) -> int:
        assert to == (KERNEL, 0)
        if self.refuses:
            raise self.refuses
        sequence = struct.unpack_from("=IHHII", data)[3]
        self.queue += [(make(sequence), sender) for make, sender in self.answers]  # type: ignore[operator]
        return len(data)

    def recvfrom(self, _size: int) -> tuple[bytes, tuple[int, int]]:
        if not self.queue:
            raise BlockingIOError
        item = self.queue.pop(0)
        if isinstance(item, OSError):
            raise item
        return item[0], (item[1], 0)

    def close(self) -> None:
        pass


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    real = OwnAddresses(lambda: [(1, "lo"), (2, "eth0")])
    real.close()
    monkeypatch.setattr(real, "_questions", RouteQuestions())
    real._questions.close()
    monkeypatch.setattr(real._questions, "_socket", made)
    made.asked = real  # type: ignore[attr-defined]
    return made


def ask(kernel: Kernel, *answers: object, sender: int = KERNEL, address: object = ADDRESS) -> bool | None:
    kernel.answers = [(answer, sender) for answer in answers]
    found: bool | None = kernel.asked(address)  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(
    ("kind", "own"),
    [(1, False), (2, True), (3, True), (4, True), (5, True), (6, False), (7, False), (0, None), (99, None)],
)
def test_the_type_of_the_route_decides(kernel: Kernel, kind: int, own: bool | None) -> None:  # noqa: FBT001
    assert ask(kernel, lambda n: route(n, kind)) is own


@pytest.mark.parametrize(
    ("code", "own"),
    [
        (errno.ENETUNREACH, False),
        (errno.EHOSTUNREACH, False),
        (errno.EACCES, False),
        (errno.EINVAL, False),
        (errno.ENOMEM, None),
        (errno.ENOBUFS, None),
        (errno.EPERM, None),
        (0, None),
    ],
)
def test_no_route_is_an_answer_and_another_error_none(kernel: Kernel, code: int, own: bool | None) -> None:  # noqa: FBT001
    assert ask(kernel, lambda n: error(n, code)) is own


def test_no_answer_is_not_waited_for(kernel: Kernel) -> None:
    assert ask(kernel) is None
    assert refused_target(ADDRESS, kernel.asked) == "unchecked_address"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "answer",
    [
        lambda _n: b"",
        lambda _n: b"\x10",
        lambda n: header(24, n, b""),
        lambda n: header(24, n, b"\x02\x20"),
        lambda n: header(2, n, b"\xff"),
        lambda n: header(3, n, b""),
        lambda n: header(99, n, bytes(12)),
        lambda n: route(n, family=socket.AF_INET6),
        lambda n: route(n + 1, 1),
    ],
)
def test_an_answer_that_makes_no_sense_is_none(kernel: Kernel, answer: object) -> None:
    assert ask(kernel, answer) is None


def test_only_the_kernel_answers(kernel: Kernel) -> None:
    assert ask(kernel, lambda n: route(n, 1), sender=PROGRAM) is None
    kernel.answers = []
    kernel.queue = []
    kernel.answers = [(lambda n: route(n, 1), PROGRAM), (lambda n: route(n, 2), KERNEL)]
    assert kernel.asked(ADDRESS) is True  # type: ignore[attr-defined]


def test_programs_that_send_without_end_keep_nobody_waiting(kernel: Kernel) -> None:
    assert ask(kernel, *[lambda n: route(n, 1)] * 1000, sender=PROGRAM) is None


def test_an_answer_to_an_earlier_question_is_not_taken_for_this_one(kernel: Kernel) -> None:
    kernel.queue = [(route(1, 1), KERNEL), OSError(errno.ENOBUFS, "")]
    assert ask(kernel, lambda n: route(n, 2)) is None, "answers were lost, and perhaps this one"
    assert ask(kernel, lambda n: route(n, 2)) is True


def test_a_kernel_that_takes_no_question(kernel: Kernel) -> None:
    kernel.refuses = BlockingIOError()
    assert ask(kernel, lambda n: route(n, 1)) is None


def test_a_link_local_address_is_asked_of_every_interface(kernel: Kernel) -> None:
    def own_on_the_second(n: int) -> bytes:
        return route(n, 2 if n % 2 == 0 else 1, socket.AF_INET6)

    assert ask(kernel, own_on_the_second, address=LINK_LOCAL) is True
    assert ask(kernel, lambda n: route(n, 1, socket.AF_INET6), address=LINK_LOCAL) is False
    assert ask(kernel, lambda n: error(n, errno.ENOMEM), address=LINK_LOCAL) is None


def test_the_real_kernel_knows_its_own() -> None:
    asked = OwnAddresses()
    try:
        assert asked(ip_address("127.0.0.1")) is True
        assert asked(ip_address("::1")) is True
        assert asked._questions._socket.getblocking() is False
    finally:
        asked.close()
