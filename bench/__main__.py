"""`python -m bench [--small] [--only WORDS] [--into FOLDER] [ROW ...]`: measure, print, and write tables and plots."""

import argparse
import os
import sys
import time
from pathlib import Path

from bench import environment, fwknop, pages
from bench.figures import Report
from bench.rows import ROWS, Row

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"


def main() -> int:
    """Run the rows that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--small", action="store_true", help="with few of everything: to see that it runs")
    parser.add_argument("--only", metavar="WORDS", help="of the row flood, those with these words in their name")
    parser.add_argument("--into", type=Path, default=RESULTS, metavar="FOLDER", help="where tables and plots go")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"one of: {', '.join(ROWS)}")
    asked = parser.parse_args()
    if unknown := [name for name in asked.rows if name not in ROWS]:
        parser.error(f"no row {unknown[0]!r}; there are: {', '.join(ROWS)}")
    if asked.small and asked.into == RESULTS:
        parser.error("--small needs --into: its figures say nothing, and would take the place of those that do")
    if asked.only and asked.into == RESULTS:
        parser.error("--only needs --into: what it leaves out would be missing there")
    if asked.only and (len(asked.rows) != 1 or ROWS[asked.rows[0]].part is None):
        parser.error("--only is for one row that has parts: flood")
    if os.geteuid() != 0:
        parser.error("needs root: network namespaces, and the kernel's firewall in them")
    if not fwknop.is_there():
        print("bench: fwknop is not there, so nothing is compared with it: tools/unpacked fwknop-server fwknop-client")
    asked.into.mkdir(parents=True, exist_ok=True)
    machine = environment.description()
    print(machine)
    for name in asked.rows or ROWS:
        row, begin = ROWS[name], time.monotonic()
        report = _report(row, asked)
        print(f"\n{row.title}  ({time.monotonic() - begin:.0f} s)\n\n{report.markdown()}", flush=True)
        pages.write(asked.into, name, report, machine)
        if asked.into == RESULTS:
            pages.update(ROOT / "docs" / "performance.md", RESULTS)
    print(pages.summary(asked.into))
    return 0


def _report(row: Row, asked: argparse.Namespace) -> Report:
    if asked.only and row.part is not None:
        return row.part(asked.only)
    return (row.try_out if asked.small else row.measure)()


if __name__ == "__main__":
    sys.exit(main())
