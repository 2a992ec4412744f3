from ipaddress import ip_address

import pytest

from openme.firewall.base import Door, PortList, Rules
from openme.firewall.memory import MemoryFirewall
from openme.ports import parse_port_spec

SSH = PortList(parse_port_spec("22/tcp"))
RULES = Rules(
    knock_port=54154,
    open_knock_port=True,
    hidden=SSH.ports,
    hidden_as="drop",
    hide_udp_errors=True,
    interface=None,
    port_lists=frozenset({SSH}),
)
ALICE = ip_address("192.0.2.2")


@pytest.mark.parametrize(("passed", "remaining"), [(0, [30.0]), (29.5, [0.5]), (30, []), (31, [])])
def test_time_is_what_the_clock_says(passed: float, remaining: list[float]) -> None:
    now = 1000.0
    firewall = MemoryFirewall(clock=lambda: now)
    firewall.start(RULES)
    firewall.open([Door(SSH, ALICE, 30)])
    now += passed
    assert [door.seconds for door in firewall.doors()] == remaining


def test_the_rules_in_force_can_be_seen() -> None:
    firewall = MemoryFirewall()
    seen = [firewall.rules]
    firewall.start(RULES)
    seen.append(firewall.rules)
    firewall.stop()
    seen.append(firewall.rules)
    assert seen == [None, RULES, None]
