"""Whatever lies in the place of the copy: it is not believed, and that is all that comes of it."""

import random
from pathlib import Path

import pytest

from openme.config import parsed_copy
from openme.config.client_table import BadTable, ClientTable, table_of, with_table
from openme.config.parsed_copy import BadCopy, Original, content_of_copy, front_of_copy, with_copied_clients
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey
from support.fuzzing import SEED, mutated, rounds

ROUNDS = rounds(2000)
PATH = Path("config.yaml")
PROGRAM = b"p" * 32
TEXT = f"server: {{private_key: {ServerPrivateKey(b'k' * 32).to_base64()}}}\nclients:\n" + "".join(
    f"  user{n}: {{ed25519_pubkey: {ClientPrivateKey(bytes([n]) * 32).public}, allowed_ports: [{n + 1}, {faulty}]}}\n"
    for n, faulty in enumerate(["22/tcp", "nope", "[]", "1-5"])
)
ORIGINAL = Original(TEXT, PATH, PROGRAM)
CONFIG = with_table(ORIGINAL.parsed())
FRONT = front_of_copy(CONFIG, ORIGINAL) or b""
CONTENT = content_of_copy(FRONT, CONFIG)
AROUND = ORIGINAL.around_clients()


def test_the_one_that_the_others_are_made_of_is_believed() -> None:
    assert with_copied_clients(AROUND, CONTENT, ORIGINAL) == CONFIG


def test_no_mutated_copy_is_believed() -> None:
    chance = random.Random(SEED)
    for _ in range(ROUNDS):
        content = mutated(CONTENT, chance)
        if content == CONTENT:
            continue
        with pytest.raises(BadCopy):
            with_copied_clients(AROUND, content, ORIGINAL)


def test_no_flipped_bit_is_believed() -> None:
    for place in range(8 * len(CONTENT)):
        content = bytearray(CONTENT)
        content[place // 8] ^= 1 << place % 8
        with pytest.raises(BadCopy):
            with_copied_clients(AROUND, bytes(content), ORIGINAL)


def test_one_that_is_sealed_and_yet_not_ours_raises_nothing_else() -> None:
    chance = random.Random(SEED)
    start = parsed_copy._SEALED
    refused = 0
    for _ in range(ROUNDS):
        sealed = mutated(CONTENT[start:], chance)
        content = CONTENT[: start - 32] + ORIGINAL.seal(sealed) + sealed
        try:
            with_copied_clients(AROUND, content, ORIGINAL)
        except BadCopy:
            refused += 1
    assert refused > ROUNDS // 4


def test_bytes_are_a_table_or_none() -> None:
    chance = random.Random(SEED)
    block = table_of(CONFIG.clients.values())
    refused = 0
    for _ in range(ROUNDS):
        raw = mutated(block, chance) if chance.random() < 0.9 else chance.randbytes(chance.randrange(400))
        try:
            ClientTable(memoryview(raw))
        except BadTable:
            refused += 1
    assert refused > ROUNDS // 20
