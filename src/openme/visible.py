"""What others wrote, as a terminal or a log may show it: one line, and nothing in it that cannot be seen.

Names, hosts, commands, paths and the server's words reach the screen of whoever runs openme. A control character in
them would move the cursor or forge a line, a bidirectional one would turn the text around, an invisible one would make
two names look the same. Every command and every log line goes through here; letters of all scripts pass.
"""

# What Python calls printable and no terminal shows: code points that are ignorable by default (Unicode, DerivedCore-
# Properties.txt, Default_Ignorable_Code_Point) or drawn as nothing.
_BLANK = frozenset(
    map(
        chr,
        (
            *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
            *range(0x180B, 0x1810),
            *range(0xFE00, 0xFE10),
            *range(0xE0100, 0xE01F0),
        ),
    )
)


def is_visible(text: str) -> bool:
    """Whether `visible` would leave the text as it is."""
    return text.isprintable() and (text.isascii() or _BLANK.isdisjoint(text))


def visible(text: str) -> str:
    r"""`text` with every character that cannot be seen written out as Python writes it: `\n`, `\x1b`, `\u202e`.

    Those are line breaks and all control, format (bidirectional and zero-width ones among them), surrogate, private and
    unassigned characters, every blank but the space, and what is drawn as nothing.
    """
    if is_visible(text):
        return text
    return "".join(c if is_visible(c) else c.encode("unicode_escape").decode("ascii") for c in text)
