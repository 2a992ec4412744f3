"""The manual pages, as the two formatters that systems have read them: neither has anything to complain of."""

import subprocess
from pathlib import Path

import pytest

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
PAGES = sorted((ROOT / "packaging/man").rglob("*.[15]"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_formatted_without_a_warning(page: Path) -> None:
    groff = ["man", "--warnings", "-E", "UTF-8", "-l", str(page)]
    done = subprocess.run(
        groff, capture_output=True, text=True, check=False, env={"PATH": "/usr/bin:/bin", "MANWIDTH": "80"}, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert page.stem in done.stdout
    mandoc = ["mandoc", "-T", "lint", "-W", "warning", str(page)]
    done = subprocess.run(mandoc, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
