"""Whatever stands in a file, reading and editing it ends in a result or in ConfigError, and soon."""

import random
from pathlib import Path

import pytest

from openme.config.edit import delete_client, insert_client
from openme.config.faults import ConfigError
from openme.config.profile import parse_client_config
from openme.config.server import parse_server_config
from openme.keys.ed25519 import ClientPrivateKey
from support.fuzzing import SEED, rounds

CORPUS = sorted((Path(__file__).parent / "corpus" / "config").glob("*.yaml"))
ROUNDS = rounds(150)
PIECES = [
    "clients:",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "<<: ",
    "- ",
    "'",
    '"',
    "#",
    "|",
    "~",
    "\0",
    "?",
]
FIELDS = {"ed25519_pubkey": str(ClientPrivateKey(b"f" * 32).public)}


def mutated(text: str, chance: random.Random) -> str:
    for _ in range(chance.randrange(1, 6)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice([0, 0, 1, 3, 40]))
        middle = chance.choice([chance.choice(PIECES), text[end : end + 30], chr(chance.randrange(0x3000)), ""])
        text = text[:start] + middle + text[end:]
    return text


def one_line(error: ConfigError) -> None:
    assert "\n" not in error.message


def survive(text: str) -> int:
    """Run every reader over the text; the number of those that accepted it."""
    path, accepted = Path("fuzz.yaml"), 0
    for action in (
        lambda: parse_server_config(text, path),
        lambda: parse_client_config(text, path),
        lambda: insert_client(text, path, "new", FIELDS),
        lambda: delete_client(text, path, "alice"),
    ):
        try:
            action()
            accepted += 1
        except ConfigError as error:
            one_line(error)
    return accepted


def test_the_corpus_is_there_and_not_all_of_it_is_refused() -> None:
    assert len(CORPUS) >= 12
    assert sum(survive(file.read_bytes().decode()) for file in CORPUS) >= 12


@pytest.mark.parametrize("file", CORPUS, ids=lambda f: f.name)
def test_mutations_of_real_files(file: Path) -> None:
    chance = random.Random(f"{SEED}-{file.name}")
    text = file.read_bytes().decode()
    for _ in range(ROUNDS):
        survive(mutated(text, chance))
