"""The answers to commands alone: what was done, what could not be, and that a refusing firewall is told of."""

from typing import TYPE_CHECKING, TypeVar, cast

import pytest

from openme.control.requests import (
    Close,
    Reply,
    Request,
    Reset,
    Revoke,
    Sessions,
    Unhide,
)
from openme.errors import OpenmeError
from openme.keeper.deliveries import Deliveries
from openme.keeper.events import Ended
from openme.keeper.rules import rules_for
from openme.ports import port
from openme.processes.listener_reports import Reports
from openme.reasons import End
from openme.server.admin_answers import AdminAnswers
from openme.server.epoch_service import EpochService
from openme.server.hidden_ports import HiddenPorts
from openme.server.history import History
from openme.server.interface_rules import InterfaceRules
from support.keeper_parts import GivenFile, Ground, Listening, listening
from support.keeper_process import settled
from support.knocks import ALICE, ELSEWHERE, HOME, config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from openme.server.config_watch import ConfigWatch

ReplyT = TypeVar("ReplyT", bound=Reply)


class Stand:
    def __init__(self, listener: Listening) -> None:
        self.ground = Ground(config(server="drop_ports: true"))
        self.file = GivenFile(self.ground.keeper.config)
        self.hidden = HiddenPorts()
        ground = self.ground
        self.answers = AdminAnswers(
            ground.keeper,
            ground.grants,
            ground.store,
            cast("ConfigWatch", self.file),
            self.hidden,
            History({}),
            ground.doors,
            ground.cutting,
            ground.switch(self.file, self.hidden),
            EpochService(ground.keeper, ground.store, listener.outbox, Deliveries()),
            InterfaceRules(None, ground.keeper, ground.doors),
            Reports(no_filter="the kernel filter is not in force"),
        )

    def ask(self, request: Request[ReplyT]) -> ReplyT:
        answer = self.answers.answer(request, self.ground.clock.now)
        return cast("ReplyT", settled(answer, self.ground.slices))


@pytest.fixture
def stand() -> "Iterator[Stand]":
    with listening() as listener:
        yield Stand(listener)


def test_close_ends_the_doors_of_one_and_says_which(stand: Stand) -> None:
    grant = stand.ground.let_in()
    stand.ground.let_in("bob", ELSEWHERE)
    reply = stand.ask(Close(name="alice", cut=True))
    assert (reply.closed, reply.known, reply.not_closed, reply.cut) == ((str(HOME),), True, None, 1)
    assert stand.ground.open_for() == {ELSEWHERE}
    assert stand.ground.told(Ended) == [Ended(((grant, End.CLOSED),))]


def test_a_door_that_stays_open_is_not_said_to_be_closed(stand: Stand) -> None:
    stand.ground.let_in()
    stand.ground.firewall.refusing = {"close", "apply"}
    assert stand.ask(Close(name="alice", cut=False)).not_closed == "this firewall refuses to apply"
    assert stand.ask(Revoke(name="alice", keys=frozenset(), cut=False)).not_closed == "this firewall refuses to apply"


def test_connections_that_could_not_be_cut_are_an_error(stand: Stand) -> None:
    stand.ground.let_in()
    stand.ground.firewall.refusing = {"cut"}
    with pytest.raises(OpenmeError, match="refuses to cut"):
        stand.ask(Close(name="alice", cut=True))


def test_revoke_takes_the_client_out_of_the_config_in_force(stand: Stand) -> None:
    stand.ground.let_in()
    reply = stand.ask(Revoke(name="alice", keys=frozenset(), cut=False))
    assert reply.keys == {ALICE.public.raw}
    assert set(stand.ground.keeper.config.clients) == {"bob"}
    assert stand.ground.open_for() == set()


def test_a_misspelt_name_is_told_whom_it_is_near_to(stand: Stand) -> None:
    reply = stand.ask(Close(name="alcie", cut=False))
    assert (reply.known, reply.near) == (False, "did you mean alice?")
    assert stand.ask(Reset(name="bbo", everybody=False)).near == "did you mean bob?"


def test_sessions_are_those_that_are_open(stand: Stand) -> None:
    stand.ground.let_in()
    reply = stand.ask(Sessions())
    assert [session["client_name"] for session in reply.active_sessions] == ["alice"]


def test_sessions_warn_of_what_is_not_in_force(stand: Stand) -> None:
    assert stand.ask(Sessions()).warnings == ["the kernel filter is not in force"]


def test_unhide_is_refused_for_what_is_named_and_told_when_the_firewall_refuses(stand: Stand) -> None:
    stand.hidden.ports = (port("tcp", 22), port("tcp", 8080))
    stand.ground.doors.use(rules_for(stand.ground.keeper.config, stand.hidden.ports))
    with pytest.raises(OpenmeError, match="still named"):
        stand.ask(Unhide(ports=(port("tcp", 22),)))
    stand.ground.firewall.refusing = {"apply"}
    with pytest.raises(OpenmeError, match="not shown yet: this firewall refuses to apply"):
        stand.ask(Unhide(ports=(port("tcp", 8080),)))


def test_unhide_waits_for_a_file_that_is_being_read(stand: Stand) -> None:
    stand.file.is_reading = True
    assert stand.ask(Unhide(ports=(port("tcp", 8080),))).reading is True
