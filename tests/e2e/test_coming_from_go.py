"""What docs/coming-from-go.md shows, run in its order: on a file as existing tools write it, with rules that the
existing server has left and a package that stops `openme.service` when it is removed.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.server import ServerWorld

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/coming-from-go.md"
WRITTEN = ROOT / "tests/unit/config/files/written-by-go.yaml"
COMMANDS = re.compile(r"^ *```sh\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
NOT_RUN = "openme try 2m"  # waits for a person; tests/e2e/test_try.py does it
LEFT = """
table inet filter {
    chain openme { ip saddr 192.0.2.9 tcp dport 22 accept comment "openme"; }
    chain input { type filter hook input priority 0; policy accept; jump openme comment "openme-jump"; }
}
"""
# Each says what it was called with; the package's removal stops the unit of its name, and its installation starts it.
SYSTEMCTL = '#!/bin/sh\necho "systemctl $*" >> {log}\n'
APT_GET = '#!/bin/sh\necho "apt-get $*" >> {log}\n[ "$1" != remove ] || systemctl stop openme.service\n'


def test_every_command_of_the_page_works_in_its_order(world: ServerWorld) -> None:
    """With the paths of the page moved into a directory of the test's."""
    etc, state, log, programs = (world.folder / name for name in ("etc", "old-state", "calls", "programs"))
    for directory in (etc / "openme", etc / "systemd/system", programs):
        directory.mkdir(parents=True)
    config = etc / "openme/config.yaml"
    config.write_text(WRITTEN.read_text().replace("    host:", f"    state_dir: {state}\n    host:"))
    config.chmod(0o640)
    state.mkdir(mode=0o700)
    before = config.read_text()
    for name, text in (("systemctl", SYSTEMCTL), ("apt-get", APT_GET), ("sudo", '#!/bin/sh\nexec "$@"\n')):
        (programs / name).write_text(text.format(log=log))
        (programs / name).chmod(0o755)
    openme = f"{Path(sys.executable).with_name('openme')} --config {config}"
    world.server.nft(LEFT)
    said = ""
    assert PAGE.read_text().count(NOT_RUN) == 1
    for line in "".join(COMMANDS.findall(PAGE.read_text())).splitlines():
        command = line.strip()
        if command.endswith(NOT_RUN):
            continue
        command = command.replace("/opt/openme/venv/bin/openme", openme).replace(
            "/opt/openme/packaging", f"{ROOT}/packaging"
        )
        command = re.sub(r"(?<![\w/])/etc/", f"{etc}/", command)
        done = subprocess.run(
            world.server.command("sh", "-c", f"PATH={programs}:$PATH; {command}"),
            capture_output=True,
            text=True,
            check=False,
        )
        # Nobody serves in this test, so there is nobody to ask who is in.
        assert done.returncode == 0 or command.endswith(" sessions"), f"{line}\n{done.stdout}{done.stderr}"
        said += done.stdout + done.stderr
    assert "removed: the existing server has left" in said
    assert "version 2 is ready" in said
    assert "epoch_keys:" in said
    assert config.read_text() == before
    calls = log.read_text().splitlines()
    assert calls.index("systemctl stop openme.service") < calls.index("systemctl enable --now openme")
