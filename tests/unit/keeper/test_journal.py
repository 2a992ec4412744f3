"""What is logged: names and addresses of the proven, mere counts of strangers, and never a flood of lines."""

import logging
from math import inf

import pytest

from openme.keeper.events import Ended, LetIn
from openme.keeper.journal import Journal
from openme.keeper.stages import Refused
from openme.reasons import End, Reason
from openme.refusals import REPORT_INTERVAL, RefusalCounts
from support.knocks import ELSEWHERE, HOME, NOW, config, judged, keeper, lines, packet
from support.steps import done


def test_an_accepted_knock_is_one_line_with_who_what_and_where() -> None:
    grant = judged(keeper(config()), packet(target=str(ELSEWHERE))).grant
    assert grant is not None
    with lines("openme.journal") as records:
        Journal().let_in(LetIn(grant, HOME, NOW))
    (record,) = records
    assert record.getMessage() == f"alice: opened 22/tcp for {ELSEWHERE} for 30s, knock came from {HOME}"
    facts = vars(record)["facts"]
    assert (facts["event"], facts["client"], facts["ip"]) == ("accepted", "alice", str(ELSEWHERE))


def test_strangers_leave_counts_and_no_line_above_debug() -> None:
    journal = Journal()
    with lines("openme.journal") as records:
        for _ in range(1000):
            journal.refused(Refused(Reason.UNKNOWN_KEY, HOME))
    assert {record.levelno for record in records} == {logging.DEBUG}
    assert journal.counts.total == {"unknown_key": 1000}


def test_a_clients_refusals_are_a_few_lines_a_minute() -> None:
    journal = Journal()
    with lines("openme.journal", logging.INFO) as records:
        for second in range(300):
            for _ in range(20):
                journal.refused(Refused(Reason.TIME, HOME, "alice"))
            journal.report(second)
    assert 5 <= len(records) <= 5 * 21
    assert sum(record.levelno == logging.WARNING for record in records) >= 5 * 10  # each minute begins anew
    assert journal.counts.total[Reason.TIME] == 6000


def test_whoever_is_disabled_keeps_no_line_about_others_from_being_written() -> None:
    journal = Journal()
    with lines("openme.journal", logging.WARNING) as records:
        for _ in range(1000):
            journal.refused(Refused(Reason.DISABLED, ELSEWHERE, "mallory"))
        journal.refused(Refused(Reason.REPLAY, ELSEWHERE, "alice", ", somebody is on the path"))
    assert len(records) == 11
    assert "alice: refused: replay, somebody is on the path" in records[-1].getMessage()


def test_counts_are_reported_once_an_interval_and_lose_nothing() -> None:
    counts, log = RefusalCounts(), logging.getLogger("openme.test-counts")
    with lines("openme.test-counts") as records:
        for second in range(int(REPORT_INTERVAL) * 3):
            counts.add(Reason.LENGTH, 2)
            counts.report(second, log)
        counts.report(REPORT_INTERVAL * 10, log)
    reported = [vars(record)["facts"]["refused"]["length"] for record in records]
    assert len(reported) == 4
    assert sum(reported) == counts.total[Reason.LENGTH] == int(REPORT_INTERVAL) * 3 * 2


def test_it_has_something_to_say_a_minute_after_it_has_said_something() -> None:
    journal = Journal()
    assert journal.next_at == inf
    journal.counts.add(Reason.LENGTH)
    assert journal.next_at < 0, "at once"
    journal.report(5.0)
    assert journal.next_at == inf
    journal.counts.add(Reason.LENGTH)
    journal.report(5.0 + REPORT_INTERVAL - 0.001)
    assert journal.next_at == 5.0 + REPORT_INTERVAL
    journal.report(journal.next_at)
    assert journal.next_at == inf


def test_nothing_refused_is_nothing_said() -> None:
    with lines("openme.journal") as records:
        for second in range(300):
            Journal().report(second)
    assert records == []


def test_a_door_for_a_network_is_logged_with_the_address_and_the_network() -> None:
    grant = judged(keeper(config(server="prefix_v4: 24")), packet()).grant
    assert grant is not None
    with lines("openme.journal") as records:
        Journal().let_in(LetIn(grant, HOME, NOW))
        done(Journal().ended(Ended(((grant, End.REVOKED),))))
    place = f"{HOME} and its network 203.0.113.0/24"
    said = [f"alice: opened 22/tcp for {place} for 30s", f"alice: closed for {place} (revoked)"]
    assert [record.getMessage() for record in records] == said
    for record in records:
        facts = vars(record)["facts"]
        assert (facts["ip"], facts["network"]) == (str(HOME), "203.0.113.0/24")


def test_a_line_at_a_level_that_is_off_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    grant = judged(keeper(config()), packet()).grant
    assert grant is not None
    made = Journal()
    monkeypatch.setattr(Journal, "_line", staticmethod(lambda *_, **__: pytest.fail("made")))
    with lines("openme.journal", logging.ERROR):
        made.let_in(LetIn(grant, HOME, NOW))
        done(made.ended(Ended(((grant, End.REVOKED),))))
        made.refused(Refused(Reason.UNKNOWN_KEY, HOME))
        made.refused(Refused(Reason.TIME, HOME, "alice"))
    assert made.counts.total == {"unknown_key": 1, "time": 1}
