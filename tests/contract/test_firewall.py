"""What every firewall does alike (openme.firewall.base), on the kernel's nf_tables and in memory."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

import pytest

from openme.firewall.base import (
    MAX_SECONDS,
    CutTarget,
    Door,
    Firewall,
    FirewallError,
    IPAddress,
    LockScope,
    PortList,
    Rules,
)
from openme.firewall.nft import NftFirewall
from openme.firewall.registry import KINDS, Kind
from openme.ports import merged, parse_port_spec
from support.netns import namespace, until
from support.steps import done

SSH = PortList(parse_port_spec("22/tcp"))
WEB = PortList(merged((*parse_port_spec("80"), *parse_port_spec("8080-8090/tcp"))))
ONCE = PortList(parse_port_spec("22/tcp"), single_use=True)
RULES = Rules(
    knock_port=54154,
    open_knock_port=True,
    hidden=merged(SSH.ports + WEB.ports),
    hidden_as="drop",
    hide_udp_errors=True,
    interface=None,
    port_lists=frozenset({SSH, WEB, ONCE}),
)
ALICE = ip_address("192.0.2.2")
ALICE6 = ip_address("2001:db8::2")
BOB = ip_address("192.0.2.3")
GRAIN = 0.02  # seconds: milliseconds and the kernel's own ticks


@dataclass
class Subject:
    firewall: Firewall
    another: Callable[[], Firewall]
    """What a later run of the server would hold; the first one is used no more."""


def _registered(kind: Kind) -> Callable[[ExitStack], Subject]:
    """A firewall as the registry opens it. What a later run opens is the same one if that is how it is told to be."""

    def subject(stack: ExitStack) -> Subject:
        if kind.abilities.lock is LockScope.NETWORK_NAMESPACE:
            stack.enter_context(namespace(stack).entered())
        firewall = kind.open()
        return Subject(firewall, kind.open if kind.abilities.stays else lambda: firewall)

    return subject


def _nft_expires(stack: ExitStack) -> Subject:
    stack.enter_context(namespace(stack).entered())
    return Subject(NftFirewall(refresh="expires"), lambda: NftFirewall(refresh="expires"))


def _nft_replace(stack: ExitStack) -> Subject:
    stack.enter_context(namespace(stack).entered())
    return Subject(NftFirewall(refresh="replace"), lambda: NftFirewall(refresh="replace"))


@pytest.fixture(
    params=[
        *(
            pytest.param(_registered(kind), id=kind.name, marks=[pytest.mark.root] * kind.abilities.needs_net_admin)
            for kind in KINDS
            if kind.served_by is None
        ),
        pytest.param(_nft_expires, id="nft-expires", marks=pytest.mark.root),
        pytest.param(_nft_replace, id="nft-replace", marks=pytest.mark.root),
    ]
)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    with ExitStack() as stack:
        yield request.param(stack)


@pytest.fixture
def firewall(subject: Subject) -> Firewall:
    subject.firewall.start(RULES)
    return subject.firewall


def remaining(firewall: Firewall) -> dict[tuple[PortList, str], float]:
    return {(door.port_list, str(door.address)): door.seconds for door in firewall.doors()}


class Since:
    """From here on a door loses as many seconds as pass, and no more."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def is_left(self, given: float, seconds: float) -> bool:
        """Whether `seconds`, read just now, is what is left of `given` seconds."""
        return given - (time.monotonic() - self._began) - GRAIN <= seconds <= given


def test_a_started_firewall_has_no_open_doors(firewall: Firewall) -> None:
    assert firewall.doors() == []


def test_an_open_door_is_listed_with_its_remaining_time(firewall: Firewall) -> None:
    since = Since()
    firewall.open([Door(SSH, ALICE, 30), Door(WEB, ALICE6, 60), Door(ONCE, BOB, 90)])
    seen = remaining(firewall)
    assert seen.keys() == {(SSH, "192.0.2.2"), (WEB, "2001:db8::2"), (ONCE, "192.0.2.3")}
    assert since.is_left(30, seen[SSH, "192.0.2.2"])
    assert since.is_left(60, seen[WEB, "2001:db8::2"])
    assert since.is_left(90, seen[ONCE, "192.0.2.3"])


