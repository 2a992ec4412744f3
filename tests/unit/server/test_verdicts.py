"""Receipts that an opening has: whose are forgotten when it ends, whose are not, and whose they are afterwards."""

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network

import pytest

from openme.keeper.deliveries import Deliveries
from openme.keeper.events import Ended, Moved
from openme.keeper.grants import Grant
from openme.keeper.stages import Authenticated, Decided, Opened
from openme.reasons import End
from openme.seam.messages import ForgetReceipt
from openme.server.verdicts import Verdicts
from openme.wire.knock import Knock
from support.keeper_parts import Ground, Listening, listening
from support.knocks import EPOCH, HOME, nonce


class Stand:
    def __init__(self, listener: Listening) -> None:
        self.ground = Ground()
        self.listener = listener
        self.verdicts = Verdicts(self.ground.keeper, listener.outbox, Deliveries())
        self.verdicts.follow(self.ground.events)

    def opens(self, label: bytes, grant: Grant | None = None) -> Grant:
        """A version 2 knock with this representative has opened."""
        grant = self.ground.grant() if grant is None else grant
        client, now = self.ground.keeper.config.clients["alice"], self.ground.clock.now
        knock = Knock(now.unix_ns, nonce(label), None)
        what = Authenticated(client, knock, HOME, 2, label * 32, EPOCH)
        self.verdicts.opened(Opened(Decided(what, grant), grant), now)
        self.listener.told()
        return grant

    def ends(self, why: End, *grants: Grant) -> list[bytes]:
        """They end; of which knocks the listener is to forget the receipts at once."""
        self.ground.events.publish(Ended(tuple((grant, why) for grant in grants)))
        return self.forgotten()

    def forgotten(self) -> list[bytes]:
        told = self.listener.told()
        assert all(isinstance(order, ForgetReceipt) for order in told)
        return [order.knock[:1] for order in told if isinstance(order, ForgetReceipt)]


@pytest.fixture
def stand() -> Iterator[Stand]:
    with listening() as listener:
        yield Stand(listener)


def test_an_early_end_has_all_its_receipts_forgotten_once(stand: Stand) -> None:
    stand.opens(b"1")
    grant = stand.opens(b"2")
    assert stand.ends(End.CLOSED, grant) == [b"1", b"2"]
    assert stand.ends(End.CLOSED, grant) == []


def test_those_of_an_end_at_its_time_end_by_themselves_and_are_not_those_of_the_next_opening(stand: Stand) -> None:
    assert stand.ends(End.TIME_OVER, stand.opens(b"1")) == []
    assert stand.ends(End.REVOKED, stand.opens(b"2")) == [b"2"]


def test_of_many_that_end_the_last_are_told_later_and_whoever_is_let_in_meanwhile_keeps_his(stand: Stand) -> None:
    many = [stand.opens(bytes([number]), replace(stand.ground.grant(), address=HOME + number)) for number in range(150)]
    assert len(stand.ends(End.CLOSED, *many)) == 100
    stand.opens(b"\xff", many[-1])
    stand.ground.work_off()
    assert stand.forgotten() == [bytes([number]) for number in range(100, 150)]
    assert stand.ends(End.CLOSED, many[-1]) == [b"\xff"]


def test_receipts_go_with_a_grant_that_has_another_address_now(stand: Stand) -> None:
    network = ip_network("203.0.113.0/24")
    before = stand.opens(b"1")
    after = replace(before, address=network.network_address, network=network, knocked_for=HOME)
    stand.opens(b"2", after)
    stand.ground.events.publish(Moved(((before, after),)))
    assert stand.ends(End.CLOSED, before) == []
    assert stand.ends(End.CLOSED, after) == [b"1", b"2"], "in the order in which they knocked"
