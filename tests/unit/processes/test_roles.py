"""The table of roles, and the page that shows it."""

import re
import socket
from pathlib import Path

from openme.processes import roles
from openme.processes.roles import CAP_KILL, CAP_NET_ADMIN, KEEPER, LISTENER, ROLES, Role
from openme.seam.messages import Sender

PAGE = Path(__file__).parents[3] / "docs" / "privilege-separation.md"
CAPABILITIES = {CAP_KILL: "CAP_KILL", CAP_NET_ADMIN: "CAP_NET_ADMIN"}
FAMILIES: dict[int, str] = {socket.AF_UNIX: "Unix", socket.AF_NETLINK: "netlink"}


def in_words(role: Role) -> list[str]:
    """A role as its row of the page has it."""
    has = role.inherits or role
    sandbox = "none" if has.calls is None else f"{len({allowed.call for allowed in has.allowed()})} system calls"
    if role.kills != "nobody":
        sandbox += f", and to kill {role.kills}"
    return [
        role.name,
        has.runs_as.value,
        ", ".join(CAPABILITIES[number] for number in has.capabilities) or "none",
        has.reads,
        has.writes,
        " and ".join(FAMILIES[family] for family in has.sockets) or ("not held" if has.calls is None else "none"),
        sandbox,
        role.descriptors,
        role.dies_with,
    ]


def test_the_page_has_every_role_as_the_table_has_it() -> None:
    table = re.search(r"\n\| process \|.*?\n\n", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert table is not None
    shown = [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].strip().splitlines()[2:]]
    assert shown == [in_words(role) for role in ROLES]


def test_every_role_is_in_the_table_and_each_side_of_the_seam_is_one() -> None:
    made = {role.name for role in vars(roles).values() if isinstance(role, Role)}
    assert made == {role.name for role in ROLES}
    assert {role.says: role.name for role in ROLES if role.says} == {
        Sender.LISTENER: LISTENER.name,
        Sender.KEEPER: KEEPER.name,
    }


def test_a_role_that_inherits_has_nothing_of_its_own_to_put_in_force() -> None:
    for role in ROLES:
        if role.inherits is not None:
            assert (role.calls, role.capabilities, role.limits, role.growth) == (None, frozenset(), {}, None)
