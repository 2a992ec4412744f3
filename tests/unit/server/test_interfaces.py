"""What a rule for an interface meets, from lists of devices; and the watch, on a list that changes."""

from math import inf

import pytest

from openme.firewall.base import FirewallError
from openme.netlink.routes import Link, links_now
from openme.server import interfaces
from openme.server.interfaces import InterfaceWatch, interface_fault, require_interface

LO = Link(1, "lo", loopback=True)
ETH0 = Link(2, "eth0")


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ([ETH0], None),
        # A VLAN's packets come in by the VLAN's own device, and it is no member of what it lies on.
        ([Link(2, "eth0", kind="vlan")], None),
        (
            [Link(2, "eth0", master=3), Link(3, "br0", kind="bridge")],
            "member of the bridge br0: packets come in by br0",
        ),
        (
            [Link(2, "eth0", master=3), Link(3, "bond0", kind="bond")],
            "member of the bond bond0: packets come in by bond0",
        ),
        ([Link(2, "eth0", master=3), Link(3, "blue", kind="vrf")], "member of the vrf blue: packets come in by blue"),
        # A bond in a bridge in a VRF.
        (
            [
                Link(2, "eth0", master=3),
                Link(3, "bond0", master=4, kind="bond"),
                Link(4, "br0", master=5, kind="bridge"),
                Link(5, "blue", kind="vrf"),
            ],
            "member of the bond bond0: packets come in by blue",
        ),
        (
            [Link(2, "eth0", master=3), Link(3, "ovs-system", kind="openvswitch")],
            "a port of the openvswitch ovs-system",
        ),
        ([Link(2, "enp1s0", other_names=("eth0",))], "interface eth0 is called enp1s0 by the kernel"),
        ([Link(2, "wan0")], "there is no interface eth0"),
        # A master that is not to be seen from here, as in a container, and two that are each other's.
        ([Link(2, "eth0", master=77)], None),
        ([Link(2, "eth0", master=3), Link(3, "x", master=2)], "packets come in by x"),
    ],
)
def test_why_rules_for_an_interface_meet_nothing(others: list[Link], said: str | None) -> None:
    fault = interface_fault("eth0", [LO, *others])
    assert fault is None if said is None else fault is not None and said in fault[0]


def test_the_cure_names_what_to_write() -> None:
    fault = interface_fault("eth0", [Link(2, "eth0", master=3), Link(3, "br0", kind="bridge")])
    assert fault is not None
    assert fault[1] == "write 'interface: br0'"
    missing = interface_fault("eth1", [LO, ETH0])
    assert missing is not None
    assert missing[1] == "known interfaces: lo, eth0"


def test_this_machines_own_list_has_what_the_standard_library_lists() -> None:
    assert {link.name for link in links_now()} == set(interfaces.known_interfaces())
    assert next(link for link in links_now() if link.name == "lo").loopback
    require_interface("lo", "nft")


@pytest.mark.parametrize("name", ["a!b", "a*", 'a"b'])
def test_a_name_that_nft_cannot_take_is_refused_though_linux_takes_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interfaces, "links_now", lambda: [LO, Link(2, name)])
    with pytest.raises(FirewallError, match="not a usable interface name"):
        require_interface(name, "nft")
    require_interface(name, "memory")


class Host:
    """A watch on devices that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *links: Link) -> None:
        self.links = [LO, *links]
        self.looks = 0
        monkeypatch.setattr(interfaces, "links_now", self._links_now)
        self.watch = InterfaceWatch()
        self.now = 0.0

    def _links_now(self) -> list[Link]:
        self.looks += 1
        return self.links

    def look(self, *links: Link, name: str | None = "eth0") -> str | None:
        self.links = [LO, *links]
        self.now += 1
        self.watch._changed = True
        self.watch.look(name, self.now)
        return self.watch.warning


def test_each_change_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    host = Host(monkeypatch)
    assert host.look(ETH0) is None
    for _ in range(2):
        caplog.clear()
        assert "is not there (lo are)" in (host.look() or "")
        assert "is not there" in (host.look() or "")
        assert host.look(ETH0) is None
        assert [r.getMessage().partition(" (")[0] for r in caplog.records] == [
            "interface eth0 is not there",
            "interface eth0 is there: ports are hidden on it",
        ]


def test_a_device_that_is_renamed_goes_on_counting_until_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.look(ETH0)
    assert host.watch.indexes == {2}
    assert "is called wan0 now" in (host.look(Link(2, "wan0")) or "")
    assert host.watch.indexes == {2}
    assert "is called wan0 now" in (host.look(Link(2, "wan0"), Link(9, "eth0")) or "")
    assert host.watch.indexes == {2, 9}
    assert host.look(Link(9, "eth0")) is None
    assert host.watch.indexes == {9}


def test_another_name_in_the_config_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.look(ETH0)
    host.look(Link(2, "wan0"), Link(9, "eth0"))
    assert host.watch.indexes_of("wan0") == {2}
    assert host.look(Link(2, "wan0"), Link(9, "eth0"), name="wan0") is None
    assert host.watch.indexes == {2}
    assert host.look(Link(2, "wan0"), name=None) is None
    assert host.watch.indexes == frozenset()


def test_nothing_is_looked_at_while_nothing_changes_or_in_swarms(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, ETH0)
    host.watch.look("eth0", 0.0)
    host.watch.look("eth0", 100.0)
    assert host.looks == 1
    host.watch._changed = True
    host.watch.look("eth0", 100.0)
    host.watch._changed = True
    host.watch.look("eth0", 100.1)
    assert host.looks == 2
    assert 100.1 < host.watch.next_at < 101.0
    host.watch.look("eth0", 101.0)
    assert host.looks == 3
    assert host.watch.next_at == inf


def test_a_kernel_that_does_not_tell_is_said_and_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    host.look(ETH0)

    def refuse() -> list[Link]:
        raise FirewallError("no answer")

    monkeypatch.setattr(interfaces, "links_now", refuse)
    assert "cannot be told: no answer" in (host.look(ETH0) or "")
    assert host.watch.indexes == {2}, "what is hidden stays hidden"
    monkeypatch.setattr(interfaces, "links_now", lambda: [LO, ETH0])
    host.watch.look("eth0", 100.0)
    assert host.watch.warning is None


def test_the_loopback_device_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    assert "loopback" in (host.look(name="lo") or "")