@pytest.mark.parametrize("port_list", [SSH, ONCE])
@pytest.mark.parametrize(("first", "then"), [(30, 60), (60, 30)])
def test_opening_again_sets_the_time_afresh(firewall: Firewall, port_list: PortList, first: float, then: float) -> None:
    firewall.open([Door(port_list, ALICE, first), Door(port_list, ALICE6, first)])
    since = Since()
    firewall.open([Door(port_list, ALICE, then), Door(port_list, ALICE6, then)])
    assert len(firewall.doors()) == 2
    assert all(since.is_left(then, door.seconds) for door in firewall.doors())


def test_of_two_doors_alike_in_one_call_the_last_counts(firewall: Firewall) -> None:
    firewall.open([Door(SSH, ALICE, 60), Door(SSH, ALICE, 30)])
    assert [round(door.seconds) for door in firewall.doors()] == [30]


def test_a_door_closes_by_itself_and_others_stay(firewall: Firewall) -> None:
    firewall.open([Door(SSH, ALICE, 0.2), Door(SSH, BOB, 30)])
    assert len(firewall.doors()) == 2
    until(lambda: remaining(firewall).keys() == {(SSH, "192.0.2.3")}, seconds=2)


def test_a_door_that_closed_by_itself_opens_again(firewall: Firewall) -> None:
    firewall.open([Door(SSH, ALICE, 0.1)])
    until(lambda: not firewall.doors(), seconds=2)
    firewall.open([Door(SSH, ALICE, 30)])
    assert len(firewall.doors()) == 1


def test_closing_shuts_one_door(firewall: Firewall) -> None:
    firewall.open([Door(SSH, ALICE, 30), Door(WEB, ALICE, 30), Door(SSH, BOB, 30), Door(SSH, ALICE6, 30)])
    firewall.close([(SSH, ALICE)])
    assert remaining(firewall).keys() == {(WEB, "192.0.2.2"), (SSH, "192.0.2.3"), (SSH, "2001:db8::2")}


def test_closing_a_shut_door_is_no_error_and_does_not_hinder_the_others(firewall: Firewall) -> None:
    firewall.open([Door(SSH, ALICE, 30)])
    unknown = PortList(parse_port_spec("9/tcp"))
    firewall.close([(SSH, BOB), (SSH, ALICE), (SSH, ALICE), (WEB, ALICE6), (unknown, ALICE)])
    assert firewall.doors() == []
    firewall.close([])


def test_a_door_without_a_rule_is_refused_and_so_is_all_that_came_with_it(firewall: Firewall) -> None:
    with pytest.raises(FirewallError, match="no rule for this port list"):
        firewall.open([Door(SSH, ALICE, 30), Door(PortList(parse_port_spec("9/tcp")), ALICE, 30)])
    assert firewall.doors() == []


@pytest.mark.parametrize("seconds", [0, -1, MAX_SECONDS + 1, float("inf"), float("nan")])
def test_a_time_that_cannot_be_counted_is_refused(firewall: Firewall, seconds: float) -> None:
    with pytest.raises(FirewallError, match="a door opens for more than 0"):
        firewall.open([Door(SSH, ALICE, 30), Door(SSH, BOB, seconds)])
    assert firewall.doors() == []


def test_nothing_opens_before_the_start(subject: Subject) -> None:
    assert subject.firewall.doors() == []
    with pytest.raises(FirewallError):
        subject.firewall.open([Door(SSH, ALICE, 30)])


def test_apply_keeps_the_doors_whose_port_list_still_exists(firewall: Firewall) -> None:
    firewall.open([Door(SSH, ALICE, 30), Door(WEB, ALICE, 30)])
    mail = PortList(parse_port_spec("25/tcp"))
    firewall.apply(replace(RULES, hidden_as="reject", port_lists=frozenset({SSH, mail})))
    assert remaining(firewall).keys() == {(SSH, "192.0.2.2")}
    firewall.open([Door(mail, ALICE, 30)])
    with pytest.raises(FirewallError):
        firewall.open([Door(WEB, ALICE, 30)])
    firewall.apply(RULES)
    assert remaining(firewall).keys() == {(SSH, "192.0.2.2")}


