"""What stands in a table is asked there and compared nowhere else."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import openme
from openme.firewall import registry
from openme.knock_size import KNOCK_SIZE
from openme.wire.versions import VERSIONS, by_name, by_number, names

SOURCE = Path(openme.__file__).parent
FIREWALLS = {*registry.names(), "nftables", "command"}
# Where a command or an option is about one version by name (spec config.md, "Commands").
NAMED_BY_THE_SPEC = {
    "cli/clients.py": {"v1"},  # `--v1` and `--qr` make a file for version 1
    "cli/init.py": {"v2"},  # `--upgrade` adds version 2 to a server that has been there before it
}


def compared(tree: ast.AST) -> Iterator[object]:
    """The constants that something is compared with: by operators, `in`, `match`, or as a key that is looked up."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            for side in (node.left, *node.comparators):
                yield from _constants(side)
        elif isinstance(node, ast.MatchValue):
            yield from _constants(node.value)
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
            yield from (constant for key in node.value.keys if key is not None for constant in _constants(key))


def _constants(node: ast.expr) -> Iterator[object]:
    if isinstance(node, ast.Constant):
        yield node.value
    elif isinstance(node, ast.Tuple | ast.List | ast.Set):
        for item in node.elts:
            yield from _constants(item)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"frozenset", "set"}:
        for item in node.args:
            yield from _constants(item)


def outside(room: str) -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] != room)


@pytest.mark.parametrize("path", outside("firewall"), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_firewalls_name_is_compared_outside_their_room(path: Path) -> None:
    assert FIREWALLS & set(compared(ast.parse(path.read_text(encoding="utf-8")))) == set()


@pytest.mark.parametrize(
    "source",
    [
        'config.firewall == "memory"',
        '"memory" != config.firewall',
        'config.firewall in {"nft", "memory"}',
        'config.firewall not in ("memory",)',
        'config.firewall in frozenset({"memory"})',
        'match config.firewall:\n    case "memory" | "nft":\n        pass',
        'x = {"memory": 1, "nft": 2}[config.firewall]',
    ],
)
def test_every_way_to_compare_is_seen(source: str) -> None:
    assert "memory" in set(compared(ast.parse(source)))


@pytest.mark.parametrize("path", outside("wire"), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_wire_version_is_compared_or_imported_outside_their_room(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    expected = NAMED_BY_THE_SPEC.get(str(path.relative_to(SOURCE)), set())
    assert set(names()) & set(compared(tree)) == expected
    assert list(past_the_table(tree)) == []


def past_the_table(tree: ast.AST) -> Iterator[str]:
    """Ways to know a version that no comparison with its name shows: its module, its number, its name put together."""
    numbers = {version.number for version in VERSIONS}
    modules = {version.name for version in VERSIONS}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            if node.module == "openme.wire" and any(alias.name in modules for alias in node.names):
                yield ast.unparse(node)
            if node.module.startswith(tuple(f"openme.wire.{name}" for name in modules)) and node.module != (
                "openme.wire.versions"
            ):
                yield ast.unparse(node)
        elif isinstance(node, ast.Import) and any(alias.name in modules for alias in node.names):
            yield ast.unparse(node)
        elif isinstance(node, ast.Compare):
            text = ast.unparse(node)
            is_number = any(type(value) is int and value in numbers for value in compared(node))
            if "version" in text.lower() and is_number:
                yield text
        elif isinstance(node, ast.JoinedStr) and ast.unparse(node).startswith(("f'v{", 'f"v{')):
            yield ast.unparse(node)


@pytest.mark.parametrize(
    "source",
    [
        "from openme.wire import v1",
        "from openme.wire.v2 import seal",
        "frame.version == 1",
        "2 != version",
        "frame.version in {1, 3}",
        'f"v{frame.version}" in protocols',
    ],
)
def test_every_way_past_the_table_is_seen(source: str) -> None:
    assert list(past_the_table(ast.parse(source)))


def test_every_version_has_the_one_length_which_is_written_once() -> None:
    assert {version.size for version in VERSIONS} == {KNOCK_SIZE}
    written = [
        f"{path.relative_to(SOURCE)}: {line}"
        for path in SOURCE.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(rf"\b{KNOCK_SIZE}\b", line)
    ]
    assert written == [f"knock_size.py: KNOCK_SIZE = {KNOCK_SIZE}"]


def test_a_version_is_found_by_the_name_and_the_number_that_it_has() -> None:
    assert [by_number(version.number) for version in VERSIONS] == list(VERSIONS)
    assert [by_name(version.name) for version in VERSIONS] == list(VERSIONS)
    assert by_number(0) is None
    assert names() == ("v1", "v2")
