"""Requests to end connections: one look for all that wait, an answer for each, and the loop goes on meanwhile."""

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network

import pytest

from openme.firewall.base import CutTarget, FirewallError, IPAddress, IsOpen, Steps, nowhere
from openme.firewall.memory import MemoryFirewall
from openme.ports import parse_port_spec
from openme.server.cutting import Cut, Cutting
from openme.server.slices import Slices
from openme.store.base import StoreError

PORTS = parse_port_spec("22/tcp")
ALICE, BOB = ip_address("192.0.2.2"), ip_address("192.0.2.3")


class Fake(MemoryFirewall):
    """Takes three steps for a cut and ends two connections of each address; refuses when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[set[IPAddress]] = []
        self.refusing = False

    def cut(self, targets: Iterable[CutTarget], is_open: IsOpen = nowhere) -> Steps[Mapping[IPAddress, int]]:
        assert is_open is nowhere
        targets = list(targets)
        self.looks.append({target.address for target in targets})
        for _ in range(3):
            yield
        if self.refusing:
            raise FirewallError("refused")
        return {target.address: 2 for target in targets}


class Subject:
    def __init__(self) -> None:
        self.now = 0.0
        self.firewall = Fake()
        self.slices = Slices(self._tick)
        self.cutting = Cutting(self.firewall, self.slices, nowhere)

    def _tick(self) -> float:
        self.now += 1  # every turn is over after one step
        return self.now

    def cut(self, *addresses: IPAddress) -> Cut:
        return self.cutting.add(found(*addresses))

    def turns(self) -> int:
        """Let all of it happen; how many turns of the loop that took."""
        count = 0
        while self.slices:
            self.slices.advance()
            count += 1
        return count


def found(*addresses: IPAddress) -> Steps[list[CutTarget]]:
    yield
    return [CutTarget(address, PORTS) for address in addresses]


def ended(cut: Cut) -> int:
    steps = cut.outcome()
    with pytest.raises(StopIteration) as end:
        next(steps)
    count: int = end.value.value
    return count


def test_what_is_asked_for_in_one_turn_is_one_look() -> None:
    subject = Subject()
    cuts = [subject.cut(ALICE), subject.cut(ALICE, BOB), subject.cut()]
    next(cuts[0].outcome())  # not yet
    assert subject.turns() >= 6
    assert subject.firewall.looks == [{ALICE, BOB}]
    assert [ended(cut) for cut in cuts] == [2, 4, 0]


def test_what_is_asked_for_meanwhile_is_the_next_look() -> None:
    subject = Subject()
    first = subject.cut(ALICE)
    while not subject.firewall.looks:
        subject.slices.advance()
    second, third = subject.cut(ALICE), subject.cut(BOB)
    subject.turns()
    assert subject.firewall.looks == [{ALICE}, {ALICE, BOB}]
    assert [ended(cut) for cut in (first, second, third)] == [2, 2, 2]
    fourth = subject.cut(BOB)
    subject.turns()
    assert ended(fourth) == 2


def test_what_ended_anywhere_in_a_network_counts_for_whoever_asked_for_it() -> None:
    subject = Subject()
    network = ip_network("192.0.2.0/24")

    def whole() -> Steps[list[CutTarget]]:
        yield
        return [CutTarget(network.network_address, PORTS, network=network)]

    wide, one, other = subject.cutting.add(whole()), subject.cut(ALICE), subject.cut(ip_address("198.51.100.1"))
    subject.turns()
    assert [ended(cut) for cut in (wide, one, other)] == [4, 2, 2], "the network's own two, and alice's"


def test_nothing_to_end_needs_no_look() -> None:
    subject = Subject()
    cut = subject.cut()
    subject.turns()
    assert ended(cut) == 0
    assert subject.firewall.looks == []


def test_a_refusal_is_for_those_who_asked_and_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    subject = Subject()
    subject.firewall.refusing = True
    cut, nothing = subject.cut(ALICE), subject.cut()
    subject.turns()
    with pytest.raises(FirewallError, match="refused"):
        next(cut.outcome())
    assert ended(nothing) == 0
    assert "some connections that should have ended may go on: refused" in caplog.text
    subject.firewall.refusing = False
    again = subject.cut(ALICE)
    subject.turns()
    assert ended(again) == 2


def test_it_waits_for_doors_that_are_on_their_way_to_being_closed() -> None:
    subject = Subject()
    doors = [1, 2, 3]
    subject.cutting = Cutting(subject.firewall, subject.slices, nowhere, lambda: doors)
    cut = subject.cut(ALICE)
    while doors:
        subject.slices.advance()
        assert subject.firewall.looks == []
        doors.pop()
    subject.turns()
    assert ended(cut) == 2


def test_what_cannot_be_found_is_said_and_what_is_known_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    def unreadable() -> Steps[list[CutTarget]]:
        yield
        raise StoreError("the disk does not give it")

    subject = Subject()
    cut = subject.cutting.add(unreadable(), [CutTarget(ALICE, PORTS)])
    other = subject.cut(BOB)
    subject.turns()
    assert subject.firewall.looks == [{ALICE, BOB}]
    with pytest.raises(StoreError, match="the disk does not give it"):
        next(cut.outcome())
    assert ended(other) == 2
    assert "some connections that should have ended may go on: the disk does not give it" in caplog.text
    later = subject.cut(ALICE)
    subject.turns()
    assert ended(later) == 2, "nothing is stuck"


def test_what_is_known_is_asked_for_when_no_door_is_on_its_way() -> None:
    """Doors that follow in steps end grants until the last of them has."""
    subject = Subject()
    doors, grown = [1, 2], [ALICE]
    subject.cutting = Cutting(subject.firewall, subject.slices, nowhere, lambda: doors)
    cut = subject.cutting.add(found(), (CutTarget(address, PORTS) for address in grown))
    for _ in range(5):
        subject.slices.advance()
    grown.append(BOB)
    doors.clear()
    subject.turns()
    assert subject.firewall.looks == [{ALICE, BOB}]
    assert ended(cut) == 4
