"""A server under attack: what the tests of `tests/claims` have in common.

`alice` and `bob` may open port 22, where an echo service stands. `sentinel` is a third client, whose knocks tell that
the server has judged everything sent before them: a refusal can be seen without waiting for something not to happen. It
speaks version 1, which waits for version 2, and whose signed time is no evidence that an epoch is over.
"""

import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openme.config.edit import add_client
from openme.config.profile_model import EpochKeys
from openme.config.profile_text import render_profile
from openme.config.server import load_server_config
from openme.keeper.ratchet_file import FILE_NAME as RATCHET
from openme.keeper.ratchet_file import read_ratchet
from openme.keys.ed25519 import ClientPrivateKey
from openme.store.sqlite import make_memory
from support.clock import Clock
from support.netns import Namespace, until
from support.server import SERVER, ServerWorld

SSH = 22

only_v1 = pytest.mark.parametrize("hosts", [1], indirect=True, ids=["v1"])
only_v2 = pytest.mark.parametrize("hosts", [2], indirect=True, ids=["v2"])


class ClaimsWorld(ServerWorld):
    """A ServerWorld with clients, a service, a clock, and questions that an attack asks."""

    wire = 2
    """The wire version that clients speak."""

    def populate(self, wire: int) -> None:
        """Add the clients, who speak this wire version, and the service."""
        self.wire = wire
        self.alice = self.client_file("alice")
        self.bob = self.client_file("bob")
        self.sentinel = self.client_file("sentinel", wire=1, allowed_ports=["9/tcp"])
        self.clock = Clock(self.state_dir)
        self.serve(tcp=[SSH])
        self._pristine = self.config.read_text()
        self._ratchet = (self.state_dir / RATCHET).read_bytes()

    def reset(self) -> None:
        """No server, no rules, no memory, the clock right and the config as it was when the clients had been added."""
        self.kill()
        self.server.nft("flush ruleset")
        for path in self.state_dir.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.forget_newest()
        self.put_ratchet(self._ratchet)
        make_memory(self.state_dir)
        self.write_config(self._pristine)
        self.clock.step(0)

    def put_ratchet(self, content: bytes, state_dir: Path | None = None) -> None:
        """Put a ratchet file in the state directory, or in another one."""
        path = (state_dir or self.state_dir) / RATCHET
        path.touch(mode=0o600)
        path.write_bytes(content)

    def epoch_keys(self, count: int = 53) -> EpochKeys:
        """What a client file that is made now carries."""
        ratchet = read_ratchet(self.state_dir)
        assert ratchet is not None
        return EpochKeys(ratchet.length, ratchet.index, ratchet.public_keys(ratchet.index, count))

    def client_file(self, name: str, wire: int | None = None, **fields: str | list[str]) -> Path:
        """What `openme add` does, without the time that a command line takes."""
        wire = wire or self.wire
        key = ClientPrivateKey(secrets.token_bytes(32))
        add_client(self.config, name, {"ed25519_pubkey": str(key.public), "protocols": [f"v{wire}"], **fields})
        path = self.folder / f"{name}.yaml"
        path.touch(mode=0o600)
        server = load_server_config(self.config)
        text = render_profile(
            "default",
            server_host=SERVER[4],
            server_udp_port=server.udp_port,
            server_health_port=server.health_port,
            server_pubkey=server.public_key,
            public_key=key.public,
            private_key=key,
            epoch_keys=self.epoch_keys() if wire == 2 else None,
        )
        path.write_text(text)
        return path

    def start(self, *words: str, log_level: str = "debug", prefix: Iterable[str] = ()) -> None:
        super().start(*words, log_level=log_level, prefix=[*prefix, *self.clock.prefix])

    def crowd(self, count: int) -> None:
        """So many more clients, whose keys nobody has; all of them stand before those that are in the file already."""
        keys = (ClientPrivateKey(secrets.token_bytes(32)).public for _ in range(count))
        lines = "".join(f"  member{number}: {{ed25519_pubkey: {key}}}\n" for number, key in enumerate(keys))
        self.write_config(self.config.read_text().replace("clients:\n", f"clients:\n{lines}", 1))

    def signed(self, profile: Path, *, ahead: float = 0) -> bytes:
        """A fresh knock by the server's clock, dated `ahead` of it."""
        return self.packet(profile, late=-self.clock.offset - ahead)

    def now_ns(self) -> int:
        """The server's wall clock."""
        return time.time_ns() + self.clock.offset * 10**9

    def judged(self, *datagrams: bytes, host: Namespace | None = None, source: str | None = None) -> None:
        """Send datagrams and return when the server has judged them all, and done what follows."""
        with on_one_processor():  # on which the kernel delivers what it sends in order
            self.send(*datagrams, host=host, source=source)
            # Another family, so that the sentinel's door is for an address of its own.
            self._judges(self.signed(self.sentinel))
        self.ask("sessions")  # answered when the batch that the sentinel's knock was in is done with

    def _judges(self, knock: bytes) -> None:
        before = self._verdicts()
        self.send(knock, version=6)
        until(lambda: self._verdicts() > before, 5)

    def _verdicts(self) -> int:
        # Where the clock has been turned back the sentinel is refused, which tells as much.
        return len(re.findall(r" sentinel: (?:opened|refused)", self.log()))

    def opened(self, name: str) -> int:
        """How often the server's log says, since its last start, that a client's knock opened."""
        return self.log().count(f" {name}: opened ")

    def close(self, name: str) -> None:
        """End a client's grants."""
        self.ask("close", name=name)

    def is_in(self, name: str) -> bool:
        """Whether the server counts a client as in."""
        return any(session["client_name"] == name for session in self.sessions())

    def assert_opens(self, profile: Path, name: str = "alice") -> bytes:
        """A fresh knock by this client opens port 22 to the client's host; the packet."""
        packet = self.signed(profile)
        before = self.opened(name)
        self.judged(packet)
        # From an address that nobody has knocked from yet it waits for the search through all clients.
        until(lambda: self.opened(name) == before + 1, 5)
        assert self.tcp(self.client, SSH) == "open", self.log()
        return packet

    def assert_refuses(self, *packets: bytes, host: Namespace | None = None) -> None:
        """None of these opens anything for anybody; nobody but the sentinel is in before or after."""
        names = ("alice", "bob")
        before = [self.opened(name) for name in names]
        self.judged(*packets, host=host)
        assert [self.opened(name) for name in names] == before, self.log()
        assert self.tcp(host or self.client, SSH) == "filtered", self.log()


@contextmanager
def on_one_processor() -> Iterator[None]:
    """This thread stays on one processor meanwhile."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextmanager
def noted(text: str) -> Iterator[None]:
    """An AssertionError inside says where in a loop it happened."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{text}: {error}") from error
