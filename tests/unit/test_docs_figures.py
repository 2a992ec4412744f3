"""Figures in the documents that state a constant of the code are that constant.

`STATED` is the table: a page, a fragment of it with « and » around the figure, and the constant that it states. A
changed constant fails here until the page says the new one, and so does a page that has lost the sentence. Messages
that a page shows are held to the texts of the code in the same way.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from bench.pages import GOALS, summary, with_figures
from bench.rows import ROWS

from openme.cli import knock as cli_knock
from openme.client import address_page, door, grant, known, nat64, plan, receipt, renewal
from openme.config import model, nodes, profile_model, server_keys
from openme.firewall import nftables_rules
from openme.keeper import journal, ratchet_file
from openme.kernel_filter import filter as kernel_filter
from openme.kernel_filter import program as kernel_program
from openme.keys import ratchet
from openme.knock_size import KNOCK_SIZE
from openme.listener import load
from openme.processes import listener_process, listener_reports, own_user, roles
from openme.refusals import REPORT_INTERVAL
from openme.seam import messages
from openme.server import (
    admission,
    config_switch,
    config_watch,
    earlier_sessions,
    health_port,
    hidden_ports,
)
from openme.store import mark, replay, sqlite
from openme.wire import v1, v2

ROOT = Path(__file__).parents[2]
NUMBERS = {
    "half a": 0.5,
    "a": 1,
    "one": 1,
    "two": 2,
    "three": 3,
    "five": 5,
    "eight": 8,
    "ten": 10,
    "sixteen": 16,
    "sixty-four": 64,
    "": 1,
}
UNITS = {
    "ms": 0.001,
    "s": 1,
    "second": 1,
    "minute": 60,
    "hour": 3600,
    "d": 86400,
    "day": 86400,
    "week": 7 * 86400,
    "KiB": 2**10,
    "MiB": 2**20,
    "Mi": 2**20,
    "M": 2**20,  # as systemd has it
    "": 1,
}
DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(model.ServerConfig)}

STATED = (
    ("README.md", "for one address, for «half a minute», in the kernel's own firewall", DEFAULTS["knock_timeout"]),
    ("README.md", "port «54154») for the address it comes from", profile_model.DEFAULT_UDP_PORT),
    ("README.md", "may [differ by «a minute»](docs/clock.md) at most", DEFAULTS["replay_window"]),
    ("docs/clients.md", "wait up to «5 s» until the health port", door.CHECK_SECONDS),
    ("docs/client-library.md", "waits for the door, «five seconds» at most", door.CHECK_SECONDS),
    ("docs/client-library.md", "nearer than this; «eight weeks», less", renewal.WARN_SECONDS),
    ("docs/clients.md", "every «25 s» or `--interval`", grant.USUAL_INTERVAL),
    ("docs/clients.md", "the same packet, «sixteen» of them at most", plan.MOST_ADDRESSES),
    ("docs/clients.md", "the page has «three seconds», from", address_page.PATIENCE),
    ("docs/clients.md", "in at most «1 KiB».", address_page.MOST_BYTES),
    ("docs/clients.md", "Two version 1 packets leave «20 ms» apart", v1.WIRE.pause),
    ("docs/clients.md", "`ipv4only.arpa`, for «half a second» at most", nat64.PATIENCE),
    ("docs/clients.md", "remembers the\nanswer for «a day».", nat64.LIFETIME),
    ("docs/clients.md", "without NAT64, for «ten minutes»:", nat64.RETRY),
    ("docs/clients.md", "once «a day» (more often", renewal.TRY_EVERY),
    ("docs/clients.md", "for «one second» at most, beside `post_knock`", renewal.FETCH_SECONDS),
    ("docs/clients.md", "With less than «eight weeks» left", renewal.WARN_SECONDS),
    ("docs/clients.md", "clock differs by more than «five seconds»", receipt.CLOCK_DIFFERENCE),
    ("docs/clients.md", "`replay_window`, [«one minute»](clock.md)", DEFAULTS["replay_window"]),
    ("docs/clients.md", "| `closed` | «3» | nothing answered;", cli_knock.SHUT),
    ("docs/clock.md", "`replay_window`, «60 s» by default", DEFAULTS["replay_window"]),
    ("docs/clock.md", "**Why «a minute».** Until", DEFAULTS["replay_window"]),
    ("docs/clock.md", "**Why «a week».** Version 2", DEFAULTS["epoch_length"]),
    ("docs/clock.md", "every epoch, «7 days» by default (`epoch_length`)", DEFAULTS["epoch_length"]),
    ("docs/clock.md", "carries the keys of «53» epochs, about a year", DEFAULTS["epoch_horizon"]),
    ("docs/clock.md", "more than «five\nseconds»", receipt.CLOCK_DIFFERENCE),
    ("docs/configuration.md", "| `udp_port` | `«54154»` | port for knocks. Read", profile_model.DEFAULT_UDP_PORT),
    ("docs/configuration.md", "| `server_udp_port` | `«54154»` | port for knocks |", profile_model.DEFAULT_UDP_PORT),
    ("docs/configuration.md", "| `knock_timeout` | `«30s»` |", DEFAULTS["knock_timeout"]),
    ("docs/configuration.md", "at most «366d» |", server_keys.LONGEST_DOOR),
    ("docs/configuration.md", "| `replay_window` | `«60s»` |", DEFAULTS["replay_window"]),
    ("docs/configuration.md", "| `epoch_length` | `«7d»` |", DEFAULTS["epoch_length"]),
    ("docs/configuration.md", "| `epoch_horizon` | `«53»` |", DEFAULTS["epoch_horizon"]),
    ("docs/configuration.md", "clients never add more than «53» |", known.HORIZON),
    ("docs/configuration.md", "more than «16» levels", nodes.MAX_DEPTH),
    ("docs/configuration.md", "and «16 Mi» characters", nodes.MAX_CHARACTERS),
    ("docs/glossary.md", "one UDP packet of «165» bytes", v2.PACKET_SIZE),
    ("docs/glossary.md", "receives knocks, «54154» by default", profile_model.DEFAULT_UDP_PORT),
    ("docs/glossary.md", "| «a week» (`epoch_length`), counted from 1970", DEFAULTS["epoch_length"]),
    ("docs/glossary.md", "(`epoch_horizon`), «53» by default", DEFAULTS["epoch_horizon"]),
    ("docs/glossary.md", "(`replay_window`), «60 s» by default", DEFAULTS["replay_window"]),
    ("docs/glossary.md", "one bit of it, «0x40000000», is openme's", nftables_rules.MARK_BIT),
    ("docs/install.md", "clients and server may differ by «a minute» at most", DEFAULTS["replay_window"]),
    ("docs/key-management.md", "every «week» (`epoch_length`)", DEFAULTS["epoch_length"]),
    ("docs/key-management.md", "A file carries the keys of «53» epochs", DEFAULTS["epoch_horizon"]),
    ("docs/key-management.md", "last less than «eight weeks»", renewal.WARN_SECONDS),
    ("docs/key-management.md", "once «a day» (more often where a file", renewal.TRY_EVERY),
    ("docs/key-management.md", "lasts less than «eight days»), for", renewal._TRIES * renewal.TRY_EVERY),
    ("docs/key-management.md", "for «one second» at most. If it", renewal.FETCH_SECONDS),
    ("docs/key-management.md", "or «200,000» epochs or more before it", ratchet.MAX_STEPS),
    ("docs/operating.md", "file of more than «32 KiB» (about", config_watch.LARGE),
    ("docs/operating.md", "by chance: «54154» is one of", profile_model.DEFAULT_UDP_PORT),
    ("docs/operating.md", "local_reserved_ports = «54154»`", profile_model.DEFAULT_UDP_PORT),
    ("docs/operating.md", "For «one hour» the\n  service also cannot begin", nftables_rules.CUT_SECONDS),
    ("docs/operating.md", "for «30 days» after its doors have closed", sqlite._KEEP_HOLDERS),
    ("docs/operating.md", "the last «1,024» of them", sqlite.MOST_HOLDERS),
    ("docs/operating.md", "a door in the last «30 days» |", sqlite._KEEP_HOLDERS),
    ("docs/operating.md", "again every «five seconds»", hidden_ports.RETRY),
    ("docs/operating.md", "more than «500» packets a second do not", nftables_rules.OTHER_LENGTHS),
    ("docs/operating.md", "Of more than «500» datagrams of another length", nftables_rules.OTHER_LENGTHS),
    ("docs/operating.md", "Above «500» of them a second", nftables_rules.OTHER_LENGTHS),
    ("docs/operating.md", "marks, «0x40000000». It sets", nftables_rules.MARK_BIT),
    ("docs/operating.md", "openme-mark-«0x40000000»`)", nftables_rules.MARK_BIT),
    ("docs/operating.md", "in one line «a minute» at most: `refused", REPORT_INTERVAL),
    ("docs/operating.md", "in «ten» lines a minute at most", journal._NAMED_PER_INTERVAL),
    ("docs/operating.md", "| `length` | not «165» bytes", v2.PACKET_SIZE),
    ("docs/operating.md", "under version 2 «two» from one address", load.V2_MAX_COPIES_PER_SOURCE),
    ("docs/operating.md", "from one address and «eight» in all, under version 1", load.V2_MAX_COPIES),
    ("docs/operating.md", "under version 1 «eight» and", load.MAX_COPIES_PER_SOURCE),
    ("docs/operating.md", "under version 1 eight and «sixty-four». Of", load.MAX_COPIES),
    ("docs/operating.md", "Of more than «16» in a second, wherever they come from", kernel_program.COPIES_A_SECOND),
    ("docs/operating.md", "and more than «16» copies of one packet in a second", kernel_program.COPIES_A_SECOND),
    ("docs/operating.md", "what is not «165» bytes long, what has no filter MAC", KNOCK_SIZE),
    ("docs/operating.md", "the first «10,000» of each kind in a second are left", listener_reports.MOST_LINES),
    ("docs/operating.md", "`LimitMEMLOCK=«16M»`, `--ulimit", kernel_filter.LOCKED),
    ("docs/operating.md", "`--ulimit memlock=«16777216»`", kernel_filter.LOCKED),
    ("packaging/openme.service", "LimitMEMLOCK=«16M»", kernel_filter.LOCKED),
    ("docs/operating.md", "more than «256» knocks of one client", replay.MAX_NONCES),
    ("docs/operating.md", "| «256 MiB»; no load", roles.LISTENER_GROWTH),
    ("docs/operating.md", "0600, «4096» bytes: **keep it out", ratchet_file.FILE_SIZE),
    ("docs/operating.md", "`replay_window`, «60 s» at least", sqlite._SHORTEST_REACH_NS / 10**9),
    ("docs/operating.md", "more than `replay_window` («60 s») after", DEFAULTS["replay_window"]),
    ("docs/operating.md", "after «half a second», then less and less often", config_switch.FIRST_RETRY),
    ("docs/privilege-separation.md", "frame, «234» bytes", messages.FRAME_SIZE),
    ("docs/privilege-separation.md", "report, «26» bytes", messages.REPORT_SIZE),
    ("docs/privilege-separation.md", "order, «41» bytes", messages.ORDER_SIZE),
    ("docs/privilege-separation.md", "| 41, or «4,137» with the text", messages.LONG_ORDER_SIZE),
    ("docs/privilege-separation.md", "a config of more than «32 KiB»", config_watch.LARGE),
    ("docs/privilege-separation.md", "| «256 MiB» of memory above", roles.LISTENER_GROWTH),
    ("docs/privilege-separation.md", "«640» descriptors, no process", roles.LISTENER_FILES),
    ("docs/privilege-separation.md", "between «61184»\nand", own_user.FIRST),
    ("docs/privilege-separation.md", "and «65519», taken for this run", own_user.LAST),
    ("docs/architecture.md", "Frame, «234» bytes", messages.FRAME_SIZE),
    ("docs/architecture.md", "Order, «41» bytes (and", messages.ORDER_SIZE),
    ("docs/architecture.md", "(and «4,096» of text)", messages.TEXT_SIZE),
    ("docs/architecture.md", "Report, «26» bytes", messages.REPORT_SIZE),
    ("docs/architecture.md", "a queue of «256» and", admission._MAX_SEARCHED),
    ("docs/security.md", "`replay_window`, «one minute» at least", sqlite._SHORTEST_REACH_NS / 10**9),
    ("docs/security.md", "up to the last «14 days»", 2 * DEFAULTS["epoch_length"]),
    ("docs/security.md", "for more than «10,000» sessions from before", earlier_sessions._MOST),
    ("docs/security.md", "Bit «0x40000000» of packet marks", nftables_rules.MARK_BIT),
    ("docs/security.md", "a datagram of «165» bytes went", v2.PACKET_SIZE),
    ("docs/security.md", "what its «165» bytes show", v1.PACKET_SIZE),
    ("docs/decisions/0004-state.md", "`state.mark`, «88» bytes", mark.MARK_SIZE),
    ("docs/decisions/0004-state.md", "*At most «256» nonces for a client", replay.MAX_NONCES),
    ("docs/decisions/0005-two-processes.md", "a queue of «256», from which", admission._MAX_SEARCHED),
    ("docs/decisions/0005-two-processes.md", "and get «10 ms» at a time", admission._SHARE),
    ("docs/decisions/0006-wire-version-2.md", "waits «half a second» for one", listener_process.RECEIPT_PATIENCE),
    ("docs/spec/config.md", "or `hide:` names that port, it is not «22»,", health_port.SSH),
    ("docs/decisions/0014-where-a-knock-goes.md", "all its addresses*, «sixteen» at most", plan.MOST_ADDRESSES),
)


def value_of(figure: str) -> float:
    """`1,024`, `20 ms`, `7d`, `half a minute`, `sixteen` or `week` as a number: of seconds, of bytes, or of things."""
    words = " ".join(figure.split())
    if words.startswith("0x"):
        return int(words, 16)
    written = re.fullmatch(rf"(\d[\d,]*|{'|'.join(filter(None, NUMBERS))}|) ?([A-Za-z]*)", words)
    assert written is not None, figure
    number, unit = written.groups()
    count = float(number.replace(",", "")) if number[:1].isdigit() else NUMBERS[number]
    return count * UNITS[unit if unit in UNITS else unit.removesuffix("s")]


def test_a_figure_is_read_as_it_is_written() -> None:
    for figure, value in (
        *(
            ("1,024", 1024),
            ("0x40", 64),
            ("20 ms", 0.02),
            ("60s", 60),
            ("7d", 7 * 86400),
            ("5 s", 5),
            ("32 KiB", 32768),
        ),
        *(
            ("half a minute", 30),
            ("a week", 7 * 86400),
            ("week", 7 * 86400),
            ("five\nseconds", 5),
            ("eight weeks", 4838400),
        ),
        *(("sixteen", 16), ("sixty-four", 64), ("16 Mi", 2**24), ("30 days", 30 * 86400), ("one minute", 60)),
    ):
        assert value_of(figure) == pytest.approx(value), figure


@pytest.mark.parametrize(("page", "fragment", "constant"), STATED, ids=lambda value: str(value)[:50])
def test_a_figure_is_the_constant_it_states(page: str, fragment: str, constant: float) -> None:
    before, figure, after = re.split("[«»]", fragment)
    text = (ROOT / page).read_text(encoding="utf-8")
    assert before + figure + after in text
    assert value_of(figure) == pytest.approx(constant)


SHOWN = re.compile(r"^openme: (?:(?:error|warning|hint): )?(.+)$", re.MULTILINE)
BLOCK = re.compile(r"^\s*```\w*\n(.*?)^\s*```", re.MULTILINE | re.DOTALL)


def pattern(node: ast.expr) -> tuple[str, int]:
    """What a text of the code can become, as a regular expression, and how many characters of it are certain."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value), len(node.value)
    if isinstance(node, ast.IfExp):
        parts = [pattern(node.body), pattern(node.orelse)]
        return f"(?:{'|'.join(text for text, _ in parts)})", max(size for _, size in parts)
    if isinstance(node, ast.JoinedStr):
        parts = [pattern(part) for part in node.values]
        return "".join(text for text, _ in parts), sum(size for _, size in parts)
    if isinstance(node, ast.FormattedValue) and isinstance(node.value, ast.IfExp):
        return pattern(node.value)
    return ".*", 0


