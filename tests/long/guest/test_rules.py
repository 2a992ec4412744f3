"""Every combination of rules loads on this kernel, doors open and close in it, and stopping leaves no trace."""

import dataclasses
import itertools
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from openme.firewall.base import CutTarget, Door, PortList, Rules
from openme.firewall.nft import NftFirewall
from openme.firewall.nft_elements import Refresh
from openme.networks import first_of, network_around
from openme.ports import merged, parse_port_spec
from support.netns import Namespace, add_addresses, connect, namespace, until, v4, v6
from support.steps import done

pytestmark = pytest.mark.root

SSH = PortList(parse_port_spec("22/tcp"))
WEB = PortList(merged((*parse_port_spec("8080-8090"), *parse_port_spec("53/udp"))))
ONCE = PortList(parse_port_spec("2222"), single_use=True)
WIDE = tuple(PortList(parse_port_spec("222/tcp"), prefix_v4=v4, prefix_v6=v6) for v4, v6 in ((16, 48), (30, 126)))
LISTS = frozenset({SSH, WEB, ONCE, *WIDE})
RULES = Rules(
    knock_port=54154,
    open_knock_port=True,
    hidden=merged(SSH.ports + WEB.ports + ONCE.ports + WIDE[0].ports),
    hidden_as="drop",
    hide_udp_errors=True,
    interface=None,
    port_lists=LISTS,
)
ADDRESSES = (ip_address(v4(2)), ip_address(v6(2)))
SERVER = {4: v4(1), 6: v6(1)}
CLIENT = {4: ADDRESSES[0], 6: ADDRESSES[1]}
ARRIVES = 60.0
"""Seconds at most for what is to come through: an emulated machine may take several for a handshake, and a SYN that was
lost is repeated after one second, three and seven.
"""
SILENCE = 1.0  # seconds without an answer
both_versions = pytest.mark.parametrize("version", [4, 6])

# A host with rules of its own, in tables that openme marks and in such that it has no business with.
FOREIGN = """
table inet host {
    set banned { type ipv4_addr; flags timeout; elements = { 203.0.113.9 } }
    chain in {
        type filter hook input priority 0; policy drop;
        ct state established,related accept
        icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
        ip saddr @banned counter drop
    }
    chain out { type filter hook output priority 0; policy accept; }
}
table ip nat { chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; masquerade; }; }
table ip filter { chain INPUT { type filter hook input priority filter; policy accept; }; }
table ip6 mangle { chain INPUT { type filter hook input priority mangle; policy accept; }; }
"""


@dataclass
class Hosts:
    stack: ExitStack
    server: Namespace
    client: Namespace

    def firewall(self, refresh: Refresh | None = None) -> NftFirewall:
        with self.server.entered():
            return NftFirewall() if refresh is None else NftFirewall(refresh=refresh)

    def listening(self, port: int, version: int) -> socket.socket:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        with self.server.entered():
            made = socket.create_server((SERVER[version], port), family=family)
        return self.stack.enter_context(closing(made))

    def connected(self, port: int, version: int, number: int | None = None, *, wait: float = ARRIVES) -> socket.socket:
        """A connection of the client's, from its address of this number; OSError where it is refused, or met with
        silence for so many seconds.
        """
        with self.client.entered():
            made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        self.stack.callback(made.close)
        made.settimeout(wait)
        if number is not None:
            made.bind((v4(number) if version == 4 else v6(number), 0))
        try:
            made.connect((SERVER[version], port))
        except OSError:
            made.close()  # or TCP would try again later
            raise
        return made

    def shut_out(self, port: int, version: int, number: int | None = None, *, hidden_as: str = "drop") -> None:
        """AssertionError unless a connection from there is met as a hidden port's is."""
        is_silent = hidden_as == "drop"
        with pytest.raises(TimeoutError if is_silent else ConnectionRefusedError):
            self.connected(port, version, number, wait=SILENCE if is_silent else ARRIVES)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with ExitStack() as stack:
        server, client = namespace(stack), namespace(stack)
        connect(server, client)
        yield Hosts(stack, server, client)


