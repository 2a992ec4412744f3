"""The README's first server, typed as it stands by a user with sudo on two freshly installed Debians.

What was typed, what was shown and how long each step took is left in .cache/first-hour-SUITE.txt.
"""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.guest_image import CHECKOUT
from support.typed_pages import NAME, SUITES, Hour, install_openme, readme_blocks

pytestmark = [pytest.mark.root, pytest.mark.timeout(1500)]

UNDO = re.compile(r"^To undo everything: `([^`]+)`", re.MULTILINE)


@pytest.fixture(params=SUITES)
def hour(request: pytest.FixtureRequest) -> Iterator[Hour]:
    folder = CHECKOUT / ".cache" / f"first-hour-{request.param}"
    with ExitStack() as stack:
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)
        folder.mkdir(parents=True)
        stack.callback(lambda: subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True))
        made = Hour(stack, request.param, folder)
        yield made
    folder.with_suffix(".txt").write_text("\n".join(made.told) + "\n")


def test_the_first_server_of_the_readme_works_as_typed(hour: Hour, tmp_path: Path) -> None:
    install, init, add, fetch, trial, knock, service, again, sessions = readme_blocks()
    began = time.monotonic()
    install_openme(hour, install, tmp_path)
    server, client = hour.server.terminal(), hour.client.terminal()
    hour.step("2", hour.server, server, init)
    hour.step("3", hour.server, server, add)
    hour.step("4", hour.client, client, fetch)

    *before, (try_it, _) = trial.commands
    trial.commands = before
    hour.step("5", hour.server, server, trial)
    shown = len(server.seen)
    server.start(try_it)
    server.shows("hidden")
    hour.step("5", hour.client, client, knock)
    server.interrupt()
    hour.told.append(server.seen[shown:])

    hour.step("6", hour.server, server, service)
    code, _ = client.type(f"ssh -o ConnectTimeout=3 {NAME} true")
    assert code == 255, "port 22 is open without a knock"
    hour.step("6", hour.client, client, again)
    hour.step("7", hour.server, server, sessions)
    (undo,) = UNDO.findall((CHECKOUT / "README.md").read_text(encoding="utf-8"))
    assert server.type(undo)[0] == 0
    assert server.type("sudo nft list ruleset")[1].strip() == ""
    assert client.type(f"ssh {NAME} true")[0] == 0
    hour.told.append(f"\n== all of it: {time.monotonic() - began:.0f} s")
