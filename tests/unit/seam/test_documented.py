"""The page on privilege separation shows the table of messages as it is in the code."""

import re
from pathlib import Path

from openme.seam.messages import MESSAGES, TEXT_SIZE, Row, Sender

PAGE = Path(__file__).parents[3] / "docs" / "privilege-separation.md"


def shown(sender: Sender) -> list[list[str]]:
    """The first four columns of the table of this side's messages: name, size, may be lost, wiped."""
    section = PAGE.read_text(encoding="utf-8").split(f"\nFrom {sender.value} to ", 1)[1]
    table = re.search(r"\n\n(\|.*?)\n\n", section, re.DOTALL)
    assert table is not None
    return [[cell.strip() for cell in line.split("|")[1:5]] for line in table[1].splitlines()[2:]]


def row_in_words(row: Row) -> list[str]:
    long = f"{row.size + TEXT_SIZE:,}"
    sizes = {"KnockOpened": f"{row.size}, or {long} with the text of a receipt", "ReceiptPart": long}
    name = row.type.__name__
    size = sizes[name] if "text" in row.places else str(row.size)
    return [f"`{name}`", size, "yes" if row.may_be_lost else "no", ", ".join(f"`{it}`" for it in row.wiped) or "–"]  # noqa: RUF001  # as the page has it


def test_the_page_has_every_message_as_the_table_has_it() -> None:
    for sender in Sender:
        assert sorted(shown(sender)) == sorted(row_in_words(row) for row in MESSAGES if row.sender is sender)