@cache
def wordings() -> tuple[re.Pattern[str], ...]:
    """What the commands can say: each text in their code, with anything in its gaps."""
    found = set()
    for path in (ROOT / "src/openme/cli").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr | ast.Constant):
                text, size = pattern(node)
                if size >= 8:  # else it is nearly all gap
                    found.add(text)
    return tuple(re.compile(text) for text in sorted(found))


def shown() -> Iterator[tuple[str, str]]:
    """Each line of a command's that a page shows in a block."""
    for page in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))):
        for block in BLOCK.findall(page.read_text(encoding="utf-8")):
            for line in SHOWN.findall(block):
                yield page.name, line


def test_pages_show_messages() -> None:
    assert len(list(shown())) > 10


@pytest.mark.parametrize(("page", "line"), list(shown()), ids=lambda value: value[:40])
def test_a_message_that_a_page_shows_is_one_that_a_command_says(page: str, line: str) -> None:
    assert any(wording.fullmatch(line) for wording in wordings()), f"{page}: no command says: {line}"


GAP = "\0"


@cache
def said() -> str:
    """All texts of the code, with a gap for whatever a format puts in."""
    texts = []
    for path in (ROOT / "src/openme").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(p.value) if isinstance(p, ast.Constant) else GAP for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%\.?\d*[sdf]", GAP, node.value))
    return "\n".join(texts)


