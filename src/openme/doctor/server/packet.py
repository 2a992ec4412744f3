"""A real packet from outside: a stranger in a network namespace of his own sends it, by a cable to this host.

The namespace belongs to a thread, and the cable ends in it, so that both are gone when the thread ends, and with the
process however that ends. They have no name on this machine but the cable's.
"""

import ctypes
import fcntl
import os
import secrets
import selectors
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol, TypeVar, cast

from openme.doctor.looks import Finding, NotLookedError
from openme.doctor.server.subject import Server
from openme.firewall.registry import kind_of
from openme.keeper.rules import rules_for

NOT_HIDDEN = "not_hidden"
KNOCK_PORT_SHUT = "knock_port_shut"

_CLONE_NEWNET = 0x4000_0000  # unshare(2)
_PEER = "probe"
_MOST_PORTS = 4
_SECONDS = 1.0
"""For an answer: between two namespaces of one host a packet needs microseconds."""
_DATAGRAMS = 20
"""Of one byte, to the knock port: enough to be told from the other datagrams that this host gets meanwhile."""
_TRIES = 2
_PAUSE = 0.02  # seconds
_PROGRAM_SECONDS = 4.0
_CARRIER_SECONDS = 2.0
_SIOCGIFFLAGS, _IFF_RUNNING = 0x8913, 0x40  # netdevice(7)
_NET = Path("/proc/thread-self/net")
T = TypeVar("T")
_libc = ctypes.CDLL(None, use_errno=True)


class _Cable(NamedTuple):
    """The two ends' addresses, of networks that belong to one link alone (RFC 3927, RFC 4291)."""

    host: tuple[IPv4Address, IPv6Address]
    stranger: tuple[IPv4Address, IPv6Address]


_Tcp = dict[tuple[str, int], str]
"""What each TCP port said, by address and port: `open`, `refused` or `silent`."""


def reached(server: Server) -> Iterator[Finding]:
    """Whether hidden ports are hidden from the stranger, and his packets to the knock port arrive."""
    if not server.runs:
        raise NotLookedError("no server runs")
    rules = rules_for(server.config)
    if not kind_of(server.config.firewall).abilities.among_host_rules:
        raise NotLookedError(f"firewall {server.config.firewall} has no rules in the kernel")
    if rules.interface is not None:
        raise NotLookedError(f"the rules are for interface {rules.interface} alone")
    cable = _cable()
    if any(address in network for network in rules.always_open_from for address in cable.stranger):
        raise NotLookedError("a stranger's address would be one of always_open_from")
    hidden = [item.first for item in rules.hidden if item.proto == "tcp"]
    ports = list(dict.fromkeys([*(item.first for item in rules.always_hidden), *hidden]))[:_MOST_PORTS]
    with _stranger(cable) as run:
        hosts = run(lambda: _hosts(cable))
        seen = run(lambda: _tcp([(host, port) for host in hosts for port in ports]))
        unheard = [host for host in hosts if not _is_heard(run, host, rules.knock_port)]
    for how, says in (("open", "takes connections from"), ("refused", "answers")):
        shown = {port for (_, port), found in seen.items() if found == how}
        for port in sorted(shown) if how == "open" or rules.hidden_as == "drop" else ():
            yield Finding(
                NOT_HIDDEN,
                f"{port}/tcp is to be hidden, and {says} a stranger",
                "see which rule sends or accepts it before openme's does: nft list ruleset",
            )
    if unheard:
        yield Finding(
            KNOCK_PORT_SHUT,
            f"a stranger's packets do not reach the knock port {rules.knock_port}/udp over"
            f" {' and '.join(map(_family, unheard))}",
            "see which rule drops them: nft list ruleset; open_knock_port: true has openme accept them on input",
        )


def _is_heard(run: "_Run", host: str, port: int) -> bool:
    """Whether the datagrams that the stranger sends to this address reach a socket, at the second time at last."""
    for _ in range(_TRIES):
        before = _datagrams(host, port)
        run(lambda: _send(host, port))
        end = time.monotonic() + _SECONDS / 2
        while time.monotonic() < end:
            if _datagrams(host, port).has_received_since(before):
                return True
            time.sleep(_PAUSE)
    return False


# -- the stranger and his cable


def _cable() -> _Cable:
    number = secrets.randbelow(1 << 13)  # of the networks /30 between 169.254.64.0 and 169.254.191.255
    first = IPv4Address("169.254.64.0") + 4 * number
    return _Cable((first + 1, IPv6Address("fe80::1")), (first + 2, IPv6Address("fe80::2")))


class _Run(Protocol):
    """Runs something where the stranger is, and gives what that gives. NotLookedError if it fails."""

    def __call__(self, act: Callable[[], T]) -> T:
        """Do it."""


