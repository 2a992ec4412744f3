"""A real packet from outside: a stranger in a network namespace of his own sends it, by a cable to this host.

The namespace belongs to a thread, and the cable ends in it, so that both are gone when the thread ends, and with the
process however that ends. They have no name on this machine but the cable's.
"""

import ctypes
import os
import secrets
import selectors
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import NamedTuple

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
_PROGRAM_SECONDS = 4.0
_libc = ctypes.CDLL(None, use_errno=True)


class _Cable(NamedTuple):
    """The two ends' addresses, of networks that belong to one link alone (RFC 3927, RFC 4291)."""

    host: tuple[IPv4Address, IPv6Address]
    stranger: tuple[IPv4Address, IPv6Address]


class _Seen(NamedTuple):
    """What the stranger saw: what each TCP port said, by address and port: `open`, `refused` or `silent`."""

    tcp: dict[tuple[str, int], str]


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
        before = _datagrams(rules.knock_port)
        seen: _Seen = run(lambda: _look(cable, rules.knock_port, ports))
        after = _datagrams(rules.knock_port)
    for (address, port), how in seen.tcp.items():
        if how == "open" or (how == "refused" and rules.hidden_as == "drop"):
            said = "takes connections from" if how == "open" else "answers"
            yield Finding(
                NOT_HIDDEN,
                f"{port}/tcp is to be hidden, and {said} a stranger ({_family(address)})",
                "see which rule sends or accepts it before openme's does: nft list ruleset",
            )
    for family, first, last in zip(("IPv4", "IPv6"), before, after, strict=True):
        if any(_family(address) == family for address, _ in seen.tcp) and not last.has_received_since(first):
            yield Finding(
                KNOCK_PORT_SHUT,
                f"a stranger's packets do not reach the knock port {rules.knock_port}/udp over {family}",
                "see which rule drops them: nft list ruleset; open_knock_port: true has openme accept them on input",
            )


# -- the stranger and his cable


def _cable() -> _Cable:
    number = secrets.randbelow(1 << 13)  # of the networks /30 between 169.254.64.0 and 169.254.191.255
    first = IPv4Address("169.254.64.0") + 4 * number
    return _Cable((first + 1, IPv6Address("fe80::1")), (first + 2, IPv6Address("fe80::2")))


@contextmanager
def _stranger(cable: _Cable) -> Iterator[Callable[[Callable[[], _Seen]], _Seen]]:
    """Runs a function where the stranger is. NotLookedError where this host lets nobody make one."""
    name = f"openme-{secrets.token_hex(3)}"
    born, wanted, done = threading.Event(), threading.Event(), threading.Event()
    state: dict[str, object] = {}

    def live() -> None:
        if _libc.unshare(_CLONE_NEWNET) != 0:
            state["failure"] = os.strerror(ctypes.get_errno())
        else:
            state["namespace"] = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
        born.set()
        wanted.wait()
        look = state.get("look")
        try:
            if callable(look):
                _set_up(_PEER, cable.stranger)
                state["seen"] = look()
        except (OSError, NotLookedError) as error:
            state["failure"] = str(error)
        finally:
            done.set()

    def run(look: Callable[[], _Seen]) -> _Seen:
        state["look"] = look
        wanted.set()
        done.wait()
        seen = state.get("seen")
        if not isinstance(seen, _Seen):
            raise NotLookedError(f"no packet could be sent: {state.get('failure')}")
        return seen

    threading.Thread(target=live, daemon=True).start()
    born.wait()
    try:
        if "failure" in state:
            raise NotLookedError(f"a network namespace cannot be made here: {state['failure']}")
        _ip("link", "add", name, "type", "veth", "peer", "name", _PEER, "netns", str(state["namespace"]))
        try:
            _set_up(name, cable.host)
            yield run
        finally:
            with suppress(NotLookedError):
                _ip("link", "delete", name)
    finally:
        wanted.set()


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


def _look(cable: _Cable, knock_port: int, ports: list[int]) -> _Seen:
    index = socket.if_nametoindex(_PEER)
    hosts = [str(cable.host[0]), *([f"{cable.host[1]}%{index}"] if _has_ipv6() else [])]
    for host in hosts:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as sender, suppress(OSError):
            for _ in range(_DATAGRAMS):
                sender.sendto(b"?", _address(host, knock_port))
    return _Seen(_tcp([(host, port) for host in hosts for port in ports]))


def _has_ipv6() -> bool:
    with suppress(OSError):
        return _PEER in Path("/proc/thread-self/net/if_inet6").read_text()
    return False


def _tcp(places: list[tuple[str, int]]) -> dict[tuple[str, int], str]:
    found = dict.fromkeys(places, "silent")
    end = time.monotonic() + _SECONDS
    with ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        for host, port in places:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            sock = stack.enter_context(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
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


def _family(address: str) -> str:
    return f"IPv{ip_address(address.partition('%')[0]).version}"


# -- what arrives


class _Received(NamedTuple):
    """Datagrams that came to any socket of this network namespace; those that the knock socket's own filter dropped."""

    all: int
    dropped: int

    def has_received_since(self, before: "_Received") -> bool:
        """Whether the stranger's have come."""
        return self.all - before.all >= _DATAGRAMS or self.dropped - before.dropped >= _DATAGRAMS


def _datagrams(port: int) -> tuple[_Received, _Received]:
    """Of IPv4, then of IPv6."""
    dropped = sum(_drops(name, port) for name in ("udp", "udp6"))
    net = Path("/proc/thread-self/net")
    v4 = v6 = 0
    with suppress(OSError, ValueError):
        names, numbers = (line.split() for line in (net / "snmp").read_text().splitlines() if line.startswith("Udp:"))
        counts = dict(zip(names, numbers, strict=True))
        v4 = int(counts["InDatagrams"]) + int(counts["InErrors"])
    with suppress(OSError, ValueError):
        counts = dict(line.split() for line in (net / "snmp6").read_text().splitlines())
        v6 = int(counts["Udp6InDatagrams"]) + int(counts["Udp6InErrors"])
    return _Received(v4, dropped), _Received(v6, dropped)


def _drops(name: str, port: int) -> int:
    total = 0
    with suppress(OSError):
        for fields in map(str.split, Path("/proc/thread-self/net", name).read_text().splitlines()[1:]):
            with suppress(IndexError, ValueError):
                if int(fields[1].rpartition(":")[2], 16) == port:
                    total += int(fields[-1])
    return total
