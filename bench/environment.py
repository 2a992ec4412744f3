"""The machine that figures come from, without its name."""

import os
import platform
import sqlite3
import subprocess
from pathlib import Path

import nacl


def description() -> str:
    """One line of Markdown."""
    parts = (
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        f"{_memory() / 2**30:.0f} GiB",
        f"Linux {_release()}",
        f"CPython {platform.python_version()}",
        f"PyNaCl {nacl.__version__}",
        f"SQLite {sqlite3.sqlite_version}",
        _first_line("nft", "--version").split(" (")[0],
    )
    return "; ".join(parts)


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _release() -> str:
    """Without what a machine's owner may have added to the version."""
    return platform.release().partition("-")[0]


def _first_line(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[0]
