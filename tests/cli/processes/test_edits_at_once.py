"""Edits of one file by several processes and threads."""

import subprocess
import sys
import threading
from pathlib import Path

from openme.config.edit import add_client
from openme.config.server import load_server_config
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey


def key(number: int) -> str:
    return str(ClientPrivateKey(number.to_bytes(32, "big")).public)


def test_edits_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.touch(0o600)
    path.write_text(f"server:\n  private_key: {ServerPrivateKey(bytes(32)).to_base64()}\n")
    program = (
        "import sys; from pathlib import Path; from openme.config.edit import add_client;"
        "add_client(Path(sys.argv[1]), sys.argv[2], {'ed25519_pubkey': sys.argv[3]})"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", program, path, f"process{n}", key(100 + n)], stderr=subprocess.PIPE)
        for n in range(4)
    ]
    threads = [
        threading.Thread(target=add_client, args=(path, f"thread{n}", {"ed25519_pubkey": key(200 + n)}))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.communicate()[1] for process in others] == [b""] * 4
    names = set(load_server_config(path).clients)
    assert names >= {f"process{n}" for n in range(4)} | {f"thread{n}" for n in range(8)}
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["config.yaml"]
