"""The rules of a session, over a driver with a clock of its own: patience, what is kept, and which error tells what."""

import asyncio
import errno
import socket
import threading
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address
from pathlib import Path

import pytest

from openme.client.addresses import Endpoint
from openme.client.async_session import Asyncio, AsyncSession
from openme.client.blocking import Blocking, finish
from openme.client.errors import (
    AddressError,
    ClientError,
    DiskError,
    KeysRefusedError,
    NotSentError,
    ProfileError,
    ShutError,
    SigningError,
    UnknownHostError,
)
from openme.client.identity import Identity
from openme.client.policy import HEAD_START, Policy, State
from openme.client.session import Session
from openme.config.profile_model import ClientConfig, EpochKeys, Profile
from openme.keys.ed25519 import ClientPublicKey
from openme.keys.openssh import key_file
from openme.wire import v1
from openme.wire.base import ReceiptKeys
from openme.wire.knock import IPAddress
from openme.wire.receipt import EpochKeyList, Receipt, receipt_text, seal_receipt
from support import independent_v2
from support.knocks import ALICE, BOB, EPOCH, NS, SERVER, START, WEEK, ratchet
from support.ports import free_port

KEYS = ratchet().public_keys(EPOCH, 60)
HERE = Endpoint(socket.AF_INET, "127.0.0.1")
THERE = Endpoint(socket.AF_INET6, "::1")
PROFILE = Profile(
    *("home", "host.example", SERVER.public, 9, 10, ALICE, ALICE.public),
    epoch_keys=EpochKeys(float(WEEK), EPOCH, KEYS[:3]),
    ip="source",
)
LATE = START + 2 * WEEK * NS  # the last epoch that the profile has a key for


class World(Blocking):
    """A server as the network shows it: what it is sent is kept, and time passes by pauses alone."""

    def __init__(self, *endpoints: Endpoint, now_ns: int = START) -> None:
        self.endpoints = endpoints or (HERE,)
        self.time = 0.0
        self.start = now_ns
        self.sent: list[bytes] = []
        self.opened: list[Endpoint] = []
        self.receipts: Callable[[bytes], bytes] = lambda _id: b""
        self.away = False

    def now_ns(self) -> int:
        return self.start + round(self.time * NS)

    def monotonic(self) -> float:
        return self.time

    def boot_clock(self) -> float:
        return self.time

    def system_tells(self) -> None:
        """Nobody: its networks do not change."""

    def source(self, endpoint: Endpoint, port: int) -> IPAddress:
        assert port == PROFILE.server_udp_port
        return ip_address("192.168.1.5" if endpoint.family == socket.AF_INET else "fd00::5")

    def send(self, endpoint: Endpoint, port: int, datagram: bytes) -> None:
        assert (endpoint in self.endpoints, port) == (True, PROFILE.server_udp_port)
        if self.away:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        self.sent.append(datagram)

    async def resolve(self, host: str, port: int) -> list[Endpoint]:
        assert (host, port) == (PROFILE.server_host, PROFILE.server_udp_port)
        return list(self.endpoints)

    async def open_endpoints(self, endpoints: Iterable[Endpoint], port: int, seconds: float) -> list[Endpoint]:
        assert port == PROFILE.server_health_port
        found = [endpoint for endpoint in endpoints if endpoint in self.opened]
        self.time += 0 if found else seconds
        return found

    async def ask(self, endpoint: Endpoint, port: int, receipt_id: bytes, seconds: float) -> bytes:
        assert (endpoint in self.opened, port, seconds > 0) == (True, PROFILE.server_health_port, True)
        return self.receipts(receipt_id)

    async def pause(self, seconds: float) -> None:
        self.time += seconds


def policy(
    tmp_path: Path, world: World, profile: Profile = PROFILE, *others: Profile, identity: Identity | None = None
) -> Policy:
    path = tmp_path / "config.yaml"
    return Policy(world, ClientConfig(path, {p.name: p for p in (profile, *others)}), profile.name, identity)


