"""Text becomes a tree at a bounded cost, or one line that says where it stopped being YAML."""

from pathlib import Path

import pytest
import yaml

from openme.config import nodes
from openme.config.faults import ConfigError
from openme.config.nodes import Mapping, Node, Scalar, Sequence, compose

PATH = Path("f")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('a: "x\nb: y\n', "f:1: expected a closing quote"),
        ("a: 1\nb: 'x", "f:2: expected a closing quote"),
        ('a: "\\q"', "f:1: expected a known escape after the backslash"),
        ("a:\n\tb: c\n", "f:2: expected spaces for indentation, found a tab"),
        ("a: b: c\n", "f:1: expected one 'key: value' a line, indented like its neighbours"),
        ("a: 1\nb: [1,\n", "f:2: expected a closing bracket or a comma"),
        ("- a\nb: c\n", "f:2: expected the same indentation as the lines above"),
        ("a: 1\nb: x\0y\n", "f:2: expected printable text, found a control character"),
        ("a: \ud800", "f:1: expected printable text, found a control character"),
        ("a: *x", "f:1: expected the name of an anchor above"),
        ("a: &a [*a]", "f:1: expected the name of an anchor above"),
        ("a: !!python/name:os.system x", "f:1: expected a value without a tag"),
        ("? [a]\n: b", "f:1: expected a plain word as key"),
        ("a: b\n---\nc: d", "f:2: expected one document, found a second one behind '---'"),
        ("%YAML 99999999999999999999.1\n---\na: b", "f:1: expected YAML"),
        ("[" * 1_000_000, "f:1: expected at most 16 levels"),
        ("- " * 1_000_000, "f:1: expected at most 16 levels"),
        ("a: {\n" * 100_000, "f:16: expected at most 16 levels"),
    ],
)
def test_what_is_no_yaml_for_us_is_one_line(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(text, PATH)
    assert caught.value.message == expected


def test_aliases_cost_what_they_expand_to() -> None:
    levels = "".join(f"k{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(9))
    with pytest.raises(ConfigError, match="aliases counted in full"):
        compose(f"k0: &a0 [{', '.join('x' * 10)}]\n{levels}", PATH)


def test_the_size_of_a_text_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "MAX_CHARACTERS", 4)
    assert compose("a: 1", PATH) is not None
    with pytest.raises(ConfigError, match="expected at most"):
        compose("a: 12", PATH)


def test_scalars_keep_their_text_and_place() -> None:
    root = compose("\ufeffport: 080\nwhen: 2026-12-31T00:00:00Z\nyes: 'on'\n", PATH)
    assert isinstance(root, Mapping)
    values = [value for _, value in root.pairs if isinstance(value, Scalar)]
    assert [(v.text, v.line, v.plain) for v in values] == [
        ("080", 1, True),
        ("2026-12-31T00:00:00Z", 2, True),
        ("on", 3, False),
    ]
    assert [key.text for key, _ in root.pairs] == ["port", "when", "yes"]


def test_nothing_but_comments_is_nothing() -> None:
    assert compose("# a\n\n", PATH) is None


def as_values(node: Node | None) -> object:
    """All that a tree says, comparable."""
    match node:
        case Scalar():
            return node.line, node.start, node.end, node.text, node.plain, node.anchored, node.size
        case Sequence():
            items = [as_values(item) for item in node.items]
            return node.line, node.start, node.end, node.flow, items, node.anchored, node.size
        case Mapping():
            pairs = [(as_values(key), as_values(value)) for key, value in node.pairs]
            return node.line, node.start, node.end, node.flow, pairs, node.anchored, node.size
    return None


def test_both_parsers_of_pyyaml_build_the_same_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parent / "files" / "by-hand.yaml").read_text()
    fast = compose(text, PATH)
    monkeypatch.setattr(nodes, "_Loader", yaml.SafeLoader)
    slow = compose(text, PATH)
    assert as_values(fast) == as_values(slow)
    assert isinstance(fast, Mapping)
