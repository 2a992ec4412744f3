"""Values as YAML text that every YAML reader takes back as the same text."""

import re
from collections.abc import Sequence

from openme.visible import is_visible

# Begins with a letter, a digit or one of these, and has nothing inside that YAML could take for structure.
_PLAIN = re.compile(r"[A-Za-z0-9_/.+][A-Za-z0-9_/.+=@-]*", re.ASCII)
# What some reader of YAML 1.1 or 1.2 turns into a number, a date, a truth value or nothing.
_MEANS_MORE = re.compile(
    r"(?i:null|true|false|yes|no|on|off|y|n|\.inf|\.nan|[-+]?\.inf)"
    r"|[-+.]*[0-9][0-9_.]*(?:[eE][-+]?[0-9]+)?|[-+]?0[xobXOB][0-9A-Fa-f_]+|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*|=",
    re.ASCII,
)
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def quote(text: str) -> str:
    """`text` as one YAML scalar on one line: plain where nobody can misread it, else in double quotes."""
    if _PLAIN.fullmatch(text) and not _MEANS_MORE.fullmatch(text):
        return text
    return '"' + "".join(_ESCAPES.get(c) or (c if is_visible(c) else f"\\U{ord(c):08x}") for c in text) + '"'


def flow_list(items: Sequence[str]) -> str:
    """A list on one line."""
    return f"[{', '.join(quote(item) for item in items)}]"