def answers(world: World, ip: str = "203.0.113.5", keys: EpochKeyList | None = None, lasts: float = 30) -> None:
    """From now on the server gives a receipt for each knock that it was sent."""

    def receipt(asked: bytes) -> bytes:
        epoch = world.now_ns() // NS // WEEK
        private = ratchet(epoch).private_key(epoch)
        receipts = [independent_v2.opened(datagram, private, ALICE.public.raw).receipt for datagram in world.sent]
        (keys_of_it,) = (found for found in receipts if found[0] == asked)
        said = Receipt(
            "alice", ip_address(ip), ("22/tcp",), world.now_ns() / NS + lasts, world.now_ns() / NS, epoch_keys=keys
        )
        return seal_receipt(receipt_text(said), ReceiptKeys(*keys_of_it))

    world.opened = list(world.endpoints)
    world.receipts = receipt


# -- what is known of a door


def test_a_door_is_open_by_the_servers_word_for_what_was_asked(tmp_path: Path) -> None:
    world = World()
    mine = policy(tmp_path, world)
    answers(world)
    outcome = finish(mine.check(finish(mine.knock("203.0.113.5"))))
    assert (outcome.state, outcome.is_open, outcome.must_prove) == (State.OPEN, True, True)
    assert outcome.attempt is not None
    answers(world, ip="203.0.113.6")
    outcome = finish(mine.check(finish(mine.knock("203.0.113.5"))))
    assert (outcome.state, outcome.is_open) == (State.NOT_AS_ASKED, False)
    world.receipts = lambda _: bytes(4096)
    outcome = finish(mine.check(finish(mine.knock(None))))
    assert (outcome.state, outcome.is_open) == (State.NOT_CONFIRMED, False)
    world.opened = []
    assert finish(mine.check(finish(mine.knock(None)))).state is State.CLOSED


def test_version_1_has_nothing_but_the_ports_own_word(tmp_path: Path) -> None:
    world = World()
    mine = policy(tmp_path, world, PROFILE._replace(protocol="v1"))
    attempt = finish(mine.knock(None))
    assert finish(mine.check(attempt)).state is State.CLOSED
    world.opened = [HERE]
    outcome = finish(mine.check(attempt))
    assert (outcome.state, outcome.proofs, outcome.must_prove) == (State.OPEN, (), False)


def test_a_look_believes_a_port_of_which_no_knock_is_known_and_proves_one_that_is(tmp_path: Path) -> None:
    world = World(HERE, THERE)
    mine = policy(tmp_path, world)
    assert finish(mine.status()).state is State.CLOSED
    world.opened = [THERE]
    outcome = finish(mine.status())
    assert (outcome.state, outcome.opened, outcome.endpoints) == (State.OPEN, (THERE,), (HERE, THERE))
    finish(mine.knock("203.0.113.5"))
    assert finish(mine.status()).proofs == (), "the server knows nothing of that knock any more"
    answers(world, ip="203.0.113.6")
    assert finish(mine.status()).state is State.NOT_AS_ASKED


def test_a_look_tells_how_many_addresses_it_has_left_out(tmp_path: Path) -> None:
    world = World(*(Endpoint(socket.AF_INET, f"192.0.2.{number}") for number in range(1, 21)))
    outcome = finish(policy(tmp_path, world).status())
    assert (len(outcome.endpoints), outcome.left_out) == (16, 4)


@pytest.mark.parametrize("state", State)
def test_a_states_word_is_the_users(state: State) -> None:
    assert state.value == state.name.lower().replace("_", " ")


# -- keys, the disk and what must not be believed


def last_epoch(tmp_path: Path, *others: Profile) -> tuple[World, Policy]:
    world = World(now_ns=LATE)
    return world, policy(tmp_path, world, PROFILE, *others)


def test_new_keys_are_kept_whether_checked_or_renewed(tmp_path: Path) -> None:
    for ask in ("check", "renew"):
        (folder := tmp_path / ask).mkdir()
        world, mine = last_epoch(folder)
        assert mine.keys_end() == (EPOCH + 3) * WEEK - 1
        answers(world, keys=EpochKeyList(EPOCH + 2, KEYS[2:55]))
        attempt = finish(mine.knock("203.0.113.5"))
        finish(mine.check(attempt) if ask == "check" else mine.renew(attempt))
        assert mine.keys_end() is None
        world.start = START + 40 * WEEK * NS
        assert finish(mine.knock(None)).sent[0].past is not None