def table_of(page: str, heading: str) -> list[str]:
    """The first cells of the table with this first heading."""
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = text[text.index(f"\n| {heading} |") :].split("\n\n")[0].strip().splitlines()[2:]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows]


LINES = [
    *(("docs/operating.md", cell) for cell in table_of("docs/operating.md", "line")),
    *(("docs/key-management.md", cell) for cell in table_of("docs/key-management.md", "the message says")),
    *(("docs/clock.md", cell) for cell in table_of("docs/clock.md", "what you see") if len(cell.split("`")[1]) > 7),
]


@pytest.mark.parametrize(("page", "cell"), LINES, ids=lambda value: value[:40])
def test_a_line_that_a_page_explains_is_one_that_the_code_says(page: str, cell: str) -> None:
    line = cell.split("`")[1] if "`" in cell else cell
    pieces = [piece.strip() for piece in re.split(r"…|\b(?:N|FILE|PID|ADDRESS)\b|\balice\b", line)]
    assert any(len(piece) > 7 for piece in pieces)
    assert [piece for piece in pieces if piece and piece not in said()] == [], page


MEASURED = {
    "1,320 bits": "bits",
    "870,540 pairs of bits": "pairs",
    "165 bytes": "byte values",
    "ten bytes that stand twice": "repeats",
    "R itself": "coordinates",
    "low-order component": "points",
    "classifier": "classifier",
}
"""How a row of the table of noise begins, and the line of `bench/studies/noise.py` that it is."""


