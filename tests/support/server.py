"""A world for end-to-end tests: the real `openme serve` on a real firewall, a client, and a stranger.

    +-----------------------+    +-----------------------+    +-----------------------+
    |  server               |    |  client               |    |  stranger             |
    |  openme serve         |    |  openme knock         |    |  nmap, forged knocks  |
    |  192.0.2.1            |    |  192.0.2.2            |    |  192.0.2.3            |
    |  2001:db8::1    eth0  |    |  2001:db8::2    eth0  |    |  2001:db8::3    eth0  |
    +-------------------+---+    +-------------------+---+    +-------------------+---+
                        |                            |                            |
    +-------------------+----------------------------+----------------------------+---+
    |  switch (a namespace with a bridge)                                             |
    +---------------------------------------------------------------------------------+

    with ExitStack() as stack:
        world = ServerWorld(stack, tmp_path)
        alice = world.add("alice")
        world.serve(tcp=[22])
        world.start()
        assert world.tcp(world.client, 22) == "filtered"
        world.knock(alice, "--check")
        assert world.tcp(world.client, 22) == "open"

All of it is gone when the stack closes: processes, namespaces, rules.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Literal

from openme.client.knock import build
from openme.config.profile import load_client_config
from openme.config.profile_model import Profile
from openme.config.server import load_server_config
from openme.errors import OpenmeError
from openme.run_dir import RUN_DIR
from openme.store.places import beside
from openme.wire.knock import IPAddress
from support.control import asked
from support.netns import Namespace, add_addresses, namespace, until, v4, v6

OPENME = str(Path(sys.executable).with_name("openme"))
SERVER = {4: v4(1), 6: v6(1)}
CLIENT = {4: v4(2), 6: v6(2)}
STRANGER = {4: v4(3), 6: v6(3)}
KNOCK_PORT = 54154
UNUSED = 4000  # a port that nothing uses and no config names
WAIT = 0.2  # seconds without an answer that mean silence: between namespaces a packet needs microseconds

Seen = Literal["open", "closed", "filtered"]

# Echoes what comes, TCP and UDP, both families; says "ready" when all ports are bound.
_ECHO = """
import json, socket, sys, threading

def stream(connection):
    with connection:
        while data := connection.recv(65536):
            connection.sendall(data)

def accepting(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=stream, args=(connection,), daemon=True).start()

def datagrams(service):
    while True:
        data, sender = service.recvfrom(65536)
        service.sendto(data, sender)

tcp, udp = json.loads(sys.argv[1])
threads = []
for port in tcp:
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
    threads.append(threading.Thread(target=accepting, args=(listener,)))
for port in udp:
    service = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    service.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    service.bind(("::", port))
    threads.append(threading.Thread(target=datagrams, args=(service,)))
for thread in threads:
    thread.start()