def test_keys_that_are_not_due_are_not_asked_for(tmp_path: Path) -> None:
    world = World()
    mine = policy(tmp_path, world)
    answers(world, keys=EpochKeyList(EPOCH, KEYS[:53]))
    finish(mine.renew(finish(mine.knock(None))))
    world.start = START + 3 * WEEK * NS
    with pytest.raises(ProfileError, match="no epoch key for this machine's date"):
        finish(mine.knock(None))


def test_refused_is_not_disk(tmp_path: Path) -> None:
    """Keys that differ from known ones, and keys that are good and find no room: two classes, neither the other."""
    world, mine = last_epoch(tmp_path)
    answers(world, keys=EpochKeyList(EPOCH + 2, (KEYS[9], *KEYS[3:10])))
    attempt = finish(mine.knock("203.0.113.5"))
    outcome = finish(mine.check(attempt))
    (problem,) = outcome.problems
    assert (type(problem), outcome.state) == (KeysRefusedError, State.OPEN)
    with pytest.raises(KeysRefusedError, match="none was stored"):
        finish(mine.renew(attempt))
    assert not issubclass(KeysRefusedError, DiskError)
    assert not issubclass(DiskError, KeysRefusedError)
    assert issubclass(DiskError, ClientError)


def test_a_disk_that_takes_nothing_costs_the_keys_and_never_the_knock(tmp_path: Path) -> None:
    (tmp_path / "config.yaml.known").write_text("in the way of the directory")
    world, mine = last_epoch(tmp_path)
    answers(world, keys=EpochKeyList(EPOCH + 2, KEYS[2:55]))
    attempt = finish(mine.knock("203.0.113.5"))
    outcome = finish(mine.check(attempt))
    (problem,) = outcome.problems
    assert (type(problem), outcome.state) == (DiskError, State.OPEN)
    assert isinstance(problem.__cause__, OSError)
    with pytest.raises(DiskError, match=r"new epoch keys could not be stored: \w+"):
        finish(mine.renew(attempt))


def test_keys_that_another_host_has_are_no_sessions(tmp_path: Path) -> None:
    office = PROFILE._replace(name="office", server_host="office.example")
    with pytest.raises(ProfileError, match=r"profile office for office\.example has the same"):
        policy(tmp_path, World(), PROFILE, office)


# -- what else can go wrong


def test_each_failure_has_its_class(tmp_path: Path) -> None:
    world = World()
    mine = policy(tmp_path, world)
    with pytest.raises(AddressError, match="no IP address"):
        finish(mine.knock("nowhere"))
    world.away = True
    with pytest.raises(NotSentError, match="Network is unreachable"):
        finish(mine.knock(None))
    with pytest.raises(ProfileError, match="there is no profile x"):
        Session(ClientConfig(tmp_path / "c", {"home": PROFILE}), "x")
    bare = PROFILE._replace(private_key=None)
    with pytest.raises(ProfileError, match="no private_key"):
        finish(policy(tmp_path, World(), bare).knock(None))


def test_a_name_that_nobody_knows_is_told_by_both(tmp_path: Path) -> None:
    config = ClientConfig(tmp_path / "c", {"home": PROFILE._replace(server_host="a" * 64 + ".invalid")})
    with pytest.raises(UnknownHostError, match=r"a{64}\.invalid"):
        Session(config).knock()
    with pytest.raises(UnknownHostError, match=r"a{64}\.invalid"):
        asyncio.run(AsyncSession(config).knock())


# -- an identity that signs elsewhere


class Agent:
    """Signs with a key that the profile does not have."""

    def __init__(self, *, public: ClientPublicKey = ALICE.public, spoil: Callable[[bytes], bytes] = bytes) -> None:
        self.public, self._spoil = public, spoil
        self.threads: list[threading.Thread] = []

    def sign(self, message: bytes) -> bytes:
        self.threads.append(threading.current_thread())
        return self._spoil(ALICE.sign(message))


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize("known", [ALICE.public, None])
def test_an_identity_signs_knocks_of_both_versions(
    tmp_path: Path, protocol: str, known: ClientPublicKey | None
) -> None:
    world, agent = World(), Agent()
    profile = PROFILE._replace(private_key=None, public_key=known, protocol=protocol, identity="ssh-agent:SHA256:x")
    finish(policy(tmp_path, world, profile, identity=agent).knock("203.0.113.5"))
    assert len(agent.threads) == 1
    if protocol == "v2":
        opened = independent_v2.opened(world.sent[0], ratchet().private_key(EPOCH), ALICE.public.raw)
        assert opened.plaintext[0] == 2
    else:
        assert v1.signed_by(world.sent[0], ALICE.public)


