"""The pure parts of the benchmark: percentiles, how figures are written, tables, and the pages that show them."""

from pathlib import Path

import pytest
from bench.figures import Goal, Report, Table, cumulative, goals_table, median, number, percent, percentile
from bench.pages import summary, update, write

ROOT = Path(__file__).parents[3]


def test_a_percentile_is_a_value_that_was_measured() -> None:
    values = [5.0, 1.0, 4.0, 2.0, 3.0]
    assert [percentile(values, share) for share in (0, 0.2, 0.21, 0.5, 0.99, 1)] == [1, 1, 2, 3, 5, 5]
    assert median([7.0]) == 7
    assert percentile([float(n) for n in range(1, 1001)], 0.99) == 990


def test_nothing_has_no_percentile() -> None:
    with pytest.raises(ValueError, match="nothing"):
        median([])


def test_a_number_has_three_digits_that_count_and_three_places_at_most() -> None:
    written = {
        4321: "4,321",
        43.21: "43.2",
        4.321: "4.32",
        0.4321: "0.432",
        0.0432: "0.043",
        0: "0",
        123456.7: "123,457",
    }
    assert {value: number(value) for value in written} == written


def test_a_share_is_never_rounded_to_all_or_none() -> None:
    written = {0: "0%", 1: "100%", 0.34: "34%", 0.034: "3.4%", 0.9996: "99.96%", 0.99999: "99.999%", 0.0004: "0.04%"}
    assert {share: percent(share) for share in written} == written


def test_a_table_is_aligned() -> None:
    table = Table(("what", "a second"), [("one", "1"), ("another", "2,000")], "A note.")
    assert table.markdown().splitlines() == [
        "| what    | a second |",
        "|---------|----------|",
        "| one     | 1        |",
        "| another | 2,000    |",
        "",
        "A note.",
    ]


def test_a_row_that_does_not_fit_its_table_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Table(("a", "b"), [("one",)]).markdown()


def test_a_goal_that_is_only_stated_is_not_called_reached() -> None:
    goals = [Goal("a", "1", "2", reached) for reached in (True, False, None)]
    assert [row[-1] for row in goals_table(goals).rows] == ["yes", "no", "stated"]


def test_the_curve_of_all_values_ends_at_all_of_them() -> None:
    assert cumulative([3.0, 1.0, 2.0, 2.0]) == [(1, 25), (2, 50), (2, 75), (3, 100)]


def test_what_a_row_has_measured_is_put_into_its_block_of_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: idle -->\nold\n<!-- end -->\nafter <!-- bench: goals -->\n<!-- end -->\n")
    report = Report([Goal("idle cost", "0.1%", "0.05%", reached=True)], [Table(("server",), [("openme",)])])
    write(tmp_path, "idle", report, "a machine")
    update(page, tmp_path)
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("before\n<!-- bench: idle -->\n| server |\n")
    assert "Measured on: a machine.\n<!-- end -->\nafter <!-- bench: goals -->\n| what " in text
    assert "| idle cost | 0.1%     | 0.05%    | yes     |" in text


def test_goals_of_a_row_that_was_measured_alone_stand_beside_those_that_were_kept(tmp_path: Path) -> None:
    for name, measured in (("idle", "1"), ("command", "2"), ("idle", "3")):
        write(tmp_path, name, Report([Goal(name, "0", measured, reached=None)], [Table(("a",), [])]), "a machine")
    cells = [[cell.strip() for cell in line.split("|")] for line in summary(tmp_path).splitlines()[2:]]
    assert [(cell[1], cell[3]) for cell in cells if len(cell) > 3] == [("command", "2"), ("idle", "3")]
