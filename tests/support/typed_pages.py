"""What the documentation tells an administrator to type, typed as it stands on two freshly installed Debians.

with ExitStack() as stack:
    hour = Hour(stack, "trixie", folder)
    install, *steps = readme_blocks()
    install_openme(hour, install, tmp_path)
    hour.step("2", hour.server, hour.server.terminal(), steps[0])
"""

import re
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from packaging.markers import Marker

from support.fresh_debian import ADMIN, FreshDebian, Terminal
from support.guest_image import CHECKOUT
from support.netns import connect, v4, v6

NAME = "server.example.org"
SUITES = {"bookworm": "3.11", "trixie": "3.13"}
"""Debian 12 and 13, and the Python of each."""
_SECTION = re.compile(r"^## A first server\n(.*?)^## ", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ROOT_SHELL = ((r"root@server:~# ", "exit\n"),)
# What differs from one run to the next, and what stands for it. The first address of each family is the client's.
_VARIES = (
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


def readme_blocks() -> list[Block]:
    section = _SECTION.search((CHECKOUT / "README.md").read_text(encoding="utf-8"))
    assert section is not None
    return [Block(*found) for found in _BLOCK.findall(section[1])]


def alike(text: str) -> list[str]:
    for pattern, word in _VARIES:
        text = re.sub(pattern, word, text)
    return [line.strip() for line in text.strip().splitlines()]


class Hour:
    """Two machines, server and laptop, and the clock."""

    def __init__(self, stack: ExitStack, suite: str, folder: Path, devices: Sequence[str] = ()) -> None:
        """`devices` of this machine that both of them have."""
        self.suite = suite
        self.server = FreshDebian(stack, suite, "server", folder / "server", devices)
        self.client = FreshDebian(stack, suite, "laptop", folder / "laptop", devices)
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
            code, text = terminal.type(command, 400, _ROOT_SHELL if command.endswith(f"ssh root@{NAME}") else ())
            self.told.append(terminal.seen[before:].rstrip())
            expected = 3 if command == "openme status" else 0
            if code != expected:
                text += terminal.type("sudo journalctl --no-pager -n 40")[1]
            assert code == expected, f"{command}: exit code {code}\n{text}"
            if shown:
                assert alike(text) == alike(shown), command
        self.told.append(f"-- {time.monotonic() - began:.1f} s")


def _wanted_by(version: str) -> str:
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


def _packages(hour: Hour, folder: Path) -> Path:
    """The Python packages, fetched by this machine's pip as it is set up here; in there pip has them from a folder."""
    version = SUITES[hour.suite]
    wanted = folder.with_suffix(".txt")
    wanted.write_text(_wanted_by(version))
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


def install_openme(hour: Hour, install: Block, folder: Path, *more: str) -> None:
    """Install openme on both machines as the README says, with `more` of Debian's packages, and boot them."""
    source = folder / "openme.git"
    subprocess.run(["git", "clone", "--quiet", "--bare", CHECKOUT, source], check=True)
    wheels = _packages(hour, folder / "packages")
    for machine in (hour.server, hour.client):
        machine.write("etc/apt/apt.conf.d/90yes", 'APT::Get::Assume-Yes "true";\nDpkg::Use-Pty "false";\n')
        machine.write("etc/pip.conf", "[global]\nno-index = true\nfind-links = /srv/packages\n")
        with machine.installing((source, "/srv/openme.git"), (wheels, "/srv/packages")) as terminal:
            assert terminal.type("sudo apt-get update -qq")[0] == 0
            if more:
                assert terminal.type(f"sudo apt-get install -qq {' '.join(more)}", 400)[0] == 0
            install.commands = [
                (command.replace("WHERE-OPENME-IS", "/srv/openme.git").replace("install git", "install -qq git"), "")
                for command, _ in install.commands
            ]
            hour.step("1", machine, terminal, install)
        machine.boot()