def combinations() -> Iterator[Rules]:
    """Every setting with every other, and each way to have fewer ports or doors with each way to hide."""
    settings: dict[str, tuple[Any, ...]] = {
        "hidden_as": ("drop", "reject"),
        "hide_udp_errors": (True, False),
        "interface": (None, "eth0"),
        "open_knock_port": (True, False),
        "always_open_from": (
            (),
            (ip_network("203.0.113.0/24"), ip_network("2001:db8:9::/48"), ip_network("0.0.0.0/0")),
        ),
    }
    lists: dict[str, tuple[Any, ...]] = {
        "hidden": ((),),
        "port_lists": (frozenset({SSH, WEB}), frozenset({SSH, WIDE[0]}), frozenset()),
        "always_hidden": (parse_port_spec("54154/tcp"),),
        "interface_indexes": ((2,), (2, 9)),
    }
    there = {field.name for field in dataclasses.fields(Rules)}
    assert there <= {"knock_port", *settings, *lists}, "a field of Rules that no combination has"
    names = [name for name in settings if name in there]
    for values in itertools.product(*(settings[name] for name in names)):
        yield replace(RULES, **dict(zip(names, values, strict=True)))
    for name in lists.keys() & there:
        for value, hidden_as in itertools.product(lists[name], settings["hidden_as"]):
            interface = "eth0" if name == "interface_indexes" else None  # they count beside its name alone
            yield replace(RULES, **{name: value, "hidden_as": hidden_as, "interface": interface})


def doors_of(rules: Rules, seconds: float) -> list[Door]:
    return [
        Door(port_list, first_of(address, port_list.prefix(address.version)), seconds)
        for port_list in rules.port_lists
        for address in ADDRESSES
    ]


def test_every_combination_of_rules_loads_opens_closes_and_leaves_no_trace(hosts: Hosts) -> None:
    hosts.server.nft(FOREIGN)
    before = hosts.server.ruleset()
    for rules in combinations():
        firewall = hosts.firewall()
        firewall.start(rules)
        assert firewall.intact(), rules
        firewall.open(doors_of(rules, 60))
        firewall.open(doors_of(rules, 30))
        assert len(firewall.doors()) == len(doors_of(rules, 30)), rules
        firewall.apply(rules, doors_of(rules, 90))
        assert all(door.seconds > 60 for door in firewall.doors()), rules
        firewall.close((door.port_list, door.address) for door in firewall.doors())
        assert firewall.doors() == [], rules
        firewall.stop()
        assert hosts.server.ruleset() == before, rules


def test_rules_change_from_every_combination_to_the_next_with_doors_open(hosts: Hosts) -> None:
    firewall = hosts.firewall()
    firewall.start(RULES)
    for rules in combinations():
        firewall.apply(rules, doors_of(rules, 60))
        assert firewall.intact(), rules
        assert len(firewall.doors()) == len(doors_of(rules, 60)), rules
    another = hosts.firewall()
    another.start(rules)
    assert len(another.doors()) == len(doors_of(rules, 60)), "a later run takes over"


@pytest.mark.parametrize("refresh", [None, "replace"], ids=["as-this-kernel-can", "replace"])
def test_an_open_door_is_given_a_longer_and_a_shorter_time(hosts: Hosts, refresh: Refresh | None) -> None:
    firewall = hosts.firewall(refresh)
    firewall.start(RULES)
    for seconds in (100, 300, 50):
        firewall.open(doors_of(RULES, seconds))
        assert all(seconds - 30 < door.seconds <= seconds for door in firewall.doors()), firewall.doors()
        assert len(firewall.doors()) == len(doors_of(RULES, seconds))


def test_the_kernel_ends_a_door(hosts: Hosts) -> None:
    firewall = hosts.firewall()
    firewall.start(RULES)
    firewall.open(doors_of(RULES, 0.5))
    until(lambda: not firewall.doors())


