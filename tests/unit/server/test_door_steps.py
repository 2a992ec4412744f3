"""Many doors at once: the first now, the rest at their turn, as the grants say by then."""

from collections.abc import Iterable
from ipaddress import ip_address

import pytest

from openme.firewall.base import Door, FirewallError, IPAddress, PortList
from openme.firewall.memory import MemoryFirewall
from openme.keeper.grants import DoorKey, Grant, Grants
from openme.keeper.rules import rules_for
from openme.ports import merged, parse_port_spec
from openme.server import door_steps
from openme.server.door_steps import DoorSteps
from openme.server.slices import Slices
from support.knocks import NOW, config

SSH = PortList(merged(parse_port_spec("22/tcp")))
RULES = rules_for(config())
FIRST = ip_address("203.0.113.0")


class Recording(MemoryFirewall):
    """Knows how many doors each transaction was about; refuses when told to."""

    refusing = False

    def __init__(self) -> None:
        super().__init__(lambda: NOW.monotonic)
        self.sizes: list[int] = []

    def open(self, doors: Iterable[Door]) -> None:
        doors = list(doors)
        self._note(len(doors))
        super().open(doors)

    def close(self, doors: Iterable[DoorKey]) -> None:
        doors = list(doors)
        self._note(len(doors))
        super().close(doors)

    def _note(self, size: int) -> None:
        if self.refusing:
            raise FirewallError("refused")
        if size:
            self.sizes.append(size)


class Subject:
    def __init__(self) -> None:
        self.firewall = Recording()
        self.firewall.start(RULES)
        self.grants = Grants()
        self.slices = Slices()
        self.doors = DoorSteps(self.firewall, self.grants, self.slices, lambda: NOW.monotonic)

    def grant(self, number: int, seconds: float = 30.0, port_list: PortList = SSH) -> Grant:
        made = Grant(b"A", "alice", FIRST + number, SSH.ports, (port_list,), 0, 0, NOW.monotonic + seconds)
        self.grants.add(made)
        return made

    def open_now(self) -> set[IPAddress]:
        return {door.address for door in self.firewall.doors()}

    def all_turns(self) -> None:
        while self.slices:
            self.slices.advance()


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Subject:
    monkeypatch.setattr(door_steps, "AT_ONCE", 10)
    monkeypatch.setattr(door_steps, "WITH_RULES", 10)
    return Subject()


def doors_of(grants: Iterable[Grant], seconds: float = 30.0) -> list[Door]:
    return [Door(SSH, grant.address, seconds) for grant in grants]


def test_few_doors_are_one_transaction(subject: Subject) -> None:
    grants = [subject.grant(number) for number in range(10)]
    subject.doors.open(doors_of(grants))
    assert len(subject.open_now()) == 10
    assert not subject.doors
    subject.doors.close([(SSH, grant.address) for grant in grants])
    assert subject.firewall.sizes == [10, 10]
    subject.doors.open([])
    assert not subject.slices


def test_many_doors_are_opened_and_closed_in_steps(subject: Subject) -> None:
    grants = [subject.grant(number) for number in range(35)]
    subject.doors.apply(RULES, doors_of(grants))
    assert len(subject.open_now()) == 10
    assert subject.doors
    subject.all_turns()
    assert len(subject.open_now()) == 35
    assert not subject.doors
    assert subject.firewall.sizes == [10, 10, 5]
    for grant in grants:
        subject.grants.remove([grant], NOW.monotonic)
    subject.doors.close([(SSH, grant.address) for grant in grants])
    assert len(subject.open_now()) == 25
    subject.all_turns()
    assert subject.open_now() == set()


def test_one_who_has_knocked_anew_meanwhile_stays_in(subject: Subject) -> None:
    grants = [subject.grant(number) for number in range(35)]
    subject.doors.open(doors_of(grants))
    subject.all_turns()
    for grant in grants:
        subject.grants.remove([grant], NOW.monotonic)
    subject.doors.close([(SSH, grant.address) for grant in grants])
    subject.grant(30)
    subject.all_turns()
    assert subject.open_now() == {FIRST + 30}


def test_one_who_was_revoked_meanwhile_stays_out(subject: Subject) -> None:
    grants = [subject.grant(number) for number in range(35)]
    subject.doors.apply(RULES, doors_of(grants))
    subject.grants.remove(grants[20:25], NOW.monotonic)
    subject.all_turns()
    assert subject.open_now() == {grant.address for grant in grants[:20] + grants[25:]}


def test_doors_for_a_single_use_are_not_opened_again(subject: Subject) -> None:
    once = PortList(SSH.ports, single_use=True)
    for number in range(20):
        subject.grant(number, port_list=once)
    subject.doors._later([(once, FIRST + number) for number in range(20)])
    subject.all_turns()
    assert subject.firewall.sizes == []


def test_a_refusal_is_said_and_the_rest_goes_on(subject: Subject, caplog: pytest.LogCaptureFixture) -> None:
    grants = [subject.grant(number) for number in range(35)]
    subject.doors.apply(RULES, doors_of(grants))
    subject.firewall.refusing = True
    subject.all_turns()
    assert "some doors could not be opened or closed: refused" in caplog.text
    assert not subject.doors
    with pytest.raises(FirewallError):
        subject.doors.open(doors_of(grants))


def test_what_is_given_up_waits_no_more(subject: Subject) -> None:
    grants = [subject.grant(number) for number in range(35)]
    subject.doors.apply(RULES, doors_of(grants))
    subject.slices.close()
    assert not subject.doors


def test_a_door_that_the_rules_do_not_know_yet_spoils_no_others_turn(subject: Subject) -> None:
    """Its grant follows the changed config in a moment."""
    web = PortList(merged(parse_port_spec("443/tcp")))
    for number in range(20):
        subject.grant(number, port_list=web if number == 15 else SSH)
    subject.doors.apply(RULES, ())
    subject.doors._later([(web if number == 15 else SSH, FIRST + number) for number in range(20)])
    subject.all_turns()
    assert subject.open_now() == {FIRST + number for number in range(20) if number != 15}
