"""Where the clients stand in a server's file, by its lines: to read the rest of a large one takes a millisecond."""

import re

_CLIENTS = re.compile(r"^clients:[ \t]*(?:#[^\n]*)?\r?$", re.MULTILINE)
_NEXT_KEY = re.compile(r"\n[^\s#]")


def without_clients(text: str) -> str | None:
    """The file without what stands below `clients:`, every other line where it was; None if it has no plain such part.

    A guess by its lines: whoever relies on it has to see whether it was right.
    """
    begin = _CLIENTS.search(text)
    if begin is None:
        return None
    following = _NEXT_KEY.search(text, begin.end())
    end = len(text) if following is None else following.start()
    lines = "\n" * text.count("\n", begin.end(), end)
    return f"{text[: begin.start()]}clients: {{}}{lines}{text[end:]}"


def before_clients(text: str) -> str:
    """What stands above `clients:`; all of it, if there is no such line.

    If that is YAML by itself, so that no text and no bracket is open at its end, its keys have the values that they
    have in the whole file: anchors reach downwards only, and of a key that is given twice the first counts.
    """
    begin = _CLIENTS.search(text)
    return text if begin is None else text[: begin.start()]
