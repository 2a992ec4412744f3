"""A client's key that the client makes itself, as docs/key-management.md shows it."""

import re
import stat
import subprocess
from pathlib import Path

from openme.config.profile import load_client_config
from openme.config.server import load_server_config
from support.command import place

PAGE = Path(__file__).parents[2] / "docs/key-management.md"


def test_a_key_that_openssl_makes_is_a_clients_key(tmp_path: Path) -> None:
    here = place(tmp_path)
    here.prepare()
    (commands,) = re.findall(r"^```sh\n(umask 077\nopenssl .*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        ["sh", "-eu", "-c", commands], cwd=here.root, capture_output=True, text=True, check=True, timeout=60
    )
    public, private = done.stdout.split()
    assert stat.S_IMODE((here.root / "alice.key").stat().st_mode) == 0o600

    path = here.root / "alice.yaml"
    here.ok("add", "alice", "--pubkey", public, "--out", str(path))
    assert "private" not in path.read_text("utf-8")
    public_line = re.compile(r"^( +)public_key: .*", re.MULTILINE)
    path.write_text(public_line.sub(rf"\g<0>\n\1private_key: {private}", path.read_text("utf-8")))
    profile = load_client_config(path).profiles["default"]  # refuses two halves that do not belong together
    assert profile.private_key is not None
    assert load_server_config(here.config).clients["alice"].public_key == profile.public_key