@both_versions
@pytest.mark.parametrize("port_list", WIDE, ids=["wide", "narrow"])
@pytest.mark.parametrize("hidden_as", ["drop", "reject"])
def test_a_door_for_a_network_lets_all_of_it_in_and_nobody_beside_it(
    hosts: Hosts, version: int, port_list: PortList, hidden_as: Any
) -> None:
    """Looked up masked, in a set without intervals. Of the narrow network .0 to .3 are in, and .5 is not."""
    for number in (3, 5):
        add_addresses(hosts.client, number)
    firewall = hosts.firewall()
    firewall.start(replace(RULES, hidden_as=hidden_as))
    hosts.listening(222, version)
    hosts.shut_out(222, version, 2, hidden_as=hidden_as)
    firewall.open([Door(port_list, first_of(CLIENT[version], port_list.prefix(version)), 60)])
    for number in (2, 3):
        hosts.connected(222, version, number).close()
    if port_list is WIDE[0]:
        hosts.connected(222, version, 5).close()
    else:
        hosts.shut_out(222, version, 5, hidden_as=hidden_as)
    firewall.apply(replace(RULES, hidden_as=hidden_as, port_lists=LISTS - {port_list}))
    hosts.shut_out(222, version, 2, hidden_as=hidden_as)


@both_versions
def test_a_cut_ends_what_came_from_all_over_a_network(hosts: Hosts, version: int) -> None:
    for number in (3, 5):
        add_addresses(hosts.client, number)
    firewall = hosts.firewall()
    firewall.start(RULES)
    wide, narrow = WIDE
    listener = hosts.listening(222, version)
    firewall.open([Door(wide, first_of(CLIENT[version], wide.prefix(version)), 60)])
    near, beside = hosts.connected(222, version, 3), hosts.connected(222, version, 5)
    served = [hosts.stack.enter_context(closing(listener.accept()[0])) for _ in range(2)]
    firewall.close([(wide, first_of(CLIENT[version], wide.prefix(version)))])
    network = network_around(CLIENT[version], narrow.prefix(version))
    target = CutTarget(network.network_address, narrow.ports, established=True, network=network)
    assert sum(done(firewall.cut([target])).values()) == 1
    with pytest.raises(ConnectionResetError):
        near.recv(100)
    beside.sendall(b"goes on")
    assert served[1].recv(100) == b"goes on"


@both_versions
def test_a_single_use_door_serves_one_connection(hosts: Hosts, version: int) -> None:
    firewall = hosts.firewall()
    firewall.start(RULES)
    listener = hosts.listening(2222, version)
    hosts.shut_out(2222, version)
    firewall.open([Door(ONCE, CLIENT[version], 60)])
    first = hosts.connected(2222, version)
    served, _ = listener.accept()
    hosts.stack.enter_context(closing(served))
    assert firewall.doors() == []
    hosts.shut_out(2222, version)
    first.sendall(b"lives on")
    assert served.recv(100) == b"lives on"


@both_versions
@pytest.mark.parametrize("hidden_as", ["drop", "reject"])
def test_who_was_in_goes_on_and_who_is_cut_is_told(hosts: Hosts, version: int, hidden_as: Any) -> None:
    firewall = hosts.firewall()
    firewall.start(replace(RULES, hidden_as=hidden_as))
    listener = hosts.listening(22, version)
    firewall.open([Door(SSH, CLIENT[version], 60)])
    client = hosts.connected(22, version)
    served, _ = listener.accept()
    hosts.stack.enter_context(closing(served))
    firewall.close([(SSH, CLIENT[version])])
    hosts.shut_out(22, version, hidden_as=hidden_as)
    client.sendall(b"goes on")
    assert served.recv(100) == b"goes on"
    served.settimeout(ARRIVES)
    cut = done(firewall.cut([CutTarget(CLIENT[version], SSH.ports, established=True)]))
    assert cut == {CLIENT[version]: 1}
    with pytest.raises(OSError, match=r"abort|reset"):
        served.recv(100)
    with pytest.raises(ConnectionResetError):
        client.recv(100)


def test_a_flood_of_refreshes_lets_every_connection_in(hosts: Hosts) -> None:
    """The batch that takes an element away and adds it again is one step for every packet."""
    firewall = hosts.firewall()
    firewall.start(RULES)
    listener = hosts.listening(22, 4)
    firewall.open([Door(SSH, CLIENT[4], 60)])
    ended = threading.Event()

    def refreshing() -> None:
        while not ended.is_set():
            firewall.open([Door(SSH, CLIENT[4], 60)])

    thread = threading.Thread(target=refreshing)
    thread.start()
    try:
        for _ in range(50):
            hosts.connected(22, 4).close()
            listener.accept()[0].close()
    finally:
        ended.set()
        thread.join()
