"""Port specs as people write them, and their canonical form."""

import pytest

from openme.ports import PortRange, common, merged, parse_port_spec, port, without


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("22/tcp", ["22/tcp"]),
        ("53/udp", ["53/udp"]),
        ("80", ["80/tcp", "80/udp"]),
        ("8080-8090/tcp", ["8080-8090/tcp"]),
        ("8080-8090", ["8080-8090/tcp", "8080-8090/udp"]),
        ("1-65535/udp", ["1-65535/udp"]),
        ("443-443/tcp", ["443/tcp"]),
        # As existing tools write them.
        ("22/TCP", ["22/tcp"]),
        ("53/Udp", ["53/udp"]),
        ("8080 - 8090/tcp", ["8080-8090/tcp"]),
        ("8080 -8090", ["8080-8090/tcp", "8080-8090/udp"]),
        (" 22 / tcp ", ["22/tcp"]),
    ],
)
def test_a_spec_is_one_range_or_two(text: str, expected: list[str]) -> None:
    assert [str(r) for r in parse_port_spec(text)] == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "ssh",
            "0/tcp",
            "65536/tcp",
            "99999",
            "22/sctp",
            "22/\u017ftcp",
            "2 2/tcp",
            "22/t cp",
            "22/tcp\n",
            " ",
            "-",
            "-22",
        ),
        *("22-", "-/tcp", "90-80/tcp", "22,23", "1-2-3", "+22", "0x16", "\u0662\u0662/tcp", "100000/tcp", "22/"),
    ],
)
def test_what_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected a port|ports run from"):
        parse_port_spec(text)


@pytest.mark.parametrize(("first", "last"), [(0, 1), (2, 1), (1, 65536), (-5, 5)])
def test_no_range_outside_the_ports_can_be_made(first: int, last: int) -> None:
    with pytest.raises(ValueError, match="ports run from"):
        PortRange("tcp", first, last)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], []),
        (["22/tcp", "22/tcp"], ["22/tcp"]),
        (["80", "22/tcp"], ["22/tcp", "80/tcp", "80/udp"]),
        (["10-20/tcp", "21-30/tcp"], ["10-30/tcp"]),
        (["10-20/tcp", "22-30/tcp"], ["10-20/tcp", "22-30/tcp"]),
        (["10-40/tcp", "20-30/tcp"], ["10-40/tcp"]),
        (["10-20/tcp", "20-20/udp", "15-25/tcp"], ["10-25/tcp", "20/udp"]),
        (["65535/tcp", "1-65534/tcp"], ["1-65535/tcp"]),
    ],
)
def test_the_canonical_form_is_sorted_and_joined(texts: list[str], expected: list[str]) -> None:
    ranges = [r for text in texts for r in parse_port_spec(text)]
    assert [str(r) for r in merged(ranges)] == expected
    assert merged(reversed(ranges)) == merged(ranges)


def test_a_single_port_is_a_range_of_one() -> None:
    assert port("udp", 53) == PortRange("udp", 53, 53)


@pytest.mark.parametrize(
    ("ranges", "taken", "left"),
    [
        ("8080-8090/tcp", "8085/tcp", "8080-8084/tcp 8086-8090/tcp"),
        ("8080-8090/tcp", "8080/tcp", "8081-8090/tcp"),
        ("8080-8090/tcp", "8090-9000/tcp 1-8080/tcp", "8081-8089/tcp"),
        ("8080-8090/tcp", "8085/udp", "8080-8090/tcp"),
        ("80", "80/tcp", "80/udp"),
        ("1-65535/tcp", "1/tcp 65535/tcp", "2-65534/tcp"),
        ("22/tcp 80/tcp", "20-90/tcp", ""),
        ("22/tcp 23/tcp", "", "22-23/tcp"),
        ("", "22/tcp", ""),
    ],
)
def test_ports_without_others(ranges: str, taken: str, left: str) -> None:
    def parsed(text: str) -> list[PortRange]:
        return [r for spec in text.split() for r in parse_port_spec(spec)]

    assert without(parsed(ranges), parsed(taken)) == merged(parsed(left))
    assert merged([*common(parsed(ranges), parsed(taken)), *parsed(left)]) == merged(parsed(ranges))
