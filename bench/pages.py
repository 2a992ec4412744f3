"""Where figures are kept: a file of tables for each row, its plots, and the page that shows them.

In the page a block between `<!-- bench: NAME -->` and `<!-- end -->` is what the file NAME.md holds.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path

from bench import plots
from bench.figures import Goal, Report, goals_table
from bench.rows import ROWS

GOALS = "goals"
_BLOCK = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def write(folder: Path, name: str, report: Report, machine: str) -> None:
    """Keep what a row has measured, and renew the table of goals of all rows that are kept."""
    (folder / f"{name}.md").write_text(f"{report.markdown()}\nMeasured on: {machine}.\n", encoding="utf-8")
    goals = json.dumps([asdict(goal) for goal in report.goals], indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(f"{goals}\n", encoding="utf-8")
    for plot in report.plots:
        plots.draw(plot, folder)
    (folder / f"{GOALS}.md").write_text(summary(folder), encoding="utf-8")


def summary(folder: Path) -> str:
    """What was to be reached by all rows whose figures are kept here."""
    files = [folder / f"{name}.json" for name in ROWS]
    goals = [Goal(**one) for file in files if file.exists() for one in json.loads(file.read_text(encoding="utf-8"))]
    return goals_table(goals).markdown()


def update(page: Path, folder: Path) -> None:
    """Put the figures that are kept into the page."""
    page.write_text(with_figures(page.read_text(encoding="utf-8"), folder), encoding="utf-8")


def with_figures(text: str, folder: Path) -> str:
    """A page's text with the figures in their blocks. FileNotFoundError for a block of which nothing is kept."""
    return _BLOCK.sub(lambda found: found[1] + (folder / f"{found[2]}.md").read_text(encoding="utf-8") + found[3], text)
