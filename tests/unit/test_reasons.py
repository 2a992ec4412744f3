"""The words for refusals: documented, told apart, and each of them used."""

import re
from pathlib import Path

import pytest

import openme
from openme.reasons import End, Reason, Speaker, documented, reasons_of
from openme.seam.messages import REFUSALS

SOURCE = Path(openme.__file__).parent
OPERATING = Path(__file__).parents[2] / "docs/operating.md"
TABLE = re.compile(r"^\| reason \| what it means \|\n\|---\|---\|\n((?:\|.*\n)+)", re.MULTILINE)


def test_the_page_for_operators_has_exactly_these_reasons() -> None:
    (table,) = TABLE.findall(OPERATING.read_text(encoding="utf-8"))
    assert table.splitlines() == list(documented())


def test_every_reason_of_the_servers_is_documented() -> None:
    rows = "\n".join(documented())
    told = {reason for reason in Reason if f"`{reason}`" in rows}
    assert told == {*Reason} - {Reason.REPORT, Reason.RECEIPT, Reason.FIREWALL}


@pytest.mark.parametrize("kind", [Reason, End])
def test_every_word_is_said_somewhere(kind: type[Reason] | type[End]) -> None:
    texts = [path.read_text(encoding="utf-8") for path in SOURCE.rglob("*.py") if path.name != "reasons.py"]
    assert [word.name for word in kind if not any(f"{kind.__name__}.{word.name}" in text for text in texts)] == []


def test_a_reason_is_its_word_for_whoever_reads_the_log() -> None:
    assert [f"{reason}" for reason in Reason] == [str.__str__(reason) for reason in Reason]
    assert all(re.fullmatch(r"[a-z0-9_]+", reason) for reason in Reason)


def test_the_listeners_reasons_fit_into_a_report() -> None:
    assert reasons_of(Speaker.LISTENER) == REFUSALS
    assert 0 < len(REFUSALS) <= 256


def test_every_reason_has_somebody_who_says_it() -> None:
    assert {*reasons_of(Speaker.LISTENER), *reasons_of(Speaker.KEEPER), *reasons_of(Speaker.CLIENT)} == {*Reason}
