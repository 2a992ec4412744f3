"""YAML text as a tree of nodes that know their lines, and nothing more: no types, no tags, no objects.

PyYAML delivers events; the tree is built here, with a stack instead of recursion, so that neither depth nor aliases
can cost more than the limits below. What a scalar means is decided by whoever asks for it, from its text: that is how
`80`, `1m0s` and an unquoted `2026-12-31T00:00:00Z` all arrive as they were written.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import cast

import yaml

from openme.collector import collector_paused
from openme.config.faults import ConfigError, ConfigFault

MAX_DEPTH = 16
MAX_NODES = 2_000_000
MAX_CHARACTERS = 16 * 2**20

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
PARSER = f"{yaml.__version__} {_Loader.__name__}"
"""Whose events the tree is built of."""
# The printable characters of YAML 1.1 (section 5.1); the rest is refused here because the C parser would name no line.
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_NULLS = frozenset(("", "~", "null", "Null", "NULL"))
_PLAIN_TAGS = frozenset((None, "!", "tag:yaml.org,2002:str"))
_MERGE = "<<"


class Scalar:
    """A value's text. `start` and `end` are offsets in characters, `line` counts from 1; `plain` means unquoted."""

    __slots__ = ("anchored", "end", "line", "plain", "size", "start", "text")

    def __init__(self, line: int, start: int, end: int, text: str, *, plain: bool) -> None:
        self.line, self.start, self.end, self.text, self.plain = line, start, end, text, plain
        self.anchored = False
        self.size = 1

    @property
    def is_null(self) -> bool:
        """Whether YAML calls this nothing at all."""
        return self.plain and self.text in _NULLS


class Sequence:
    """A list. `end` is exact for flow style (behind the bracket) and meaningless for block style."""

    __slots__ = ("anchored", "end", "flow", "items", "line", "size", "start")

    def __init__(self, line: int, start: int, end: int, *, flow: bool) -> None:
        self.line, self.start, self.end, self.flow = line, start, end, flow
        self.items: list[Node] = []
        self.anchored = False
        self.size = 1


class Mapping:
    """A map, its pairs in the order of the file. `end` as in Sequence."""

    def __init__(self, line: int, start: int, end: int, *, flow: bool) -> None:
        self.line, self.start, self.end, self.flow = line, start, end, flow
        self.pairs: list[tuple[Scalar, Node]] = []
        self.anchored = False
        self.size = 1

    @cached_property
    def entries(self) -> dict[str, tuple[Scalar, "Node"]]:
        """Key and value by name; a merge key `<<` gives what the map itself does not have. The first of two wins."""
        found: dict[str, tuple[Scalar, Node]] = {}
        merges: list[Mapping] = []
        for key, value in self.pairs:
            if key.plain and key.text == _MERGE:
                candidates = value.items if isinstance(value, Sequence) else [value]
                merges += [m for m in candidates if isinstance(m, Mapping)]
            else:
                found.setdefault(key.text, (key, value))
        for merge in merges:
            for name, pair in merge.entries.items():
                found.setdefault(name, pair)
        return found

    @property
    def repeated(self) -> Iterator[Scalar]:
        """The keys that stand here a second time."""
        seen = set()
        for key, _ in self.pairs:
            if key.text in seen:
                yield key
            seen.add(key.text)


Node = Scalar | Sequence | Mapping