@pytest.mark.parametrize("spoil", [lambda _: b"", lambda s: s[:-1], lambda s: s[::-1], lambda _: None])
def test_a_signature_of_no_use_never_leaves(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    world = World()
    with pytest.raises(SigningError, match="gave no signature"):
        finish(policy(tmp_path, world, identity=Agent(spoil=spoil)).knock(None))
    assert world.sent == []


def test_an_identity_of_another_client_is_told_before_anything_leaves(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="public_key is another one"):
        policy(tmp_path, World(), identity=Agent(public=BOB.public))


def test_a_profiles_identity_signs_and_is_opened_once(tmp_path: Path) -> None:
    """However many knocks are made: a passphrase is asked for once."""
    world, asked = World(HERE, THERE), []
    (tmp_path / "key").write_bytes(key_file(ALICE, b"geheim"))
    (tmp_path / "key").chmod(0o600)
    profile = PROFILE._replace(private_key=None, identity="file:key")

    def passphrase(path: Path) -> bytearray:
        world.time += 40  # somebody who types slowly
        asked.append(path)
        return bytearray(b"geheim")

    mine = Policy(world, ClientConfig(tmp_path / "c.yaml", {"home": profile}), None, passphrase=passphrase)
    assert mine.profile.private_key is None
    for _ in range(2):
        finish(mine.knock(None))
    assert asked == [tmp_path / "key"]
    assert len(world.sent) == 4
    opened = independent_v2.opened(world.sent[0], ratchet().private_key(EPOCH), ALICE.public.raw)
    signed_at = int.from_bytes(opened.plaintext[1:9], "big")
    assert signed_at == START + 40 * NS, "the knock is as young as if nobody had typed"


def test_a_private_key_in_the_profile_needs_no_identity(tmp_path: Path) -> None:
    world = World()
    finish(policy(tmp_path, world, PROFILE._replace(identity="file:/nowhere")).knock(None))
    assert len(world.sent) == 1


def test_what_is_not_signed_for_one_family_is_told_and_the_other_was_sent(tmp_path: Path) -> None:
    """Somebody confirms one of two: what has left has left."""

    class Once(Agent):
        def sign(self, message: bytes) -> bytes:
            if self.threads:
                raise SigningError("declined", "confirm it")
            return super().sign(message)

    world = World(HERE, THERE)
    attempt = finish(policy(tmp_path, world, identity=Once()).knock("203.0.113.5"))
    assert [sent.endpoint for sent in attempt.sent] == [HERE]
    assert attempt.failed == ((THERE, "declined"),)

    class Never(Agent):
        def sign(self, message: bytes) -> bytes:
            raise SigningError(f"declined {len(message)}", "confirm it")

    world = World(HERE, THERE)
    with pytest.raises(SigningError, match="declined"):
        finish(policy(tmp_path, world, identity=Never()).knock(None))
    assert world.sent == []


def test_an_address_that_is_ours_no_more_once_it_is_signed_is_not_knocked_for(tmp_path: Path) -> None:
    """Who confirms a signature in the train may have left the network meanwhile; others are behind its address."""

    class Moving(World):
        here = ip_address("9.9.9.9")

        def source(self, _endpoint: Endpoint, _port: int) -> IPAddress:
            return self.here

    class Slow(Agent):
        def sign(self, message: bytes) -> bytes:
            world.here = ip_address("9.9.9.77")
            return super().sign(message)

    world = Moving()
    with pytest.raises(NotSentError, match=r"no longer has the address 9\.9\.9\.9$"):
        finish(policy(tmp_path, world, identity=Slow()).knock("auto"))
    assert world.sent == []
    finish(policy(tmp_path, world, identity=Agent()).knock("auto"))
    assert len(world.sent) == 1
    for ip in ("source", "9.9.9.9"):  # what the user names is his own matter
        world = Moving()
        finish(policy(tmp_path, world, identity=Slow()).knock(ip))
        assert len(world.sent) == 1


# -- one key for two servers


@pytest.mark.parametrize("by_profile", [True, False])
def test_one_server_cannot_pass_the_others_version_1_key_off_as_its_own(tmp_path: Path, *, by_profile: bool) -> None:
    """Nothing else in a version 1 knock names the server: it would be good at the other one, for whoever has it."""
    agent = None if by_profile else Agent()
    mine = PROFILE._replace(private_key=None, protocol="v1", identity="ssh-agent:SHA256:x" if by_profile else None)
    other = mine._replace(name="other", server_host="other.example", epoch_keys=None)
    for public in (ALICE.public, None):
        with pytest.raises(
            ProfileError, match=r"server_pubkey: profile other for other\.example has the same"
        ) as caught:
            policy(tmp_path, World(), mine, other._replace(public_key=public), identity=agent)
        assert f"add to profile other: same_server_as: [{mine.server_host}]" in str(caught.value.hint)
    for fine in (
        other._replace(same_server_as=(mine.server_host,)),
        other._replace(server_host=mine.server_host),
        other._replace(server_pubkey=b"\x09" * 32),
        other._replace(public_key=BOB.public),
    ):
        policy(tmp_path, World(), mine, fine, identity=agent)
    policy(tmp_path, World(), mine._replace(same_server_as=("other.example",)), other, identity=agent)


def test_profiles_with_keys_of_their_own_are_as_they_were(tmp_path: Path) -> None:
    """Files in use today may have one server under two names."""
    mine = PROFILE._replace(protocol="v1")
    policy(tmp_path, World(), mine, mine._replace(name="other", server_host="other.example"))


# -- a connection of the caller's


class Dialler:
    """Finds the door open from the nth dial on; each takes as much of its time as it is told."""

    def __init__(self, world: World, opens: int, takes: float = 1.0) -> None:
        self._world, self._opens, self._takes = world, opens, takes
        self.had: list[tuple[float, int]] = []  # seconds, and knocks so far

    async def __call__(self, endpoints: Sequence[Endpoint], seconds: float) -> str | None:
        assert tuple(endpoints) == self._world.endpoints, "all of them at once, so that they can be raced"
        self.had.append((seconds, len(self._world.sent)))
        if len(self.had) == self._opens:
            return "connection"
        self._world.time += seconds * self._takes
        return None


def test_a_door_that_is_open_already_gets_no_knock(tmp_path: Path) -> None:
    world = World()
    dial = Dialler(world, 1)
    reached = finish(policy(tmp_path, world).reach(dial, None, look=0.5, knocks=3, seconds=2))
    assert (reached.connection, reached.attempt, world.sent) == ("connection", None, [])


def test_each_knock_has_more_patience_than_the_one_before(tmp_path: Path) -> None:
    world = World()
    dial = Dialler(world, 4)
    reached = finish(policy(tmp_path, world).reach(dial, None, look=0.5, knocks=3, seconds=2))
    assert [(round(seconds, 6), knocks) for seconds, knocks in dial.had] == [(0.5, 0), (2, 1), (4, 2), (8, 3)]
    assert (reached.connection, len(set(world.sent))) == ("connection", 3)
    assert reached.attempt is not None


def test_a_connection_begins_a_moment_after_its_knock_so_as_not_to_overtake_it(tmp_path: Path) -> None:
    world = World()
    finish(policy(tmp_path, world).reach(Dialler(world, 2, takes=0), None, look=0.5, knocks=3, seconds=2))
    assert world.time == HEAD_START > 0


def test_a_dial_that_is_refused_at_once_is_asked_again_and_knocks_no_more_for_it(tmp_path: Path) -> None:
    world = World()
    dial = Dialler(world, 5, takes=0)
    finish(policy(tmp_path, world).reach(dial, None, look=0, knocks=3, seconds=2))
    assert [knocks for _, knocks in dial.had] == [1] * 5
    assert [round(2 - left, 2) for left, _ in dial.had] == [0, 0.05, 0.15, 0.35, 0.75]


def test_in_vain_it_ends_with_the_last_knock(tmp_path: Path) -> None:
    world = World()
    with pytest.raises(ShutError, match=r"host\.example: no connection") as caught:
        finish(policy(tmp_path, world).reach(Dialler(world, 0), None, look=0, knocks=2, seconds=2))
    assert len(world.sent) == 2
    assert caught.value.attempt.sent[0].endpoint == HERE


# -- again and again


def test_a_network_that_is_away_for_a_while_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    session = Session(ClientConfig(tmp_path / "config.yaml", {"home": PROFILE}))
    monkeypatch.setattr(session, "_policy", policy(tmp_path, world))
    turns = session.again(25)
    assert not isinstance(next(turns), ClientError)
    world.away = True
    assert isinstance(next(turns), NotSentError)
    world.away = False
    assert not isinstance(next(turns), ClientError)
    assert (world.time, len(world.sent)) == (75, 2)


def test_a_grant_that_is_shorter_than_the_usual_distance_is_knocked_for_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    session = Session(ClientConfig(tmp_path / "config.yaml", {"home": PROFILE}))
    monkeypatch.setattr(session, "_policy", policy(tmp_path, world))
    attempt = session.knock()
    following = session.again()
    next(following)
    assert world.time == 25
    answers(world, lasts=10)
    session.renew(attempt)
    grants = [session.grant]
    session.renew(attempt, always=True)
    assert [*grants, session.grant] == [None, 10]  # no keys are due: the first one has asked for nothing
    next(following)
    assert world.time == 31
    answers(world, lasts=1000)
    assert session.check(session.knock()).is_open
    next(following)
    assert world.time == 56
    world.opened = []  # a receipt that is lost says nothing
    assert not session.check(session.knock()).is_open
    assert session.grant == 1000
    chosen = session.again(600)
    before = world.time
    next(chosen)
    assert world.time == before + 600


# -- asyncio


def test_a_coroutine_that_waits_is_no_blocking_drivers() -> None:
    with pytest.raises(RuntimeError, match="has waited"):
        finish(asyncio.sleep(0))


def test_under_asyncio_an_identity_keeps_nobody_waiting(tmp_path: Path) -> None:
    agent = Agent()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(10)
        profile = PROFILE._replace(server_host="127.0.0.1", server_udp_port=udp.getsockname()[1], protocol="v1")
        session = AsyncSession(ClientConfig(tmp_path / "c", {"home": profile}), identity=agent)
        asyncio.run(session.knock())
        assert len(udp.recv(1000)) == 165
    assert agent.threads != [threading.main_thread()]


def test_the_loops_sockets_see_what_the_blocking_ones_see() -> None:
    port = free_port()

    async def look() -> list[list[Endpoint]]:
        driver = Asyncio()
        seen = [await driver.open_endpoints([THERE, HERE], port, 1)]
        with socket.create_server(("127.0.0.1", port)):
            seen.append(await driver.open_endpoints([THERE, HERE], port, 5))
        return seen

    assert asyncio.run(look()) == [[], [HERE]]


@pytest.mark.parametrize("whole", [True, False])
def test_a_receipt_is_read_by_the_loop_to_its_end_and_an_unread_one_reset(*, whole: bool) -> None:
    ends: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                assert connection.recv(100) == b"i" * 16
                connection.sendall(b"x" * 4096)
                if whole:
                    connection.shutdown(socket.SHUT_WR)
                try:
                    ends.append("in order" if connection.recv(1) == b"" else "more")
                except ConnectionResetError:
                    ends.append("reset")

        thread = threading.Thread(target=serve)
        thread.start()
        asked = Asyncio().ask(HERE, listening.getsockname()[1], b"i" * 16, 10 if whole else 0.3)
        answer = asyncio.run(asked)
        thread.join(10)
    assert (answer, ends) == ((b"x" * 4096, ["in order"]) if whole else (b"", ["reset"]))


def test_a_task_that_is_cancelled_leaves_no_socket() -> None:
    """`filterwarnings = error` makes a socket that is left for the collector a failure; the peer sees the end."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)

        async def cancelled() -> None:
            task = asyncio.ensure_future(Asyncio().ask(HERE, listening.getsockname()[1], b"i" * 16, 30))
            connection, _ = await asyncio.to_thread(listening.accept)
            with connection:
                await asyncio.to_thread(connection.recv, 16)
                task.cancel()
                await asyncio.wait([task])
                connection.settimeout(10)
                with pytest.raises(ConnectionResetError):
                    await asyncio.to_thread(connection.recv, 1)

        asyncio.run(cancelled())
