"""A client that only knocks never runs dry: what `knock` and `status` do about epoch keys that come to an end."""

import argparse
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Self

import pytest

from openme.cli import knock as command
from openme.client import policy
from openme.client.known import Known
from openme.config.profile import load_client_config
from openme.config.profile_model import EpochKeys
from openme.config.profile_text import render_profile
from support.command import Done, Place, place, until

TARGET = "203.0.113.5"


@pytest.fixture
def here(tmp_path: Path) -> Place:
    made = place(tmp_path)
    made.prepare()
    made.set("epoch_horizon", "53")
    return made


def knock(here: Place, file: Path, *words: str) -> Done:
    return here.run("--client-config", str(file), "knock", "--ip", TARGET, *words)


def aged(here: Place, file: Path, gone: int, post_knock: str | None = None) -> Path:
    """The same file `gone` weeks after it was made: the keys of the weeks before are of no use any more."""
    profile = load_client_config(file).profiles["default"]
    keys = profile.epoch_keys
    assert keys is not None
    assert profile.public_key is not None
    past = tuple(bytes([9, n]) + bytes(29) + b"\1" for n in range(gone))
    text = render_profile(
        "default",
        server_host=profile.server_host,
        server_udp_port=profile.server_udp_port,
        server_health_port=profile.server_health_port,
        server_pubkey=profile.server_pubkey,
        public_key=profile.public_key,
        private_key=profile.private_key,
        epoch_keys=EpochKeys(keys.length, keys.first - gone, past + keys.keys[: len(keys.keys) - gone]),
    )
    file.write_text(text + (f"    post_knock: {post_knock}\n" if post_knock else ""))
    assert here.run("--client-config", str(file), "profiles").code == 0
    return file


def horizon(file: Path) -> int:
    """For how many epochs the client has keys, those of receipts included."""
    config = load_client_config(file)
    profile = config.profiles["default"]
    assert profile.epoch_keys is not None
    return max(Known(config).keys(profile)) + 1 - int(time.time() // profile.epoch_keys.length)


def test_a_plain_knock_fetches_new_keys_when_fewer_than_half_are_left(here: Place) -> None:
    file = aged(here, here.client("alice"), 40)
    assert horizon(file) == 13
    with here.serving():
        done = knock(here, file)
    assert (done.code, done.out) == (0, "")
    assert "epoch keys" not in done.err
    assert horizon(file) == 53


def test_with_more_than_half_left_nobody_waits(here: Place) -> None:
    file = aged(here, here.client("alice"), 20)
    with here.serving():
        assert knock(here, file).code == 0
    assert horizon(file) == 33
    assert not list(file.with_name("alice.yaml.known").glob("*.tried.json"))


def test_a_try_that_fails_is_no_failure_and_not_made_again_that_day(here: Place) -> None:
    file = aged(here, here.client("alice"), 40)
    done = knock(here, file)  # nobody serves
    assert (done.code, done.out) == (0, "")
    (tried,) = file.with_name("alice.yaml.known").glob("*.tried.json")
    with here.serving():
        assert knock(here, file).code == 0
        assert horizon(file) == 13
        day = 86400
        tried.write_text(json.dumps({"tried": json.loads(tried.read_text())["tried"] - day}))
        assert knock(here, file).code == 0
        assert horizon(file) == 53


def test_below_eight_weeks_every_knock_and_status_says_so_with_the_cure(here: Place) -> None:
    file = aged(here, here.client("alice"), 46)
    for words in (["knock", "--ip", TARGET], ["knock", "--check", "--ip", TARGET], ["status"]):
        done = here.run("--client-config", str(file), *words)
        (line,) = (line for line in done.err.splitlines() if "has epoch keys until" in line)
        assert re.match(r"openme: warning: profile default has epoch keys until \d{4}-\d\d-\d\d, ", line)
        assert "openme renew NAME" in line
    with here.serving():
        assert "has epoch keys until" not in knock(here, file, "--check").err
    assert horizon(file) == 53


def test_continuous_knocking_fetches_them_too(here: Place) -> None:
    file = aged(here, here.client("alice"), 40)
    with here.serving():
        words = here.command("--client-config", str(file), "knock", "--ip", TARGET, "--continuous", "--interval", "1h")
        running = subprocess.Popen(words, env=here.environment, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 20
            while horizon(file) < 53 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert horizon(file) == 53
        finally:
            running.kill()
            running.wait()


def test_the_server_warns_by_what_was_fetched_and_otherwise_by_the_file(here: Place) -> None:
    here.set("epoch_horizon", "5")
    file = here.client("alice")
    assert "has fetched no receipt since; a new file: openme renew alice" in here.ok("epochs").err
    with here.serving():
        assert knock(here, file).code == 0  # offered, and not fetched: three of five weeks are enough
        assert "alice has keys until" in here.ok("epochs").err
        assert knock(here, file, "--check").code == 0
        until(lambda: "alice has fetched keys until" in here.ok("epochs").err, "the receipt is counted")
        assert "on one device at least; a new file: openme renew alice" in here.ok("epochs").err
    here.set("epoch_horizon", "53")
    with here.serving():
        assert knock(here, file, "--check").code == 0
        until(lambda: "alice" not in here.ok("epochs").err, "it has keys for a year")


class _Order:
    """Stands in for `subprocess.Popen` and `renewal.fetch`, and notes who came first."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def popen(self, words: list[str], *, stdout: None) -> "_Order":
        assert stdout is None
        self.events.append(f"run {words[-1]}")
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.events.append("ended")

    def wait(self) -> int:
        self.events.append("wait")
        return 0

    async def fetch(self, *_: object) -> None:
        self.events.append("fetch")


def test_post_knock_is_never_kept_waiting_for_keys(here: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    file = aged(here, here.client("alice"), 40, post_knock="ssh host")
    order = _Order()
    monkeypatch.setattr(subprocess, "Popen", order.popen)
    monkeypatch.setattr(policy, "fetch", order.fetch)
    args = argparse.Namespace(
        client_config=file, profile=None, ip=TARGET, check=False, continuous=False, json=False, config=None
    )
    assert command.KNOCK.run(args) == 0
    assert order.events == ["run ssh host", "fetch", "wait", "ended"]


def test_a_receipt_of_a_false_server_brings_nothing(here: Place) -> None:
    file = aged(here, here.client("alice"), 40)
    here.ok("rotate", "ratchet")
    with here.serving():
        assert knock(here, file).code == 0
    assert horizon(file) == 13