@contextmanager
def _stranger(cable: _Cable) -> Iterator[_Run]:
    """The stranger, at the end of the cable. NotLookedError where this host lets nobody make one."""
    wanted: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
    given: SimpleQueue[Any] = SimpleQueue()

    def live() -> None:
        for act in iter(wanted.get, None):
            try:
                given.put(act())
            except (OSError, NotLookedError) as error:
                given.put(error)

    def run(act: Callable[[], T]) -> T:
        wanted.put(act)
        found = given.get()
        if isinstance(found, Exception):
            raise NotLookedError(f"no packet can be sent from a namespace of its own: {found}")
        return cast("T", found)

    name = f"openme-{secrets.token_hex(3)}"
    threading.Thread(target=live, daemon=True).start()
    try:
        namespace = run(_leave)
        _ip("link", "add", name, "type", "veth", "peer", "name", _PEER, "netns", namespace)
        try:
            _set_up(name, cable.host)
            run(lambda: _set_up(_PEER, cable.stranger))
            run(_wait_for_carrier)
            yield run
        finally:
            with suppress(NotLookedError):
                _ip("link", "delete", name)
    finally:
        wanted.put(None)


def _leave() -> str:
    """Give this thread a network namespace of its own; its file."""
    if _libc.unshare(_CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"


def _wait_for_carrier() -> None:
    """A device that has just come up loses what is sent too soon."""
    end = time.monotonic() + _CARRIER_SECONDS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        while time.monotonic() < end:
            answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, struct.pack("16sH22x", _PEER.encode(), 0))
            if struct.unpack_from("H", answer, 16)[0] & _IFF_RUNNING:
                return
            time.sleep(_PAUSE)


def _set_up(device: str, addresses: tuple[IPv4Address, IPv6Address]) -> None:
    v4, v6 = addresses
    _ip("address", "add", f"{v4}/30", "dev", device)
    with suppress(NotLookedError):  # a host without IPv6
        _ip("link", "set", device, "addrgenmode", "none")
        _ip("address", "add", f"{v6}/64", "dev", device, "nodad")
    _ip("link", "set", device, "up")


def _ip(*words: str) -> None:
    try:
        done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False, timeout=_PROGRAM_SECONDS)
    except (OSError, subprocess.SubprocessError):
        raise NotLookedError("the program ip is missing, or hangs: apt-get install iproute2") from None
    if done.returncode:
        raise NotLookedError(f"ip {words[0]} {words[1]}: {done.stderr.strip().splitlines()[-1:]}")


# -- what he sees


def _hosts(cable: _Cable) -> list[str]:
    """The addresses of this host, as the stranger reaches them."""
    return [str(cable.host[0]), *([f"{cable.host[1]}%{socket.if_nametoindex(_PEER)}"] if _has_ipv6() else [])]


def _send(host: str, port: int) -> None:
    with socket.socket(_family_of(host), socket.SOCK_DGRAM) as sender:
        for _ in range(_DATAGRAMS):
            sender.sendto(b"?", _address(host, port))


def _has_ipv6() -> bool:
    with suppress(OSError):
        return _PEER in (_NET / "if_inet6").read_text()
    return False


def _tcp(places: list[tuple[str, int]]) -> _Tcp:
    found = dict.fromkeys(places, "silent")
    end = time.monotonic() + _SECONDS
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for host, port in places:
            sock = stack.enter_context(socket.socket(_family_of(host), socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
            sock.connect_ex(_address(host, port))
            selector.register(sock, selectors.EVENT_WRITE, (host, port))
        while selector.get_map() and (left := end - time.monotonic()) > 0:
            for key, _ in selector.select(left):
                failure = key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # type: ignore[union-attr]
                found[key.data] = "refused" if failure else "open"
                selector.unregister(key.fileobj)
    return found


def _address(host: str, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    name, _, zone = host.partition("%")
    return (name, port, 0, int(zone)) if zone else (name, port)


def _family_of(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _family(host: str) -> str:
    return "IPv6" if _family_of(host) == socket.AF_INET6 else "IPv4"


# -- what arrives


class _Received(NamedTuple):
    """Datagrams that came to any socket of this network namespace; those that the knock socket's own filter dropped."""

    all: int
    dropped: int

    def has_received_since(self, before: "_Received") -> bool:
        """Whether the stranger's have come."""
        return self.all - before.all >= _DATAGRAMS or self.dropped - before.dropped >= _DATAGRAMS


def _datagrams(host: str, port: int) -> _Received:
    """Those that came over this address's family."""
    dropped = sum(_drops(name, port) for name in ("udp", "udp6"))
    with suppress(OSError, ValueError, KeyError):
        if _family_of(host) == socket.AF_INET6:
            counts = dict(line.split() for line in (_NET / "snmp6").read_text().splitlines())
            return _Received(int(counts["Udp6InDatagrams"]) + int(counts["Udp6InErrors"]), dropped)
        names, numbers = (line.split() for line in (_NET / "snmp").read_text().splitlines() if line.startswith("Udp:"))
        counts = dict(zip(names, numbers, strict=True))
        return _Received(int(counts["InDatagrams"]) + int(counts["InErrors"]), dropped)
    return _Received(0, dropped)


def _drops(name: str, port: int) -> int:
    total = 0
    with suppress(OSError):
        for fields in map(str.split, (_NET / name).read_text().splitlines()[1:]):
            with suppress(IndexError, ValueError):
                if int(fields[1].rpartition(":")[2], 16) == port:
                    total += int(fields[-1])
    return total
