"""What stands in a table is asked there and compared nowhere else."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import openme
from openme.firewall import registry

SOURCE = Path(openme.__file__).parent
FIREWALLS = {*registry.names(), "nftables", "command"}


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
