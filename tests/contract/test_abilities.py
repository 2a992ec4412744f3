"""What the registry says of a firewall's abilities, as far as a test can see it."""

import os
from contextlib import ExitStack

import pytest

from openme.firewall.base import FirewallError, LockScope, PortList, Rules
from openme.firewall.registry import KINDS, Kind, clean_up, kind_of, those_that_stay
from openme.ports import parse_port_spec
from support.netns import namespace

SSH = PortList(parse_port_spec("22/tcp"))
RULES = Rules(54154, True, SSH.ports, "drop", True, None, frozenset({SSH}))  # noqa: FBT003
IMPLEMENTED = [kind for kind in KINDS if kind.served_by is None]


def by_name(kind: Kind) -> str:
    return kind.name


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_rules_stay_behind_where_a_firewall_says_so_and_are_cleaned_up(kind: Kind) -> None:
    with ExitStack() as stack:
        stack.enter_context(namespace(stack).entered())
        kind.open().start(RULES)
        assert kind.open().is_there() is kind.abilities.stays
        clean_up(kind.name)
        assert not kind.open().is_there()


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_each_network_namespace_has_a_firewall_of_its_own_where_it_is_locked_so(kind: Kind) -> None:
    """Whoever needs no lock shares nothing: two at once do not see each other at all."""
    with ExitStack() as stack:
        with namespace(stack).entered():
            first = kind.open()
            first.start(RULES)
            beside = kind.open().is_there()
        with namespace(stack).entered():
            elsewhere = kind.open().is_there()
    assert (beside, elsewhere) == (kind.abilities.lock is LockScope.NETWORK_NAMESPACE, False)


@pytest.mark.root
@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_only_who_needs_the_right_to_change_the_kernel_is_refused_without(kind: Kind) -> None:
    with ExitStack() as stack:
        stack.enter_context(namespace(stack).entered())
        child = os.fork()
        if child == 0:
            status = 2
            try:
                os.setresuid(65534, 65534, 65534)
                kind.open().start(RULES)
                status = 0
            except FirewallError:
                status = 1
            finally:
                os._exit(status)
        _, waited = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(waited) == int(kind.abilities.needs_net_admin)


@pytest.mark.parametrize("kind", KINDS, ids=by_name)
def test_another_name_is_one_for_a_firewall_that_is_there_and_can_the_same(kind: Kind) -> None:
    if kind.served_by is not None:
        served_by = kind_of(kind.served_by)
        assert served_by in IMPLEMENTED
        assert served_by.abilities == kind.abilities


def test_what_is_cleaned_up_is_each_firewall_that_leaves_something() -> None:
    assert those_that_stay() == tuple(kind for kind in IMPLEMENTED if kind.abilities.stays)


def test_an_unknown_name_is_refused_with_one_that_is_there() -> None:
    with pytest.raises(FirewallError, match="firewall eBPF is not there yet") as caught:
        kind_of("eBPF")
    assert caught.value.hint == "use 'firewall: nft'"
