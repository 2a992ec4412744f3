"""SSH agents: OpenSSH's own, and one in a thread that says what a test wants."""

import base64
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from openme.client.agent_messages import LENGTH_SIZE
from openme.keys.ed25519 import ClientPrivateKey, ClientPublicKey
from openme.keys.ssh_data import number, string
from support.command import until

FAILURE, SUCCESS = b"\x05", b"\x06"
LIST, SIGN, EXTENSION = 11, 13, 27
ADD_SECONDS = 60

Says = Callable[[bytes], bytes | None]


def listing(*keys: tuple[bytes, str]) -> bytes:
    """The answer that an agent with these keys, as SSH writes them, and their comments gives."""
    return b"\x0c" + number(len(keys)) + b"".join(string(blob) + string(comment.encode()) for blob, comment in keys)


def signature(signed: bytes) -> bytes:
    """The answer that is this Ed25519 signature."""
    return b"\x0e" + string(string(b"ssh-ed25519") + string(signed))


def having(*keys: ClientPrivateKey, refuses: bool = False, constrained: bool = False) -> Says:
    """What an agent with these keys says. `constrained`: it names none once a connection serves a host."""
    bound = False

    def says(request: bytes) -> bytes:
        nonlocal bound
        if request[0] == LIST:
            held = () if bound and constrained else keys
            return listing(*((key.public.ssh_blob, f"key {at}") for at, key in enumerate(held)))
        if request[0] == EXTENSION:
            bound = constrained
            return SUCCESS
        for key in keys:
            head = b"\x0d" + string(key.public.ssh_blob)
            if request.startswith(head) and not refuses:
                return signature(key.sign(request[len(head) + 4 : -4]))
        return FAILURE

    return says


@dataclass
class FakeAgent:
    """What a test knows of the agent that it has made: where it is, and what it was asked."""

    path: str
    requests: list[bytes] = field(default_factory=list)
    asked: threading.Event = field(default_factory=threading.Event)
    left: threading.Event = field(default_factory=threading.Event)  # by a client that it had hang


@contextmanager
def fake_agent(says: Says | bytes) -> Iterator[FakeAgent]:
    """An agent that answers each request by what `says` gives for it, whole connections by bytes that are given.

    None: it hangs until the client goes away. Bytes: it says just them, once it was asked, and hangs up.
    """
    directory = tempfile.TemporaryDirectory()  # of a test it would be too long for a socket
    path = str(Path(directory.name) / "agent")
    agent = FakeAgent(path)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                try:
                    _converse(connection, agent, says)
                except OSError:
                    continue

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield agent
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        listening.close()
        directory.cleanup()


def _converse(connection: socket.socket, agent: FakeAgent, says: Says | bytes) -> None:
    while size := connection.recv(LENGTH_SIZE, socket.MSG_WAITALL):
        request = connection.recv(int.from_bytes(size, "big"), socket.MSG_WAITALL)
        agent.requests.append(request)
        agent.asked.set()
        if isinstance(says, bytes):
            connection.sendall(says)
            return
        answer = says(request)
        if answer is None:
            connection.recv(1)
            agent.left.set()
            return
        connection.sendall(string(answer))


# -- OpenSSH's


@dataclass
class Agent:
    """A running ssh-agent, and the environment in which `ssh-add` and openme find it."""

    path: Path
    environment: dict[str, str]

    def add(self, *words: str) -> None:
        """`ssh-add` with these words."""
        subprocess.run(
            ["ssh-add", "-q", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            timeout=ADD_SECONDS,
        )


@contextmanager
def ssh_agent(askpass: Path | None = None) -> Iterator[Agent]:
    """OpenSSH's agent, in the foreground, ended afterwards. `askpass`: the program that it has keys confirmed by."""
    directory = tempfile.TemporaryDirectory()  # of a test it would be too long for a socket
    path = Path(directory.name) / "agent"
    environment = {"PATH": os.environ["PATH"], "HOME": directory.name, "SSH_AUTH_SOCK": str(path)}
    if askpass is not None:
        environment |= {"SSH_ASKPASS": str(askpass), "SSH_ASKPASS_REQUIRE": "force"}
    process = subprocess.Popen(
        ["ssh-agent", "-D", "-a", str(path)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(lambda: _listens(path), "the agent listens")
        yield Agent(path, environment)
    finally:
        process.terminate()
        process.wait()
        directory.cleanup()


def _listens(path: Path) -> bool:
    """Whether it takes connections: between bind(2) and listen(2) the path is there already."""
    with socket.socket(socket.AF_UNIX) as asking:
        return asking.connect_ex(str(path)) == 0


def new_key(path: Path, *words: str, kind: str = "ed25519", comment: str = "someone@example.org") -> Path:
    """A key pair that ssh-keygen makes, without a passphrase unless `words` have one; its private file."""
    passphrase = () if "-N" in words else ("-N", "")
    subprocess.run(
        ["ssh-keygen", "-q", "-t", kind, "-C", comment, *passphrase, *words, "-f", str(path)],
        check=True,
        capture_output=True,
        timeout=ADD_SECONDS,
    )
    return path


def program(path: Path, *lines: str) -> Path:
    """A program of sh."""
    path.write_text("\n".join(("#!/bin/sh", *lines, "")))
    path.chmod(0o700)
    return path


def public_key(path: Path) -> ClientPublicKey:
    """The Ed25519 key in a `.pub` file, by the test's own reading."""
    return ClientPublicKey(base64.b64decode(path.read_text().split()[1])[-32:])
