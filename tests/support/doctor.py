"""`openme doctor` as a user runs it on a host of a test's, what its page says of causes, and an NTP server."""

import json
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from support.netns import Namespace
from support.server import OPENME

Side = Literal["client", "server"]
PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"
EPOCH_1900 = 2_208_988_800


def documented(side: Side) -> list[str]:
    """The causes in the page's table for one side."""
    (table,) = re.findall(rf"^\| cause on the {side} \|.*\n\|---.*\n((?:\|.*\n)*)", PAGE.read_text(), re.MULTILINE)
    return re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)


class Told(NamedTuple):
    """What doctor has said: its exit code, the causes in order, and all of its JSON."""

    code: int
    causes: list[str]
    value: dict[str, Any]


def doctor(host: Namespace, side: Side, *words: object, prepared: str = "", ntp: str = "none") -> Told:
    """Run it on a host. `prepared`: shell that runs before it, for mounts that nobody else sees."""
    command = [OPENME, "doctor", "--side", side, "--ntp", ntp, "--json", *map(str, words)]
    done = subprocess.run(
        host.command("sh", "-c", f'{prepared or ":"}\nexec "$@"', "sh", *command),
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.stdout, done.stderr
    value = json.loads(done.stdout)
    return Told(done.returncode, [finding["cause"] for finding in value["findings"]], value)


@contextmanager
def ntp_server(host: Namespace, address: str, *, ahead: float = 0.0) -> Iterator[str]:
    """One whose clock is that many seconds ahead of this machine's; its address."""
    with host.entered():
        answering = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    answering.bind((address, 123))

    def serve() -> None:
        while True:
            question, asker = answering.recvfrom(1024)
            if len(question) < 48:
                return
            now = time.time() + ahead + EPOCH_1900
            stamp = struct.pack("!II", int(now), int(now % 1 * 2**32))
            head = struct.pack("!BBbb4s4s4s", 0x24, 2, 0, -20, b"", b"", b"TEST")
            answering.sendto(head + stamp + question[40:48] + stamp + stamp, asker)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield address
    finally:
        with host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ending:
            ending.sendto(b"end", (address, 123))
        thread.join(10)
        answering.close()
