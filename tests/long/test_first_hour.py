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
from packaging.markers import Marker

from support.fresh_debian import ADMIN, FreshDebian, Terminal
from support.guest_image import CHECKOUT
from support.netns import connect, v4, v6

pytestmark = [pytest.mark.root, pytest.mark.timeout(1500)]

NAME = "server.example.org"
SUITES = {"bookworm": "3.11", "trixie": "3.13"}
"""Debian 12 and 13, and the Python of each."""
SECTION = re.compile(r"^## A first server\n(.*?)^## ", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
UNDO = re.compile(r"^To undo everything: `([^`]+)`", re.MULTILINE)
ROOT_SHELL = ((r"root@server:~# ", "exit\n"),)
# What differs from one run to the next, and what stands for it. The first address of each family is the client's.
VARIES = (
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
    (r"[A-Za-z0-9+/]{43}=", "KEY"),
    (r"\([0-9a-f]{16}\)", "(FINGERPRINT)"),
    (r"\b\d+s\b", "LEFT"),
    (r" +", " "),
)


class Block:
    """One block of commands, with what the README shows under each."""

    def __init__(self, kind: str, text: str) -> None:
        self.commands: list[tuple[str, str]] = []
        for line in text.splitlines():
            if kind == "sh":
                self.commands.append((line.partition("    #")[0], ""))
            elif line.startswith("$ "):
                self.commands.append((line[2:], ""))
            else:
                command, shown = self.commands[-1]
                self.commands[-1] = command, f"{shown}{line}\n"


def blocks() -> list[Block]:
    section = SECTION.search((CHECKOUT / "README.md").read_text(encoding="utf-8"))
    assert section is not None
    return [Block(*found) for found in BLOCK.findall(section[1])]


def alike(text: str) -> list[str]:
    for pattern, word in VARIES:
        text = re.sub(pattern, word, text)
    return [line.strip() for line in text.strip().splitlines()]


class Hour:
    """Two machines, and the clock."""

    def __init__(self, stack: ExitStack, suite: str, folder: Path) -> None:
        self.suite = suite
        self.server = FreshDebian(stack, suite, "server", folder / "server")
        self.client = FreshDebian(stack, suite, "laptop", folder / "laptop")
        self.told: list[str] = []
        connect(self.server.network, self.client.network)
        for machine in (self.server, self.client):
            machine.write(
                "etc/hosts", f"127.0.0.1 localhost {machine.name}\n::1 localhost\n{v4(1)} {NAME}\n{v6(1)} {NAME}\n"
            )
        self._trust()

    def _trust(self) -> None:
        """The way in that every administrator has already: ssh with a key, to a server known by its own."""
        folder = self.client.root / f"home/{ADMIN}/.ssh"
        folder.mkdir(mode=0o700)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "id_ed25519"], check=True)
        public = (folder / "id_ed25519.pub").read_text()
        subprocess.run(["chroot", self.client.root, "chown", "-R", f"{ADMIN}:", f"/home/{ADMIN}/.ssh"], check=True)
        for home in ("root", f"home/{ADMIN}"):
            self.server.write(f"{home}/.ssh/authorized_keys", public, 0o600)
        subprocess.run(["chroot", self.server.root, "chown", "-R", f"{ADMIN}:", f"/home/{ADMIN}/.ssh"], check=True)
        host_key = (self.server.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text()
        self.client.write("etc/ssh/ssh_known_hosts", f"{NAME},{v4(1)},{v6(1)} {host_key}")

    def step(self, number: str, machine: FreshDebian, terminal: Terminal, block: Block) -> None:
        """Type one block; every command succeeds and shows what the README shows."""
        self.told.append(f"\n== {number}, on the {machine.name}")
        began = time.monotonic()
        for command, shown in block.commands:
            before = len(terminal.seen)
            code, text = terminal.type(command, 400, ROOT_SHELL if command.endswith(f"ssh root@{NAME}") else ())
            self.told.append(terminal.seen[before:].rstrip())
            expected = 3 if command == "openme status" else 0
            if code != expected:
                text += terminal.type("sudo journalctl --no-pager -n 40")[1]
            assert code == expected, f"{command}: exit code {code}\n{text}"
            if shown:
                assert alike(text) == alike(shown), command
        self.told.append(f"-- {time.monotonic() - began:.1f} s")


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


def wanted_by(version: str) -> str:
    """The locked packages that this Python needs: pip reads their markers as for the Python that it runs on itself."""
    entries: list[str] = []
    for line in (CHECKOUT / "requirements/run.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith((" ", "#")):
            entries[-1:] = [f"{entries[-1]}\n{line}"] if entries else []
            continue
        name, _, marker = line.removesuffix("\\").partition(";")
        if not marker or Marker(marker).evaluate({"python_full_version": f"{version}.0", "python_version": version}):
            entries.append(f"{name} \\")
        else:
            entries.append("# left out \\")
    return "\n".join(entries) + "\n"


def packages(hour: Hour, folder: Path) -> Path:
    """The Python packages, fetched by this machine's pip as it is set up here; in there pip has them from a folder."""
    version = SUITES[hour.suite]
    wanted = folder.with_suffix(".txt")
    wanted.write_text(wanted_by(version))
    subprocess.run(
        [
            *(
                CHECKOUT / ".venv/bin/python",
                "-m",
                "pip",
                "download",
                "--quiet",
                "--quiet",
                "--quiet",
                "--dest",
                folder,
            ),
            *("--only-binary=:all:", f"--python-version={version}", f"--abi=cp{version.replace('.', '')}"),
            *("--abi=abi3", "--abi=none", "--platform=manylinux_2_28_x86_64", "--platform=manylinux2014_x86_64"),
            *("--platform=any", "--require-hashes", "-r", wanted),
        ],
        check=True,
    )
    return folder


def test_the_first_server_of_the_readme_works_as_typed(hour: Hour, tmp_path: Path) -> None:
    install, init, add, fetch, trial, knock, service, again, sessions = blocks()
    source = tmp_path / "openme.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", CHECKOUT, source], check=True)
    wheels = packages(hour, tmp_path / "packages")
    began = time.monotonic()
    for machine in (hour.server, hour.client):
        machine.write("etc/apt/apt.conf.d/90yes", 'APT::Get::Assume-Yes "true";\nDpkg::Use-Pty "false";\n')
        machine.write("etc/pip.conf", "[global]\nno-index = true\nfind-links = /srv/packages\n")
        with machine.installing((source, "/srv/openme.git"), (wheels, "/srv/packages")) as terminal:
            assert terminal.type("sudo apt-get update -qq")[0] == 0
            install.commands = [
                (command.replace("WHERE-OPENME-IS", "/srv/openme.git").replace("install git", "install -qq git"), "")
                for command, _ in install.commands
            ]
            hour.step("1", machine, terminal, install)
        machine.boot()
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
