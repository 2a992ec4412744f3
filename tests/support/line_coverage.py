"""Which lines run, in whatever process: marks in one piece of memory that all of them share.

The server's processes end by `os._exit` and by signals, and may open no file by then, so that nothing could write down
at its end what it has seen. Here a line that runs sets its byte in a file that was mapped when Python started; a fork
inherits the mapping, and no sandbox asks about it. `tools/coverage` installs this beside the packages of `.venv` while
it runs the tests; coverage.py then counts statements and reports.
"""

import json
import mmap
import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

LINES, INDEX, DATA = "lines", "index.json", "data"


def prepare(folder: Path, source: Path) -> None:
    """Make an empty file of marks with room for every line of `source`. Other users' processes write to it, too."""
    folder.mkdir(parents=True, exist_ok=True)
    index, size = {}, 0
    for path in sorted(source.resolve().rglob("*.py")):
        index[str(path)] = size
        size += path.read_bytes().count(b"\n") + 2
    (folder / INDEX).write_text(json.dumps(index))
    (folder / LINES).write_bytes(bytes(size))
    (folder / LINES).chmod(0o666)


def start(folder: Path) -> None:
    """Mark from here on the lines of this process and of those that it forks."""
    with suppress(OSError):
        index: dict[str, int] = json.loads((folder / INDEX).read_bytes())
        descriptor = os.open(folder / LINES, os.O_RDWR | os.O_CLOEXEC)
        try:
            marks = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        tracers = {path: _tracer(marks, offset) for path, offset in index.items()}

        def on_call(frame: FrameType, _event: str, _argument: object) -> Any:
            tracer = tracers.get(frame.f_code.co_filename)
            return None if tracer is None else tracer(frame, "line", None)

        threading.settrace(on_call)
        sys.settrace(on_call)


def _tracer(marks: mmap.mmap, offset: int) -> Callable[[FrameType, str, object], Any]:
    def on_line(frame: FrameType, _event: str, _argument: object) -> Any:
        marks[offset + frame.f_lineno] = 1
        return on_line

    return on_line


def report(folder: Path) -> None:
    """Print what has run, and what has not."""
    from coverage import Coverage, CoverageData  # noqa: PLC0415  # whoever is measured does without it

    index: dict[str, int] = json.loads((folder / INDEX).read_bytes())
    marks = (folder / LINES).read_bytes()
    ends = [*list(index.values())[1:], len(marks)]
    (folder / DATA).unlink(missing_ok=True)
    data = CoverageData(str(folder / DATA))
    data.add_lines(
        {
            path: [number for number in range(1, end - offset) if marks[offset + number]]
            for (path, offset), end in zip(index.items(), ends, strict=True)
        }
    )
    data.write()
    measured = Coverage(data_file=str(folder / DATA))
    measured.load()
    measured.report(show_missing=True, skip_covered=True)


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        prepare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        report(Path(sys.argv[2]))
