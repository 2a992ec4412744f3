"""The benchmark runs: a measurement that nobody has tried since a change is none when it is wanted."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


def bench(*words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_rows_are_measured_and_kept_with_tables_goals_and_pictures(tmp_path: Path) -> None:
    said = bench("--small", "--into", str(tmp_path), "throughput", "flood")
    accepted = re.search(r"^\| openme, no other doors open +\| [\d,.]+ .*\| 100 +\| 100 +\|$", said, re.MULTILINE)
    assert accepted, said
    for name in ("throughput", "flood"):
        assert (tmp_path / f"{name}.md").read_text().startswith("| ")
        assert all(goal["measured"] for goal in json.loads((tmp_path / f"{name}.json").read_text()))
        assert (tmp_path / f"{name}.svg").read_text().lstrip().startswith("<?xml")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    floods = re.findall(r"^\| [^|]+\| v[12] +\| ([\d,]+)", (tmp_path / "flood.md").read_text(), re.MULTILINE)
    assert len(floods) == 8
    assert all(int(rate.replace(",", "")) > 100 for rate in floods), "a flood that did not arrive"


def test_figures_of_a_trial_do_not_take_the_place_of_those_that_are_kept() -> None:
    assert "--small needs --into" in bench("--small", "idle", code=2)


def test_a_part_of_a_row_does_not_take_the_place_of_all_of_it() -> None:
    assert "--only needs --into" in bench("--only", "E_i", "flood", code=2)


def test_only_a_row_with_parts_can_be_had_in_parts(tmp_path: Path) -> None:
    for rows in (["idle"], ["flood", "idle"], []):
        assert "--only is for one row" in bench("--only", "E_i", "--into", str(tmp_path), *rows, code=2)


def test_a_row_that_is_not_there_is_named() -> None:
    assert "no row 'idel'" in bench("idel", code=2)


def test_the_soak_runs_and_says_what_went_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak", "--minutes", "0.3", "--into", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    sent, opened = (
        re.search(rf"^\| {what}[^|]* \| ([\d,]+) ", done.stdout, re.MULTILINE) for what in ("knocks sent", "of these")
    )
    assert sent
    assert opened
    assert sent[1] == opened[1] != "0"
    assert (tmp_path / "soak_memory.svg").exists()
