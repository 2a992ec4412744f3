"""The documents: what they link to and name is there, and no key of the config is left out."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.reference import tables

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
# A file of ours by its path from the root, or a module of the package by its path from there.
NAMED = re.compile(
    r"(?:tests|bench|tools|packaging|docs|src|cli|client|config|demo|doctor|firewall|keeper|keys|listener|server|store|wire)"
    r"/[\w./-]*\w\.(?:py|md|service)"
)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code hosts make them."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while (numbered := f"{anchor}-{number}" if number else anchor) in found:
            number += 1
        found.add(numbered)
    return found


def broken_links(page: Path) -> Iterator[str]:
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("https:", "http:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            yield link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_is_there(page: Path) -> None:
    named = set(NAMED.findall(page.read_text(encoding="utf-8")))
    assert [
        name for name in sorted(named) if not any((top / name).exists() for top in (ROOT, ROOT / "src/openme"))
    ] == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# One & `two`\n[a](#one--two) [b](page.md#one--two) [c](#three) [d](gone.md) [e](https://x.example)\n"
    )
    assert list(broken_links(page)) == ["#three", "gone.md"]


@pytest.mark.parametrize("heading", tables())
def test_the_tables_of_the_configuration_are_the_rows_of_its_keys(heading: str) -> None:
    """Where they differ, what the failure shows under `expected` is the table to put there."""
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    (written,) = re.findall(rf"^\| {re.escape(heading)} \|.*\n(?:\|.*\n)*", text, re.MULTILINE)
    expected = tables()[heading]
    assert written == expected, f"expected in docs/configuration.md:\n{expected}"


def test_no_figure_is_still_to_come() -> None:
    assert [
        page.name for page in PAGES if re.search(r"\b(?:MEASURED|TODO|TBD|FIXME)\b", page.read_text(encoding="utf-8"))
    ] == []


SPEC = ROOT / "docs" / "spec"
POINTER = re.compile(r"spec[/ ]((?:wire-v[12]|security-model|config|fleet)\.md|[\w-]+\.md)")


def test_what_the_code_says_of_the_spec_names_a_page_of_it() -> None:
    named = {
        (path.name, page)
        for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]
        for page in POINTER.findall(path.read_text(encoding="utf-8"))
    }
    assert len(named) > 20
    assert {page for _, page in named} <= {path.name for path in SPEC.glob("*.md")}


LOCKED = re.compile(r"^([a-z][a-z0-9-]*)==(\S+)", re.MULTILINE)
FOR_BUILDING = {
    *("editables", "hatchling", "packaging", "pathspec", "pluggy", "tomlkit", "trove-classifiers"),
    *("pip-nftables", "pyseccomp", "py-landlock"),  # on Linux alone, in pure Python
}


def test_the_table_of_wheels_is_of_the_versions_that_are_locked() -> None:
    """Where this fails, look again which systems the new version has wheels for (docs/install.md)."""
    text = (ROOT / "docs/install.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| library \| version \|.*\n(?:\|.*\n)+", text, re.MULTILINE)
    told = set(re.findall(r"`([a-z][a-z0-9-]*)` \| (\d\S*)", table))
    locked = {
        found
        for name in ("key-files", "qr-images")
        for found in LOCKED.findall((ROOT / f"requirements/{name}.txt").read_text(encoding="utf-8"))
    }
    assert told == {(name, version) for name, version in locked if name not in FOR_BUILDING}
    assert {name for name, _ in locked} >= FOR_BUILDING