def printed_and_written(begins: str, row: str) -> tuple[list[str], list[str]]:
    """The figures of a line of the study of noise, and the cells of the row of docs/security.md that shows them."""
    printed = (ROOT / "bench/results/noise.txt").read_text(encoding="utf-8")
    line = re.search(rf"^{begins} +(.+)$", printed, re.MULTILINE)
    cells = re.search(rf"^\| {row}\|(.+)\|$", (ROOT / "docs/security.md").read_text("utf-8"), re.MULTILINE)
    assert line is not None
    assert cells is not None
    return line[1].split(), cells[1].split("|")


@pytest.mark.parametrize(("row", "look"), MEASURED.items())
def test_the_table_of_noise_is_what_the_benchmark_printed(row: str, look: str) -> None:
    for figure, cell in zip(*printed_and_written(look, rf"{row}[^|]*"), strict=True):
        written = re.match(r"[\d.,]+", cell.strip())
        if written is None:
            assert figure == "-", "words in place of a figure that was measured"
            continue
        text = written[0].replace(",", "")
        places = len(text.partition(".")[2])
        assert f"{float(figure.rstrip('%')):.{places}f}" == text


RESULTS = ROOT / "bench/results"


def test_the_page_on_performance_shows_what_the_benchmark_has_kept() -> None:
    """Where they differ: `make bench` writes both, and a page that was edited by hand gets its figures back from it."""
    page = ROOT / "docs/performance.md"
    text = page.read_text(encoding="utf-8")
    assert with_figures(text, RESULTS) == text


def test_the_page_on_performance_shows_every_row_and_picture_of_the_benchmark() -> None:
    text = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- bench: (\w+) -->", text)) == {GOALS, *ROWS}
    pictures = {path.name for path in RESULTS.glob("*.svg")}
    assert pictures
    assert set(re.findall(r"\(\.\./bench/results/([\w.]+)\)", text)) == pictures
    assert {path.stem for path in RESULTS.glob("*.png")} == {path.stem for path in RESULTS.glob("*.svg")}


def test_the_kept_goals_are_those_of_the_rows() -> None:
    assert summary(RESULTS) == (RESULTS / f"{GOALS}.md").read_text(encoding="utf-8")
