"""What the README shows of a first server is what the commands print, line by line."""

import re
import shlex
from pathlib import Path

import pytest

from support.command import Place, place

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
HOST, PORT, CONFIG, STATE = "server.example.org", "54154", "/etc/openme/config.yaml", "/var/lib/openme"
KEY, FINGERPRINT = re.compile(r"(?m)^[A-Za-z0-9+/]{43}=$"), re.compile(r"\([0-9a-f]{16}\)")


def shown(command: str) -> str:
    """What stands below a command in one of the README's transcripts."""
    for block in re.findall(r"(?ms)^```console\n(.*?)^```$", README):
        for step in re.split(r"(?m)^\$ ", block)[1:]:
            line, _, output = step.partition("\n")
            if line.removeprefix("sudo ") == command:
                return str(output)
    raise AssertionError(f"the README does not show: {command}")


def alike(text: str) -> str:
    """A transcript without what differs from one key to the next."""
    return FINGERPRINT.sub("(FINGERPRINT)", KEY.sub("KEY", text))


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return place(tmp_path)


def printed(here: Place, command: str, *more: str) -> str:
    """What it prints on a terminal, stdout and stderr in their order, with the README's host, port and places."""
    words = command.replace(HOST, "localhost").removeprefix("openme ")
    done = here.shell(f"openme {words} {shlex.join(more)} 2>&1")
    text = done.out
    for ours, theirs in {here.config: CONFIG, here.state: STATE, here.port: PORT, "localhost": HOST}.items():
        text = text.replace(str(ours), theirs)
    return text


def test_the_first_server_of_the_readme(here: Place) -> None:
    init = f"openme init --server {HOST}"
    words = ["--port", str(here.port), "--state-dir", str(here.state)]
    assert alike(printed(here, init, *words)) == alike(shown(init))
    add = "openme add alice --out alice.yaml"
    assert alike(printed(here, add)) == alike(shown(add))
    here.set("firewall", "memory")  # what stands in this machine's own is not of the README
    assert printed(here, "openme check-config") == shown("openme check-config")
    status = printed(here, "openme status", "--client-config", "alice.yaml")
    assert [line for line in status.splitlines() if "--config names" not in line] == shown("openme status").splitlines()


def test_the_transcripts_are_found_and_compared() -> None:
    assert "KEY\n" in alike(shown(f"openme init --server {HOST}"))
    assert "(FINGERPRINT)" in alike(shown("openme add alice --out alice.yaml"))
    with pytest.raises(AssertionError, match="does not show"):
        shown("openme nonsense")