def test_apply_opens_doors_along_with_the_rules(firewall: Firewall) -> None:
    since = Since()
    firewall.open([Door(SSH, ALICE, 30), Door(WEB, ALICE, 30), Door(WEB, BOB, 30)])
    mail = PortList(parse_port_spec("25/tcp"))
    rules = replace(RULES, port_lists=frozenset({WEB, mail}))
    firewall.apply(rules, [Door(mail, ALICE, 20), Door(mail, ALICE6, MAX_SECONDS - 0.5), Door(WEB, ALICE, 60)])
    seen = remaining(firewall)
    assert seen.keys() == {(mail, "192.0.2.2"), (mail, "2001:db8::2"), (WEB, "192.0.2.2"), (WEB, "192.0.2.3")}
    assert since.is_left(20, seen[mail, "192.0.2.2"])
    assert since.is_left(60, seen[WEB, "192.0.2.2"])
    assert since.is_left(30, seen[WEB, "192.0.2.3"])
    firewall.apply(rules, [Door(WEB, ALICE, 5)])
    assert remaining(firewall)[WEB, "192.0.2.2"] <= 5


@pytest.mark.parametrize("door", [Door(WEB, BOB, 30), Door(SSH, BOB, 0)], ids=["without_a_rule", "without_time"])
def test_apply_with_a_door_that_cannot_be_opened_changes_nothing(firewall: Firewall, door: Door) -> None:
    firewall.open([Door(WEB, ALICE, 30)])
    with pytest.raises(FirewallError):
        firewall.apply(replace(RULES, port_lists=frozenset({SSH})), [Door(SSH, ALICE, 30), door])
    assert remaining(firewall).keys() == {(WEB, "192.0.2.2")}


def test_cutting_where_there_are_no_connections(firewall: Firewall, subject: Subject) -> None:
    firewall.open([Door(SSH, ALICE, 30)])
    targets = [CutTarget(ALICE, SSH.ports, established=True), CutTarget(ALICE6, WEB.ports), CutTarget(BOB, ())]
    assert done(firewall.cut(targets)) == {}
    assert done(firewall.cut([])) == {}
    assert remaining(firewall).keys() == {(SSH, "192.0.2.2")}
    firewall.stop()
    assert done(subject.another().cut(targets)) == {}


def test_a_cut_that_was_given_up_is_done_anew(firewall: Firewall) -> None:
    targets = [CutTarget(ALICE, SSH.ports, established=True), CutTarget(ALICE6, WEB.ports)]
    for steps in range(4):
        given_up = firewall.cut(targets)
        for _ in range(steps):
            next(given_up, None)
        given_up.close()
        assert done(firewall.cut(targets)) == {}


def test_the_next_run_takes_doors_over_with_their_remaining_time(subject: Subject) -> None:
    subject.firewall.start(RULES)
    since = Since()
    subject.firewall.open([Door(SSH, ALICE, 30), Door(WEB, ALICE6, 60), Door(ONCE, BOB, 0.3)])
    second = subject.another()
    second.start(RULES)
    seen = remaining(second)
    assert since.is_left(30, seen[SSH, "192.0.2.2"])
    assert since.is_left(60, seen[WEB, "2001:db8::2"])
    until(lambda: (ONCE, "192.0.2.3") not in remaining(second), seconds=2)


def test_stop_shuts_everything_and_can_be_repeated(firewall: Firewall, subject: Subject) -> None:
    firewall.open([Door(SSH, ALICE, 30)])
    firewall.stop()
    assert firewall.doors() == []
    firewall.stop()
    again = subject.another()
    again.start(RULES)
    assert again.doors() == []


def test_stop_where_nothing_was_started(subject: Subject) -> None:
    subject.firewall.stop()
    assert subject.firewall.doors() == []


def test_many_doors_at_once(firewall: Firewall) -> None:
    crowd = [ip_address(int(ip_address("2001:db8::1:0")) + number) for number in range(3000)]
    firewall.open(Door(WEB, address, 60) for address in crowd)
    firewall.open(Door(WEB, address, 90) for address in crowd)
    doors = firewall.doors()
    assert {door.address for door in doors} == set(crowd)
    assert min(door.seconds for door in doors) > 80
    firewall.close([(WEB, address) for address in crowd[1:]])
    assert [door.address for door in firewall.doors()] == crowd[:1]


# -- doors for networks


NETS = PortList(parse_port_spec("22/tcp"), prefix_v4=24, prefix_v6=64)
WIDER = PortList(parse_port_spec("22/tcp"), prefix_v4=16, prefix_v6=48)
WITH_NETS = replace(RULES, port_lists=frozenset({SSH, WEB, ONCE, NETS, WIDER}))


@pytest.fixture
def networks(firewall: Firewall) -> Firewall:
    firewall.apply(WITH_NETS)
    return firewall


