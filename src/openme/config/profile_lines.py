"""Profiles as lines of the client's file: how they are written, and what is seen before a new text is taken.

Each is read and compared with what it is to say; one that says anything else is thrown away, so that a file too unusual
for these rules is refused and never damaged.
"""

from collections.abc import Iterable
from collections.abc import Mapping as Map
from collections.abc import Sequence as Seq
from pathlib import Path
from typing import Any

from openme.config.faults import ConfigError
from openme.config.files import file_error
from openme.config.nodes import Mapping, Node, Scalar, Sequence, compose
from openme.config.profile import parse_client_config
from openme.config.scalars import flow_list, quote
from openme.config.text_places import column_of, newline_of, without_bom

PROFILES = "profiles"
STEP = 2  # blanks
_NUMBERS = frozenset(("server_udp_port", "server_health_port", "first"))

Field = str | Map[str, str] | Seq[str]
"""What stands behind a key of a profile: a text, the parts of `epoch_keys`, or a list."""


def block_lines(fields: Map[str, Field], indent: str) -> list[str]:
    """Keys and values, a line each but for `epoch_keys`, whose parts have their own."""
    lines: list[str] = []
    for key, value in fields.items():
        if isinstance(value, Map):
            lines += [f"{indent}{key}:", *block_lines(value, indent + " " * STEP)]
        else:
            lines.append(f"{indent}{key}: {written(key, value)}")
    return lines


def written(key: str, value: Field) -> str:
    """A value on one line, so that it may stand within brackets too."""
    if isinstance(value, str):
        return value if key in _NUMBERS else quote(value)
    if isinstance(value, Map):
        return f"{{{', '.join(f'{part}: {written(part, text)}' for part, text in value.items())}}}"
    return flow_list(value)


def appended(body: str, profiles: Iterable[tuple[str, Map[str, Field]]], path: Path) -> str:
    """The text, without a byte order mark, with these profiles behind the others, each on lines of its own."""
    root = compose(body, path)
    newline = newline_of(body)
    key, value = root.entries.get(PROFILES, (None, None)) if isinstance(root, Mapping) else (None, None)
    column, lines = STEP, []
    if key is None or value is None:
        lines.append(f"{PROFILES}:")
    elif isinstance(value, Mapping) and value.pairs and not value.flow:
        column = column_of(body, value.pairs[0][0].start)
    else:  # `profiles:`, with `null`, `{}` or nothing behind it, becomes the head of a block
        body = f"{body[: key.end]}:{body[max(value.end, body.index(':', key.end) + 1) :]}"
    for name, fields in profiles:
        lines.append(f"{' ' * column}{quote(name)}:")
        lines += block_lines(fields, " " * (column + STEP))
    body += "" if not body or body.endswith("\n") else newline
    return body + newline.join(lines) + newline


def meaning(node: Node | None) -> Any:  # noqa: ANN401  # what YAML can hold
    """What a tree says, without how it is written: texts, lists and maps. Its depth is bounded by compose."""
    if isinstance(node, Mapping):
        return {key.text: meaning(value) for key, value in node.pairs}
    if isinstance(node, Sequence):
        return [meaning(item) for item in node.items]
    return node.text if isinstance(node, Scalar) and not node.is_null else None


def plain(fields: Map[str, Field]) -> dict[str, Any]:
    """Fields as `meaning` has them."""
    return {
        key: value if isinstance(value, str) else dict(value) if isinstance(value, Map) else list(value)
        for key, value in fields.items()
    }


def checked(text: str, path: Path, wanted: object) -> str:
    """The new text, if it says what is wanted, and can be read."""
    try:
        parse_client_config(text, path)
    except ConfigError:
        raise unusual(path) from None
    if meaning(compose(without_bom(text)[1], path)) != wanted:
        raise unusual(path)
    return text


def unusual(path: Path) -> ConfigError:
    """What is said of a file that these rules cannot change."""
    return file_error(
        path, "cannot be edited safely: the notation is unusual; nothing changed", "write each key on a line of its own"
    )
