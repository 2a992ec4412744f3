"""Where something stands in a file that is edited by lines: offsets in its text, between which a tree's marks lie."""

from openme.config.nodes import Node, Scalar, Sequence

_BOM = "\ufeff"


def without_bom(text: str) -> tuple[str, str]:
    """A byte order mark or nothing, and what follows it."""
    return (_BOM, text[1:]) if text.startswith(_BOM) else ("", text)


def newline_of(body: str) -> str:
    """How the text ends its lines."""
    return "\r\n" if "\r\n" in body else "\n"


def content_end(node: Node, text: str) -> int:
    """The offset behind the last character of a value. The parser's own end of a block lies behind later comments."""
    while not isinstance(node, Scalar) and not node.flow:
        children = node.items if isinstance(node, Sequence) else [child for pair in node.pairs for child in pair]
        if not children:
            return node.start
        node = max(children[-2:], key=lambda n: n.start)
    end = node.end
    while end > node.start and text[end - 1] in " \r\n":
        end -= 1
    return end


def line_start(text: str, offset: int) -> int:
    """The offset of the first character of the line of `offset`."""
    return text.rfind("\n", 0, offset) + 1


def line_end(text: str, offset: int) -> int:
    """The offset of the line break that ends the line of `offset`, or of the end of the text."""
    end = text.find("\n", offset)
    if end < 0:
        return len(text)
    return end - 1 if end > offset and text[end - 1] == "\r" else end


def entry_end(text: str, offset: int, column: int) -> int:
    """The end of the line of `offset`, or of the last full-line comment right below it that is indented deeper."""
    end = line_end(text, offset)
    while True:
        start = text.find("\n", end) + 1
        if start == 0:
            return end
        line = text[start : line_end(text, start)]
        stripped = line.lstrip(" ")
        if not stripped.startswith("#") or len(line) - len(stripped) <= column:
            return end
        end = line_end(text, start)


def column_of(text: str, offset: int) -> int:
    """How many characters stand before `offset` on its line."""
    return offset - line_start(text, offset)
