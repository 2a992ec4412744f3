"""How long the server's file takes to read, and a client to add, for 100, 1,000 and 10,000 clients."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from openme.config.edit import add_client
from openme.config.nodes import compose
from openme.config.server import load_server_config
from openme.config.template import render_server_config
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey

T = TypeVar("T")

SIZES = (100, 1_000, 10_000)


def server_file(clients: int) -> str:
    """A server's file in which every client has a key, two port lists and an expiry."""
    head = render_server_config(ServerPrivateKey(b"\x07" * 32)).replace("clients: {}\n", "clients:\n")
    entries = (
        f"  user{i}:\n    ed25519_pubkey: {ClientPrivateKey(i.to_bytes(32, 'big')).public}\n"
        f"    allowed_ports: [default, {1024 + i}/tcp]\n    expires: 2031-01-01T00:00:00Z\n"
        for i in range(1, clients + 1)
    )
    return head + "".join(entries)


def timed(action: Callable[..., T], *arguments: object) -> tuple[float, T]:
    """Seconds that one call takes, and its result."""
    start = time.perf_counter()
    result = action(*arguments)
    return time.perf_counter() - start, result


def main() -> None:
    """Print a line per size, each with its ratio to the line above, which is 10 where time grows with size."""
    print("clients   YAML alone    first load    loaded again    add one    first load against the line above")
    before = 0.0
    with tempfile.TemporaryDirectory() as directory:
        for size in SIZES:
            path = Path(directory) / f"{size}.yaml"
            text = server_file(size)
            path.write_text(text, encoding="utf-8")
            path.chmod(0o600)
            tree, _ = timed(compose, text, path)
            first, config = timed(load_server_config, path)
            again, _ = timed(load_server_config, path)
            fields = {"ed25519_pubkey": str(ClientPrivateKey(b"\xff" * 32).public), "allowed_ports": ["22/tcp"]}
            added, _ = timed(add_client, path, "one-more", fields)
            ratio = f"{first / before:.1f}" if before else "-"
            figures = f"{tree:8.3f} s    {first:8.3f} s    {again:10.3f} s    {added:.3f} s    {ratio}"
            print(f"{len(config.clients):7}   {figures}")
            before = first


if __name__ == "__main__":
    main()