print("ready", flush=True)
"""


class ServerWorld:
    """Namespaces, config and the server's process. The config is there from the start; `start` begins to serve."""

    def __init__(self, stack: ExitStack, folder: Path, **settings: object) -> None:
        """`settings`: keys of `server:` in the config, as YAML values, such as `knock_timeout="3s"`."""
        self.stack = stack
        self.folder = folder
        self.server, self.client, self.stranger, self.switch = (namespace(stack) for _ in range(4))
        _connect(self.switch, self.server, self.client, self.stranger)
        self.config = folder / "config.yaml"
        self.state_dir = folder / "state"
        self.state_file = folder / "sessions.json"
        self.process: subprocess.Popen[bytes] | None = None
        self.runs = 0
        self.openme(
            self.server, "--config", self.config, "init", "--server", SERVER[4], "--state-dir", self.state_dir, code=0
        )
        if settings:
            self.edit(**settings)
        stack.callback(self.forget_newest)
        stack.callback(self.kill)

    # -- the operator

    def edit(self, **settings: object) -> None:
        """Set keys of `server:` as an editor would that saves by renaming; None takes a key away."""
        text = self.config.read_text()
        for key, value in settings.items():
            line = "" if value is None else f"  {key}: {_yaml(value)}\n"
            found = re.search(rf"^  (# )?{key}:.*\n", text, re.MULTILINE)
            old, new = (found[0], line) if found else ("server:\n", f"server:\n{line}")
            text = text.replace(old, new, 1)
        self.write_config(text)

    def set_ports(self, **groups: str) -> None:
        """Replace the groups under `ports:`, each a YAML list such as `[22/tcp, 8080-8090]`."""
        lines = "".join(f"  {name}: {value}\n" for name, value in groups.items())
        self.write_config(
            re.sub(r"^ports:\n(  .*\n)*", lambda _: f"ports:\n{lines}", self.config.read_text(), flags=re.MULTILINE)
        )

    def write_config(self, text: str) -> None:
        """Put another file in the config's place."""
        beside = self.config.with_suffix(".new")
        beside.touch(mode=0o600)
        beside.write_text(text)
        beside.replace(self.config)

    def add(self, name: str, *words: str, server_host: str | None = None, lines: str = "") -> Path:
        """`openme add`: the new client's profile file. `lines` are added to the profile."""
        text = self.openme(self.server, "--config", self.config, "add", name, *words, code=0).stdout
        path = self.folder / f"{name}.yaml"
        path.touch(mode=0o600)
        path.write_text(text + "".join(f"    {line}\n" for line in lines.splitlines()))
        return path if server_host is None else self.at(path, server_host)

    def at(self, profile: Path, server_host: str) -> Path:
        """The same profile for another name or address of the server."""
        path = profile.with_name(f"{profile.stem}-{re.sub('[^a-z0-9]', '-', server_host)}.yaml")
        path.touch(mode=0o600)
        path.write_text(re.sub(r"server_host: .*", f'server_host: "{server_host}"', profile.read_text()))
        return path

    def revoke(self, name: str) -> None:
        """`openme revoke`."""
        self.openme(self.server, "--config", self.config, "revoke", name, code=0)

    def start(self, *words: str, log_level: str = "debug", prefix: Iterable[str] = ()) -> None:
        """Start the server and wait until it serves; AssertionError with its log if it does not."""
        self.begin(*words, log_level=log_level, prefix=prefix)
        until(self._serves)

    def begin(
        self, *words: str, log_level: str = "debug", prefix: Iterable[str] = (), command: str = "serve"
    ) -> subprocess.Popen[bytes]:
        """Start the server without waiting. `prefix` is a command that runs it, such as setpriv."""
        self.runs += 1
        serve = [OPENME, "--config", str(self.config), "--log-level", log_level, command]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                self.server.command(*prefix, *serve, "--state-file", str(self.state_file), *words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.process

    def _serves(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the server ended with {self.process.returncode}:\n{self.log()}"
        try:
            self.ask("sessions")
        except OpenmeError:
            return False
        return True

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """Wait for the server's end, 10 seconds at most; the exit code."""
        assert self.process is not None
        return self.process.wait(10)

    def kill(self) -> None:
        """SIGKILL for every process of the server, as the kernel does when memory runs out; no error if none runs."""
        if self.process is None:
            return
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def forget_newest(self) -> None:
        """What a restart of the machine would take away."""
        beside(RUN_DIR, "newest", self.state_dir).unlink(missing_ok=True)

    def restart(self, *words: str) -> None:
        """Stop and start."""
        assert self.stop() == 0
        self.start(*words)

    def pids(self) -> list[int]:
        """The server's processes: the keeper, then its children, the listener and its guardian."""
        if self.process is None or self.process.poll() is not None:
            return []
        pid = self.process.pid
        with suppress(OSError):
            return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        return [pid]

    @property
    def log_path(self) -> Path:
        """Where the last start logs to."""
        return self.folder / f"serve-{self.runs}.log"

    def log(self) -> str:
        """What the server has said since its last start."""
        return self.log_path.read_text()

    def says(self, text: str, seconds: float = 20) -> None:
        """Wait until the log has this text."""
        try:
            until(lambda: text in self.log(), seconds)
        except AssertionError:
            raise AssertionError(f"{text!r} is not in the log:\n{self.log()}") from None

    def ask(self, command: str, **values: object) -> dict[str, Any]:
        """A request over the control socket, without the time that a command line takes."""
        return asked(self.state_dir, command, values)

    def sessions(self) -> list[dict[str, Any]]:
        """Who is in, as the server tells it."""
        found: list[dict[str, Any]] = self.ask("sessions")["active_sessions"]
        return found

    def openme(
        self, host: Namespace, *words: object, code: int | None = None, hosts: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command line on a host; AssertionError if it ends with another code. `hosts` stands for /etc/hosts."""
        # `ip netns exec` gives the program a mount namespace of its own, so that the bind stays in there.
        bound = [] if hosts is None else ["sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
        done = subprocess.run(
            host.command(*bound, OPENME, *map(str, words)), capture_output=True, text=True, check=False, timeout=30
        )
        assert code is None or done.returncode == code, f"{words} ended with {done.returncode}: {done.stderr}"
        return done

    # -- the client

    def knock(
        self,
        profile: Path,
        *words: object,
        host: Namespace | None = None,
        code: int | None = 0,
        hosts: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """`openme knock` on the client, or on another host."""
        return self.openme(host or self.client, "--client-config", profile, "knock", *words, code=code, hosts=hosts)

    def status(self, profile: Path, *words: object, code: int | None = None) -> subprocess.CompletedProcess[str]:
        """`openme status` on the client."""
        return self.openme(self.client, "--client-config", profile, "status", *words, code=code)

    @staticmethod
    def profile(path: Path) -> Profile:
        """The profile in a file that `add` made."""
        return next(iter(load_client_config(path).profiles.values()))

    def packet(self, profile: Path, *, target: IPAddress | None = None, late: float = 0) -> bytes:
        """A fresh knock, signed `late` seconds ago, for sending with `send`."""
        return build(self.profile(profile), target, time.time_ns() - round(late * 10**9)).datagram

    def send(
        self, *datagrams: bytes, host: Namespace | None = None, version: int = 4, source: str | None = None
    ) -> None:
        """Send datagrams to the knock port, in this process: as fast as it goes."""
        with closing(self.socket_on(host or self.client, socket.SOCK_DGRAM, version, source)) as sender:
            for datagram in datagrams:
                sender.sendto(datagram, (SERVER[version], KNOCK_PORT))

    def opens(self, profile: Path, *, version: int = 4, host: Namespace | None = None, port: int = KNOCK_PORT) -> None:
        """Knock by hand and wait until the port is open, without the time that a command line takes."""
        self.send(self.packet(profile), host=host, version=version)
        until(lambda: self.tcp(host or self.client, port, version) == "open", 5)

    # -- services, and what others see of them

    def serve(self, tcp: Iterable[int] = (), udp: Iterable[int] = ()) -> subprocess.Popen[str]:
        """Echo services on the server, over both families."""
        process = self.server.popen(sys.executable, "-c", _ECHO, json.dumps([list(tcp), list(udp)]))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def socket_on(
        self, host: Namespace, kind: socket.SocketKind, version: int = 4, source: str | None = None
    ) -> socket.socket:
        """A socket that lives on a host."""
        with host.entered():
            made = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
        made.settimeout(WAIT)
        if source is not None:
            made.bind((source, 0))
        return made

    def connection(
        self, host: Namespace, port: int, version: int = 4, *, source: str | None = None, wait: float = WAIT
    ) -> socket.socket:
        """Connected, or the OSError of a refusal (ConnectionRefusedError) or of silence (TimeoutError)."""
        made = self.socket_on(host, socket.SOCK_STREAM, version, source)
        self.stack.callback(made.close)
        made.settimeout(wait)
        try:
            made.connect((SERVER[version], port))
        except OSError:
            made.close()  # or TCP would try again later, perhaps through a door that is open by then
            raise
        made.settimeout(5)
        return made

    def tcp(self, host: Namespace, port: int, version: int = 4, *, source: str | None = None) -> Seen:
        """How a TCP port of the server looks from a host, by one attempt to connect."""
        try:
            self.connection(host, port, version, source=source).close()
        except ConnectionRefusedError:
            return "closed"
        except TimeoutError:
            return "filtered"
        return "open"

    def udp(self, host: Namespace, port: int, version: int = 4, *, source: str | None = None) -> Seen:
        """How a UDP port of the server looks from a host; an echo service stands behind one that is open."""
        with closing(self.socket_on(host, socket.SOCK_DGRAM, version, source)) as made:
            made.connect((SERVER[version], port))
            try:
                made.send(b"echo")
                return "open" if made.recv(10) == b"echo" else "closed"
            except ConnectionRefusedError:
                return "closed"
            except TimeoutError:
                return "filtered"

    def nmap(self, host: Namespace, *ports: str, version: int = 4, scan: str = "-sS") -> dict[str, str]:
        """What nmap says of ports, such as `{"22/tcp": "filtered"}`."""
        family = ["-6"] if version == 6 else []
        report = host.run(
            "nmap", *family, scan, "-Pn", "-n", "-vv", "--max-retries", "0", "-p", ",".join(ports), SERVER[version]
        )
        return dict(re.findall(r"^(\d+/(?:tcp|udp))\s+(\S+)", report, re.MULTILINE))

    def private_key(self) -> bytes:
        """The server's private key, for tests that open knocks themselves."""
        return load_server_config(self.config).private_key.raw


def echoes(connection: socket.socket) -> bool:
    """Bytes still go both ways over a connection to an echo service."""
    try:
        connection.sendall(b"still here")
        return connection.recv(100) == b"still here"
    except TimeoutError:
        return False


def _yaml(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _connect(switch: Namespace, *hosts: Namespace) -> None:
    switch.run("ip", "link", "add", "bridge", "type", "bridge", "mcast_snooping", "0")
    switch.run("ip", "link", "set", "bridge", "up")
    for number, host in enumerate(hosts, 1):
        port = f"port{number}"
        switch.run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        switch.run("ip", "link", "set", port, "master", "bridge", "up")
        host.run("ip", "link", "set", "eth0", "up")
        add_addresses(host, number)
