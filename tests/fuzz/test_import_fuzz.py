"""Whatever `openme import` is given, and whatever file it goes into: a result or one line, and soon."""

import random
from pathlib import Path

import pytest

from openme.cli.qr_image import texts_untrusted
from openme.config.faults import ConfigError
from openme.config.offered import Offered, offered_untrusted
from openme.config.profile import parse_client_config
from openme.config.profile_merge import merged
from openme.errors import OpenmeError
from support.fuzzing import SEED, mutated, rounds

HERE = Path(__file__).parent / "corpus"
GIVEN = sorted(path for path in (HERE / "import").iterdir() if path.suffix != ".png")
CODE = HERE / "import/code.png"
ROUNDS = rounds(150)
SOURCE, PATH = Path("given"), Path("config.yaml")


def one_line(error: OpenmeError) -> None:
    assert "\n" not in error.message


def taken(raw: bytes) -> tuple[Offered, ...]:
    try:
        return offered_untrusted(raw, SOURCE)
    except ConfigError as error:
        one_line(error)
        return ()


def put(there: str, offers: tuple[Offered, ...], *, replace: bool) -> str | None:
    """The merged file, which loads and has as many profiles as it should; None if it was refused."""
    try:
        result = merged(there, PATH, offers, replace=replace)
    except ConfigError as error:
        one_line(error)
        return None
    config = parse_client_config(result.text, PATH)
    assert {step.name for step in result.steps} <= config.profiles.keys() | config.waiting.keys()
    return result.text


def test_the_corpus_is_there_and_taken() -> None:
    assert len(GIVEN) >= 5
    for file in GIVEN:
        assert put("", taken(file.read_bytes()), replace=False)
    assert put("", taken(texts_untrusted(CODE.read_bytes(), SOURCE)[0].encode()), replace=False)


@pytest.mark.parametrize("file", GIVEN, ids=lambda file: file.name)
def test_mutations_of_what_is_given(file: Path) -> None:
    chance = random.Random(f"{SEED}-{file.name}")
    raw = file.read_bytes()
    for _ in range(ROUNDS):
        if offers := taken(mutated(raw, chance)):
            put("", offers, replace=False)


@pytest.mark.parametrize("file", [file for file in GIVEN if file.suffix == ".yaml"], ids=lambda file: file.name)
def test_mutations_of_the_file_that_it_goes_into(file: Path) -> None:
    chance = random.Random(f"{SEED}-{file.name}")
    offers = taken((HERE / "import/commands.yaml").read_bytes())
    newer = tuple(offer._replace(fields={**offer.fields, "server_host": "new.example"}) for offer in offers[:1])
    raw = (HERE / "import/commands.yaml").read_bytes()
    for _ in range(ROUNDS):
        there = mutated(raw, chance).decode("utf-8", "replace")
        put(there, newer, replace=chance.random() < 0.5)


def test_mutations_of_an_image() -> None:
    chance = random.Random(SEED)
    raw, read = CODE.read_bytes(), 0
    for _ in range(ROUNDS):
        try:
            read += bool(texts_untrusted(mutated(raw, chance), SOURCE))
        except OpenmeError as error:
            one_line(error)
    assert read < ROUNDS