def first(text: str) -> IPAddress:
    return ip_network(text).network_address


def test_doors_for_networks_of_each_length_are_doors_of_their_own(networks: Firewall) -> None:
    since = Since()
    networks.open(
        [
            *(Door(NETS, first("192.0.2.0/24"), 30), Door(NETS, first("2001:db8:0:1::/64"), 60)),
            *(Door(WIDER, first("192.0.0.0/16"), 90), Door(WIDER, first("2001:db8::/48"), 40)),
            *(Door(SSH, first("192.0.2.0/24"), 20), Door(WIDER, first("192.1.0.0/16"), 10)),
        ]
    )
    seen = remaining(networks)
    given = {
        (NETS, "192.0.2.0"): 30,
        (NETS, "2001:db8:0:1::"): 60,
        (WIDER, "192.0.0.0"): 90,
        (WIDER, "2001:db8::"): 40,
        (SSH, "192.0.2.0"): 20,
        (WIDER, "192.1.0.0"): 10,
    }
    assert seen.keys() == given.keys()
    assert all(since.is_left(seconds, seen[key]) for key, seconds in given.items())
    networks.close([(NETS, first("192.0.2.0/24")), (WIDER, first("2001:db8::/48"))])
    assert remaining(networks).keys() == given.keys() - {(NETS, "192.0.2.0"), (WIDER, "2001:db8::")}


@pytest.mark.parametrize(
    ("port_list", "address"),
    [(NETS, "192.0.2.2"), (NETS, "2001:db8::2"), (WIDER, "192.0.2.0"), (WIDER, "2001:db8:0:1::")],
)
def test_a_door_for_what_is_no_network_of_its_list_is_refused(
    networks: Firewall, port_list: PortList, address: str
) -> None:
    with pytest.raises(FirewallError, match="is not the first address of a network"):
        networks.open([Door(SSH, ALICE, 30), Door(port_list, ip_address(address), 30)])
    with pytest.raises(FirewallError, match="is not the first address of a network"):
        networks.apply(RULES, [Door(port_list, ip_address(address), 30)])
    assert networks.doors() == []


def test_a_length_that_goes_takes_its_doors_with_it_and_one_that_comes_has_none(networks: Firewall) -> None:
    networks.open([Door(WIDER, first("192.0.0.0/16"), 30), Door(NETS, first("192.0.2.0/24"), 30), Door(SSH, ALICE, 30)])
    narrower = replace(RULES, port_lists=WITH_NETS.port_lists - {WIDER})
    networks.apply(narrower, [Door(NETS, first("192.0.3.0/24"), 30)])
    left = {(NETS, "192.0.2.0"), (NETS, "192.0.3.0"), (SSH, "192.0.2.2")}
    assert remaining(networks).keys() == left
    networks.apply(WITH_NETS)
    assert remaining(networks).keys() == left


def test_the_next_run_takes_networks_over_and_shuts_those_of_a_length_that_is_gone(subject: Subject) -> None:
    subject.firewall.start(WITH_NETS)
    since = Since()
    subject.firewall.open([Door(NETS, first("192.0.2.0/24"), 30), Door(WIDER, first("192.0.0.0/16"), 30)])
    second = subject.another()
    second.start(replace(RULES, port_lists=WITH_NETS.port_lists - {WIDER}))
    seen = remaining(second)
    assert seen.keys() == {(NETS, "192.0.2.0")}
    assert since.is_left(30, seen[NETS, "192.0.2.0"])


def test_no_list_of_single_use_is_for_networks() -> None:
    with pytest.raises(ValueError, match="single use is for one address"):
        PortList(SSH.ports, single_use=True, prefix_v6=64)


@pytest.mark.root
def test_rules_that_came_into_force_although_apply_failed_are_not_intact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told that they were refused puts his own back."""

    def refuses(_: object) -> None:
        raise FirewallError("short of memory")

    with ExitStack() as stack:
        subject = _nft_expires(stack)
        subject.firewall.start(RULES)
        with monkeypatch.context() as patched:
            patched.setattr(subject.firewall, "open", refuses)
            with pytest.raises(FirewallError, match="short of memory"):
                subject.firewall.apply(replace(RULES, hidden=SSH.ports), [Door(SSH, ALICE, 30)])
        assert not subject.firewall.intact()
        subject.firewall.apply(RULES)
        assert subject.firewall.intact()