def compose(text: str, path: Path) -> Node | None:
    """The one document in `text`, or None if there is nothing but comments; ConfigError with a line for anything else.

    Costs at most MAX_NODES nodes with every alias counted at its full size, MAX_DEPTH levels and MAX_CHARACTERS.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(ConfigFault(path, 0, "", f"expected at most {MAX_CHARACTERS // 2**20} MiB"))
    if bad := _UNPRINTABLE.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise ConfigError(ConfigFault(path, line, "", "expected printable text, found a control character"))
    try:
        with collector_paused():
            return _Builder(path).build(text)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_syntax_fault(error, text, path)) from None
    except (yaml.YAMLError, ValueError):  # ValueError: PyYAML's own conversions, such as `%YAML` numbers and escapes
        raise ConfigError(ConfigFault(path, 0, "", "expected YAML")) from None


class _Builder:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._anchors: dict[str, Node] = {}
        self._nodes = 0

    def build(self, text: str) -> Node | None:
        root: Node | None = None
        documents = 0
        # Each level: the collection, its anchor, and the key that waits for its value.
        stack: list[tuple[Sequence | Mapping, str | None]] = []
        waiting: list[Scalar | None] = []
        for event in yaml.parse(text, Loader=_Loader):
            done: Node
            anchor: str | None
            if isinstance(event, yaml.ScalarEvent):
                if event.tag is not None:
                    self._check_tag(event)
                start = _start(event)
                done = Scalar(start.line + 1, start.index, _end(event), event.value, plain=not event.style)
                anchor = event.anchor
            elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
                self._check_tag(event)
                if len(stack) >= MAX_DEPTH:
                    raise self._fault(event, f"expected at most {MAX_DEPTH} levels")
                if waiting and waiting[-1] is None and isinstance(stack[-1][0], Mapping):
                    raise self._fault(event, "expected a plain word as key")
                kind = Mapping if isinstance(event, yaml.MappingStartEvent) else Sequence
                start = _start(event)
                made = kind(start.line + 1, start.index, start.index, flow=bool(event.flow_style))
                stack.append((made, event.anchor))
                waiting.append(None)
                continue
            elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
                done, anchor = stack.pop()
                waiting.pop()
                done.end = _end(event)
            elif isinstance(event, yaml.AliasEvent):
                if event.anchor not in self._anchors:
                    raise self._fault(event, "expected the name of an anchor above")
                done, anchor = self._anchors[event.anchor], None
            elif isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise self._fault(event, "expected one document, found a second one behind '---'")
                continue
            else:
                continue
            if anchor is not None:
                done.anchored = True
                self._anchors[anchor] = done
            self._nodes += done.size if isinstance(event, yaml.AliasEvent) else 1
            if self._nodes > MAX_NODES:
                raise self._fault(event, f"expected at most {MAX_NODES} values, aliases counted in full")
            if not stack:
                root = done
                continue
            parent = stack[-1][0]
            parent.size += done.size
            if isinstance(parent, Sequence):
                parent.items.append(done)
            elif (key := waiting[-1]) is not None:
                parent.pairs.append((key, done))
                waiting[-1] = None
            elif isinstance(done, Scalar):
                waiting[-1] = done
            else:
                raise self._fault(event, "expected a plain word as key")
        if isinstance(root, Scalar) and root.is_null and not root.text:
            return None
        return root

    def _check_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.tag not in _PLAIN_TAGS:
            raise self._fault(event, "expected a value without a tag")

    def _fault(self, event: yaml.Event, message: str) -> ConfigError:
        return ConfigError(ConfigFault(self._path, _start(event).line + 1, "", message))


def _start(event: yaml.Event) -> yaml.Mark:
    return cast("yaml.Mark", event.start_mark)  # optional only by its type


def _end(event: yaml.Event) -> int:
    return cast("yaml.Mark", event.end_mark).index


def _syntax_fault(error: yaml.MarkedYAMLError, text: str, path: Path) -> ConfigFault:
    """Our own words for the parser's: it quotes what it reads, which may be a key."""
    problem, context = error.problem or "", error.context or ""
    where = error.problem_mark
    if "quoted scalar" in context and error.context_mark is not None:
        where = error.context_mark
    line = where.line if where is not None else -1
    content = text.split("\n")
    # The end of the text is one line behind the last; a person looks for it on the last.
    line = min(line, len(content) - (2 if len(content) > 1 and not content[-1] else 1))
    written = content[line] if line >= 0 else ""
    if "\t" in written[: len(written) - len(written.lstrip())]:
        message = "expected spaces for indentation, found a tab"
    elif "quoted scalar" in context:
        message = "expected a closing quote"
        if "escape" in problem:
            message = "expected a known escape after the backslash"
    elif "mapping values" in problem:
        message = "expected one 'key: value' a line, indented like its neighbours"
    elif "flow" in context:
        message = "expected a closing bracket or a comma"
    elif "block" in context:
        message = "expected the same indentation as the lines above"
    else:
        message = "expected YAML"
    return ConfigFault(path, line + 1, "", message)
