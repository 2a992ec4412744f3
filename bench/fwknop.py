"""fwknop 2.6 of Debian, doing what openme does on the same hosts: fwknopd with its packets, keys and rules.

`tools/unpacked fwknop-server fwknop-client` has put it under .cache. It runs as Debian sets it up: libpcap, looked at
every 0.1 s, programs of iptables for each packet (on Debian 12 iptables-nft, so the kernel's nf_tables), and a file of
digests that is not synced. Its clients are stanzas with a key and an HMAC key each, tried one after the other.
"""

import base64
import ctypes
import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address
from pathlib import Path

from bench.processes import tree
from bench.subject import Subject
from bench.world import PEER, World
from support.netns import until

UNPACKED = Path(__file__).parents[1] / ".cache" / "unpacked" / "fwknop-server"
PORT = 62201
SSH = 22
_OPENED = rb"Added access rule to FWKNOP_INPUT for ([0-9.]+)"
_SERVES = "Starting fwknopd main event loop"
_TIMEOUT = 3600
_SHA256 = 3
_START_SECONDS = 300.0


def is_there() -> bool:
    """Whether the program has been fetched."""
    return (UNPACKED / "run").exists()


def keys(number: int) -> tuple[bytes, bytes]:
    """A client's two keys, of 32 and 64 bytes."""
    return hashlib.sha256(b"key %d" % number).digest(), hashlib.sha512(b"HMAC %d" % number).digest()


class Fwknop:
    """Its server, in place of openme's, with port 22 shut to whoever has no rule."""

    def __init__(self, world: World, clients: int) -> None:
        self._world = world
        self._folder = world.folder / "fwknop"
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._clients = clients
        self._stack = ExitStack()
        self._write("fwknopd.conf", f"PCAP_INTF {world.DIRECT};\nFWKNOP_RUN_DIR {self._folder};\n")
        self._write("access.conf", "".join(map(_stanza, range(clients))))

    def _write(self, name: str, text: str) -> None:
        path = self._folder / name
        path.touch(mode=0o600)
        path.write_text(text)

    def __enter__(self) -> Subject:
        log = self._folder / "log"
        self._world.server.run("iptables", "-w", "-A", "INPUT", "-p", "tcp", "--dport", str(SSH), "-j", "DROP")
        with log.open("wb") as output:
            process = subprocess.Popen(
                self._world.server.command(
                    *(str(UNPACKED / "run"), "fwknopd", "--foreground"),
                    *("--config-file", str(self._folder / "fwknopd.conf")),
                    *("--access-file", str(self._folder / "access.conf")),
                ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._stack.callback(_end, process)
        until(lambda: _SERVES in log.read_text(), _START_SECONDS)
        return Subject("fwknop", self._world, PORT, process.pid, log, _OPENED)

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._world.server.nft("flush ruleset")

    def have_open(self, addresses: Sequence[IPv4Address]) -> None:
        """Rules as it makes them, without a program for each."""
        rule = f"-p tcp -m tcp --dport {SSH} -m comment --comment _exp_{int(time.time()) + _TIMEOUT} -j ACCEPT"
        rules = "".join(f"-A FWKNOP_INPUT -s {address}/32 {rule}\n" for address in addresses)
        self._world.server.run("iptables-restore", "-w", "--noflush", stdin=f"*filter\n{rules}COMMIT\n")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Without its own end, before which it works on all that waits."""
    for pid in tree(process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _stanza(number: int) -> str:
    key, mac_key = (base64.b64encode(one).decode() for one in keys(number))
    return (
        f"SOURCE ANY\nOPEN_PORTS tcp/{SSH}\nKEY_BASE64 {key}\nHMAC_KEY_BASE64 {mac_key}\n"
        f"FW_ACCESS_TIMEOUT {_TIMEOUT}\nMAX_FW_TIMEOUT {_TIMEOUT}\n\n"
    )


class Packets:
    """fwknop's own library (libfko), which makes a packet without a process for each."""

    def __init__(self) -> None:
        for name in ("libgpgme.so.11", "libfko.so.3"):
            self._library = ctypes.CDLL(_library(name), mode=ctypes.RTLD_GLOBAL)

    def knocks(self, wanted: Sequence[tuple[int, IPv4Address]]) -> list[bytes]:
        """A packet for each (client, address), made now."""
        return [self._knock(*keys(client), address) for client, address in wanted]

    def _knock(self, key: bytes, mac_key: bytes, address: IPv4Address) -> bytes:
        context, data = ctypes.c_void_p(), ctypes.c_char_p()
        library = self._library
        _check(library.fko_new(ctypes.byref(context)))
        try:
            _check(library.fko_set_username(context, b"bench"))
            _check(library.fko_set_spa_message(context, f"{address},tcp/{SSH}".encode()))
            _check(library.fko_set_spa_hmac_type(context, _SHA256))
            _check(library.fko_spa_data_final(context, key, len(key), mac_key, len(mac_key)))
            _check(library.fko_get_spa_data(context, ctypes.byref(data)))
            assert data.value is not None
            return data.value
        finally:
            library.fko_destroy(context)


def _library(name: str) -> str:
    """Where it is: unpacked, or else in the system."""
    return str(next(iter(_libraries().glob(name)), name))


def _check(code: int) -> None:
    if code != 0:
        raise RuntimeError(f"libfko says {code}")


def command(folder: Path) -> tuple[list[str], dict[str, str]]:
    """The client, as `openme knock` is run: start, one packet, end. Its arguments, and variables that it needs."""
    key, mac_key = (base64.b64encode(one).decode() for one in keys(0))
    settings = folder / "fwknoprc"
    settings.touch(mode=0o600)
    settings.write_text(
        f"[server]\nSPA_SERVER {PEER}\nALLOW_IP source\nACCESS tcp/{SSH}\nKEY_BASE64 {key}\n"
        f"HMAC_KEY_BASE64 {mac_key}\nUSE_HMAC Y\n"
    )
    words = [str(UNPACKED / "root/usr/bin/fwknop"), "--rc-file", str(settings), "--named-config", "server"]
    return words, {"LD_LIBRARY_PATH": str(_libraries())}


def _libraries() -> Path:
    return next((UNPACKED / "root/usr/lib").glob("*-linux-*"))
