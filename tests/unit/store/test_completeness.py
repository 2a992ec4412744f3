"""What a start may find, as a table: found, what is told, and who knows the newest accepted time."""

from dataclasses import replace

import pytest

from openme.store.completeness import Chain, Found, Loss, loss_in
from openme.store.mark import DIGEST_SIZE, ID_SIZE, MAX_NS, NO_DIGEST, DamagedMarkError, Mark, unpack_mark

APART = "state.db and state.mark do not belong together"
OLDER = "state.db and state.mark are older than this machine's last server"
OURS, OTHERS = b"o" * ID_SIZE, b"x" * ID_SIZE


def digest(count: int) -> bytes:
    return bytes([count]) * DIGEST_SIZE


def chain(count: int, store: bytes = OURS) -> Chain:
    return Chain(store, count, digest(count - 1) if count else NO_DIGEST, digest(count))


def mark(count: int, store: bytes = OURS) -> Mark:
    return Mark(store, count, 7, digest(count))


TABLE: list[tuple[Found, Loss | None]] = [
    (Found(chain(5), mark=mark(5)), None),
    (Found(chain(5), mark=mark(4)), None),  # a crash between the database and the mark
    (Found(chain(0), mark=mark(0)), None),
    (Found(None, mark=mark(0)), None),  # as `init` left it, should it have been killed
    (Found(chain(5), mark=mark(5), run=mark(5)), None),
    (Found(chain(5), mark=mark(5), run=mark(4)), None),
    (Found(chain(4), mark=mark(5)), Loss("state.db lacks what was written last", "mark")),
    (Found(chain(6), mark=mark(4)), Loss("state.mark is older than state.db", "nobody")),
    (Found(chain(5), mark=replace(mark(5), digest=NO_DIGEST)), Loss(APART, "nobody")),
    (Found(chain(5), mark=replace(mark(4), digest=digest(9))), Loss(APART, "nobody")),
    (Found(chain(5, OTHERS), mark=mark(5)), Loss(APART, "nobody")),
    (Found(chain(0, OTHERS), mark=mark(5)), Loss("state.db is gone or empty", "mark")),
    (Found(chain(0, OTHERS), mark=mark(0)), Loss("state.db is gone or empty", "mark")),
    (Found(None, mark=mark(5)), Loss("state.db is gone or empty", "mark")),
    (Found(None, mark=mark(0), run=mark(3)), Loss("state.db is gone or empty", "run")),
    (Found(chain(5)), Loss("state.mark is gone", "nobody")),
    (Found(chain(5), mark_fault=True), Loss("state.mark is damaged", "nobody")),
    (Found(chain(5), mark_fault=True, run=mark(5)), Loss("state.mark is damaged", "run")),
    (Found(), Loss("state.db and state.mark are gone", "nobody")),
    (Found(None, "why", mark(5)), Loss("state.db: why", "mark")),
    (Found(None, "why", mark(5), mark_writable=False), Loss("state.db: why", "nobody")),
    (Found(chain(5), mark=mark(5), run=mark(6)), Loss(OLDER, "run")),
    (Found(chain(5), mark=mark(5), run=mark(5, OTHERS)), Loss(OLDER, "run")),
]  # fmt: skip


@pytest.mark.parametrize(("found", "expected"), TABLE)
def test_table(found: Found, expected: Loss | None) -> None:
    assert loss_in(found) == expected


# -- the mark's record


def test_a_mark_is_read_as_it_was_written_and_lies_as_its_table_says() -> None:
    made = Mark(OURS, 3, -5, digest(3))
    raw = made.pack()
    assert len(raw) == 88
    assert raw[:16] == b"openme mark 1\0\0\0"
    assert raw[16:48] == OURS + (3).to_bytes(8, "big") + (-5).to_bytes(8, "big", signed=True)
    assert unpack_mark(raw) == made
    assert unpack_mark(replace(made, newest_ns=2**70).pack()).newest_ns == MAX_NS


def test_every_flipped_bit_every_part_and_anything_behind_it_is_damage() -> None:
    raw = mark(3).pack()
    flipped = [bytes([*raw[: b // 8], raw[b // 8] ^ 1 << b % 8, *raw[b // 8 + 1 :]]) for b in range(8 * len(raw))]
    for content in (*flipped, *(raw[:size] for size in range(len(raw))), raw + b"\0", bytes(88)):
        with pytest.raises(DamagedMarkError):
            unpack_mark(content)
