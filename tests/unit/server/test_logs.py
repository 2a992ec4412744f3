"""One record is one line, whatever stands in it."""

import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace

import pytest

from openme.server import logs


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    text = io.StringIO()
    monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=text))
    monkeypatch.setattr(logging, "raiseExceptions", logging.raiseExceptions)
    root = logging.getLogger("openme")
    before = root.handlers[:], root.level, root.propagate
    yield text
    root.handlers[:], root.level, root.propagate = before


NASTY = "alice\nERROR: root: opened everything\r\nx\x1b[2J\u2028y\x85z"


def test_a_record_is_one_line_with_time_and_level(stderr: io.StringIO) -> None:
    logs.set_up("info", as_json=False)
    logging.getLogger("openme.x").warning("hello %s", "there")
    assert stderr.getvalue().count("\n") == 1
    stamp, rest = stderr.getvalue().split(" ", 1)
    assert stamp.endswith("Z")
    assert rest == "warning: hello there\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_line_breaks_and_escapes_begin_no_line_of_their_own(stderr: io.StringIO, *, as_json: bool) -> None:
    logs.set_up("info", as_json=as_json)
    logging.getLogger("openme.x").info("%s", NASTY)
    written = stderr.getvalue()
    assert len(written.splitlines()) == 1
    assert "\x1b" not in written
    if as_json:
        assert json.loads(written)["message"] == NASTY


def test_json_lines_carry_the_facts(stderr: io.StringIO) -> None:
    logs.set_up("info", as_json=True)
    logging.getLogger("openme.x").info("a", extra={"facts": {"event": "accepted", "client": "é"}})
    value = json.loads(stderr.getvalue())
    assert (value["event"], value["client"], value["level"], value["message"]) == ("accepted", "é", "info", "a")


def test_an_exception_is_one_line_in_text_too(stderr: io.StringIO) -> None:
    logs.set_up("info", as_json=False)
    try:
        int("x")
    except ValueError:
        logging.getLogger("openme.x").exception("mistake")
    assert stderr.getvalue().count("\n") == 1
    assert "ValueError" in stderr.getvalue()


def test_below_the_level_nothing_is_said(stderr: io.StringIO) -> None:
    logs.set_up("warning", as_json=False)
    logging.getLogger("openme.x").info("quiet")
    assert stderr.getvalue() == ""


def test_under_systemd_the_journal_keeps_time_and_priority(
    stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1")
    logs.set_up("info", as_json=False)
    logging.getLogger("openme.x").error("bad")
    assert stderr.getvalue() == "<3>error: bad\n"


def test_a_closed_stderr_stops_nothing(stderr: io.StringIO) -> None:
    logs.set_up("info", as_json=False)
    stderr.close()
    logging.getLogger("openme.x").error("bad")


def test_a_reader_that_has_stopped_costs_lines_and_no_time() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream, os.fdopen(reader, "rb"):
        os.set_blocking(writer, True)  # as the pipe of whoever started us is
        handler = logs._Handler(stream)
        for _ in range(5000):  # far more than a pipe holds
            handler.handle(logging.makeLogRecord({"msg": "x" * 100, "levelno": logging.INFO}))


def fill(pipe: int) -> None:
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            os.write(pipe, bytes(4096))


def emptied(pipe: int) -> bytes:
    os.set_blocking(pipe, False)
    said = b""
    with suppress(BlockingIOError):
        while True:
            said += os.read(pipe, 1 << 20)
    return said


@pytest.mark.usefixtures("stderr")
def test_a_line_that_there_is_no_room_for_waits_unless_it_is_on_level_debug(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))
        logs.set_up("debug", as_json=False)
        log = logging.getLogger("openme.x")
        fill(writer)
        for number in range(3):
            log.info("door %d", number)
            log.debug("noise")
        assert b"door" not in emptied(reader)
        log.info("the last")
        said = emptied(reader).splitlines()
    os.close(reader)
    assert [line.rpartition(b": ")[2] for line in said] == [b"door 0", b"door 1", b"door 2", b"the last"]


def test_so_many_lines_wait_and_no_more(stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    logs.set_up("info", as_json=False)
    monkeypatch.setattr(logs._Handler, "_has_room", lambda _: False)
    for number in range(5000):
        logging.getLogger("openme.x").info("line %d", number)
    assert stderr.getvalue() == ""
    monkeypatch.setattr(logs._Handler, "_has_room", lambda _: True)
    logs.write_late()
    written = stderr.getvalue().splitlines()
    assert len(written) == 1000
    assert written[-1].endswith("line 4999")


@pytest.mark.usefixtures("stderr")
def test_the_lines_of_a_group_are_written_together_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(logs, "sys", SimpleNamespace(stderr=stream))
        logs.set_up("info", as_json=False)
        log = logging.getLogger("openme.x")
        with logs.together():
            log.info("first")
            log.info("second")
            before = emptied(reader)
        log.info("third")
        said = emptied(reader).splitlines()
    os.close(reader)
    assert before == b""
    assert [line.rpartition(b": ")[2] for line in said] == [b"first", b"second", b"third"]


def test_a_group_that_ends_in_an_error_is_written(stderr: io.StringIO) -> None:
    logs.set_up("info", as_json=False)
    with suppress(ValueError), logs.together():
        logging.getLogger("openme.x").info("opened")
        raise ValueError
    assert "opened" in stderr.getvalue()


def test_a_group_larger_than_what_waits_loses_no_line(stderr: io.StringIO) -> None:
    logs.set_up("info", as_json=False)
    with logs.together():
        for number in range(3000):
            logging.getLogger("openme.x").info("line %d", number)
    assert len(stderr.getvalue().splitlines()) == 3000


def test_a_line_says_the_second_in_which_it_was_made(stderr: io.StringIO) -> None:
    logs.set_up("info", as_json=False)
    handler = logging.getLogger("openme").handlers[0]
    for created in (0.2, 0.9, 1.1, 0.5):
        handler.handle(
            logging.makeLogRecord({"msg": "x", "levelno": logging.INFO, "levelname": "INFO", "created": created})
        )
    seconds = [line.partition("Z")[0][-2:] for line in stderr.getvalue().splitlines()]
    assert seconds == ["00", "00", "01", "00"]
