"""Requests by any bytes that a local user may send: one error, or a request that comes back as it was."""

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from openme.control.requests import REQUESTS, RequestError, request_bytes, request_untrusted

FIELDS = ["name", "keys", "cut", "all", "sha256", "lifted", "ports", "epoch_length", "version", "file", "since"]
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["22/tcp", "A" * 43 + "="]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
COMMANDS = st.sampled_from([row.command for row in REQUESTS]) | VALUES
REQUEST_VALUES = st.builds(
    lambda command, fields: {"command": command, **fields},
    COMMANDS,
    st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6),
)


def taken(raw: bytes) -> None:
    """One exception, with one line; or what is taken is sent again as the same request."""
    try:
        request = request_untrusted(raw)
    except RequestError:
        return
    assert repr(request_untrusted(request_bytes(request))) == repr(request)  # NaN is not equal to itself


@given(st.binary(max_size=300))
@example(b"[" * 60_000)
@example(b"9" * 5000)
@example(b'{"command": "close", "version": ' + b"9" * 5000 + b"}")
@example(b'{"command": "revoke", "keys": ' + b"[" * 50_000)
def test_any_bytes_are_a_request_or_one_error(raw: bytes) -> None:
    taken(raw)


@given(REQUEST_VALUES)
@example({"command": "close", "name": "\ud800"})
@example({"command": "new_ratchet", "epoch_length": float("nan")})
@example({"command": "unhide", "ports": ["1-65535/tcp"] * 4096})
@example({"command": "unhide", "ports": ["\u0662\u0662/tcp"]})
@example({"command": "revoke", "keys": ["\u00e9"]})
def test_any_json_is_a_request_or_one_error(value: Any) -> None:
    taken(json.dumps(value).encode())


@given(st.sampled_from(REQUESTS), st.data())
def test_a_request_with_a_flipped_bit_is_a_request_or_one_error(row: Any, data: st.DataObject) -> None:
    raw = bytearray(request_bytes(row.request()))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    taken(bytes(raw))
