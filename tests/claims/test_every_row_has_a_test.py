"""docs/security.md lists every row of the security model, and each names a test that exists or says that none does."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = (
    *("port_scan", "silence", "noise", "identity", "replay", "forgery", "forward_secrecy", "revocation", "expiry"),
    *("flood", "spoofing", "relay", "target", "clock", "split", "secrets", "no_lock_out", "host_firewall"),
    *("stays_hidden", "forwarded", "fleet_replay", "fleet_engine", "fleet_node", "fleet_outage"),
)
NOT_YET = "not shown yet"


def table() -> dict[str, list[str]]:
    """The rows of the table by name, each as its cells."""
    text = (ROOT / "docs" / "security.md").read_text()
    lines = re.findall(r"^\| `(\w+)` \|(.*)\|$", text, re.MULTILINE)
    assert len(lines) == len(dict(lines)), "a row stands there twice"
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines}


def test_the_table_has_every_row_of_the_model_in_its_order() -> None:
    assert tuple(table()) == ROWS


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_its_test(row: str) -> None:
    promised, version, _, shown = table()[row]
    test = f"tests/claims/test_{row}.py"
    if shown == NOT_YET:
        assert (promised, version) == ("—", "—"), "what no test shows is not promised"
        assert not (ROOT / test).exists(), f"{test} is there: name it"
    else:
        assert shown == f"`{test}`"
        assert (ROOT / test).is_file()
        assert "def test_" in (ROOT / test).read_text()
