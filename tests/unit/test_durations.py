"""Durations as people write them."""

import pytest

from openme.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("1m30s", 90.0),
        ("1m0s", 60.0),
        ("1h0m30s", 3630.0),
        ("2h", 7200.0),
        ("7d", 604800.0),
        ("1.5h", 5400.0),
        ("500ms", 0.5),
        ("0.25s", 0.25),
        ("1d1h1m1s1ms", 90061.001),
        ("30s1m", 90.0),
    ],
)
def test_a_written_duration_is_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "s",
        "0s",
        "0m0s",
        "-5s",
        "+5s",
        "1 m",
        " 1m",
        "1m ",
        "1M",
        "1w",
        "1e3s",
        "1,5s",
        ".5s",
        "5.s",
        "\u0663s",
    ],
)
def test_what_is_no_duration_above_zero_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(90.0, "1m30s"), (60, "1m"), (0.5, "500ms"), (604800, "7d"), (3630.0, "1h30s"), (0.0, "0s"), (1.0004, "1s")],
)
def test_the_shortest_form_is_written(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
