"""An agent that signs, one that does not, and one that is none: what is said of each, and for how long it is waited."""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from openme.client import ssh_agent
from openme.client.async_session import AsyncSession
from openme.client.errors import SigningError
from openme.client.identity import open_identity, public_key_of
from openme.client.ssh_agent import AgentKey, agent_path, key_with, only_key
from openme.config.profile_model import ClientConfig, Profile
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.ssh_data import string
from support.knocks import ALICE, BOB, SERVER, STRANGER
from support.ssh_agents import FAILURE, SUCCESS, FakeAgent, Says, fake_agent, having, listing, signature

MESSAGE = b"openme-v2 knock\0" + bytes(109)
ALICES = f"ssh-agent:{ALICE.public.ssh_fingerprint}"
RSA = string(b"ssh-rsa") + string(b"\1\0\1") + string(bytes(256))


def refused(key: AgentKey) -> tuple[str, str]:
    """Message and hint of a signature that there is not."""
    with pytest.raises(SigningError) as caught:
        key.sign(MESSAGE)
    assert "\n" not in caught.value.message
    return caught.value.message, caught.value.hint or ""


def test_an_agents_signature_is_the_keys() -> None:
    with fake_agent(having(BOB, ALICE)) as agent:
        assert AgentKey(agent.path, ALICE.public).sign(MESSAGE) == ALICE.sign(MESSAGE)
        assert len(agent.requests) == 1


def test_a_key_is_found_by_its_fingerprint_and_by_being_the_only_one() -> None:
    with fake_agent(having(BOB, ALICE)) as agent:
        assert key_with(agent.path, ALICE.public.ssh_fingerprint) == ALICE.public
        with pytest.raises(SigningError, match="several Ed25519 keys") as caught:
            only_key(agent.path)
        for key in (ALICE, BOB):
            assert key.public.ssh_fingerprint in caught.value.message


def test_the_same_key_twice_and_others_beside_it_are_one() -> None:
    answer = listing((RSA, "rsa"), (ALICE.public.ssh_blob, "a"), (ALICE.public.ssh_blob, "b"))
    with fake_agent(lambda _: answer) as agent:
        assert only_key(agent.path) == ALICE.public


def test_two_keys_with_one_comment_are_told_apart() -> None:
    answer = listing((ALICE.public.ssh_blob, "me@laptop"), (BOB.public.ssh_blob, "me@laptop"))
    with fake_agent(lambda _: answer) as agent, pytest.raises(SigningError) as caught:
        only_key(agent.path)
    assert caught.value.message.count("(me@laptop)") == 2
    assert BOB.public.ssh_fingerprint in caught.value.message


# -- an agent that refuses


@pytest.mark.parametrize(
    ("says", "message", "cure"),
    [
        (having(), "has no keys, or is locked", "ssh-add -X"),
        (having(BOB), f"no key {ALICE.public.ssh_fingerprint}, but {BOB.public.ssh_fingerprint} (key 0)", "ssh-add"),
        (having(ALICE, refuses=True), "refused to sign with", "declined"),
        (having(ALICE, refuses=True, constrained=True), "only to log in to certain hosts (ssh-add -h)", "without -h"),
    ],
)
def test_why_there_is_no_signature(says: Says, message: str, cure: str) -> None:
    with fake_agent(says) as agent:
        told, hint = refused(AgentKey(agent.path, ALICE.public))
    assert message in told
    assert cure in hint


def test_an_agent_that_knows_nothing_of_hosts_has_refused() -> None:
    """Whatever it says to the question: the cause that was not found is not named."""

    def says(request: bytes) -> bytes:
        return listing((ALICE.public.ssh_blob, "")) if request[0] == 11 else b"\x1c" if request[0] == 27 else FAILURE

    with fake_agent(says) as agent:
        assert "refused to sign" in refused(AgentKey(agent.path, ALICE.public))[0]


def test_what_is_asked_after_a_refusal_signs_nothing_with_the_key() -> None:
    with fake_agent(having(ALICE, refuses=True)) as agent:
        refused(AgentKey(agent.path, ALICE.public))
        assert [request[0] for request in agent.requests] == [13, 11, 27, 11]
        assert ALICE.public.ssh_blob not in agent.requests[2]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (b"ssh-rsa", "an RSA key"),
        (b"ecdsa-sha2-nistp256", "an ECDSA key"),
        (b"sk-ssh-ed25519@openssh.com", "a FIDO key"),
        (b"ssh-dss", "a DSA key"),
        (b"ssh-new", "of another type"),
    ],
)
def test_a_key_of_another_type_is_told_by_it(kind: bytes, words: str) -> None:
    blob = string(kind) + string(bytes(32))
    with fake_agent(lambda _: listing((blob, "mine"))) as agent:
        for find in (lambda: key_with(agent.path, ssh_agent.listed(agent.path)[0].fingerprint), only_it(agent)):
            with pytest.raises(SigningError) as caught:
                find()
            assert words in caught.value.message
            assert "ssh-keygen -t ed25519" in str(caught.value.hint)


def only_it(agent: FakeAgent) -> Callable[[], object]:
    return lambda: only_key(agent.path)


def test_a_certificate_without_its_key_is_told() -> None:
    blob = string(b"ssh-ed25519-cert-v01@openssh.com") + string(bytes(32)) + string(ALICE.public.raw) + bytes(100)
    with (
        fake_agent(lambda _: listing((blob, "mine"))) as agent,
        pytest.raises(SigningError, match=r"a certificate for SHA256:.* and not the key itself"),
    ):
        key_with(agent.path, ALICE.public.ssh_fingerprint)


def test_a_fingerprint_with_a_slip_in_it_has_a_near_one() -> None:
    right = ALICE.public.ssh_fingerprint
    wrong = f"{right[:20]}{'a' if right[20] != 'a' else 'b'}{right[21:]}"
    with fake_agent(having(BOB, ALICE)) as agent, pytest.raises(SigningError) as caught:
        key_with(agent.path, wrong)
    assert caught.value.hint == f"did you mean {right}?"


def test_of_many_keys_and_long_comments_a_few_words_are_shown() -> None:
    keys = [(ClientPrivateKey(bytes([n]) * 32).public.ssh_blob, "c" * 5000) for n in range(50)]
    with fake_agent(lambda _: listing(*keys)) as agent, pytest.raises(SigningError) as caught:
        key_with(agent.path, STRANGER.public.ssh_fingerprint)
    assert caught.value.message.endswith("; and 45 more")
    assert len(caught.value.message) < 1000


# -- an agent that is none, or another's


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        string(b"\x0c\0\0\0\1"),
        string(signature(b"s" * 63)),
        string(SUCCESS),
    ],
)
def test_what_does_not_speak_as_an_agent_is_told(said: bytes) -> None:
    with fake_agent(said) as agent:
        assert "does not speak as an SSH agent does" in refused(AgentKey(agent.path, ALICE.public))[0]
        with pytest.raises(SigningError, match=r"does not speak|hung up"):
            ssh_agent.listed(agent.path)


@pytest.mark.parametrize("said", [b"", b"\0\0", b"\0\0\0\5\x0e"])
def test_an_agent_that_hangs_up_is_told(said: bytes) -> None:
    with fake_agent(said) as agent:
        message, hint = refused(AgentKey(agent.path, ALICE.public))
    assert message == f"the SSH agent at {agent.path} hung up without an answer"
    assert "has it ended?" in hint


def test_an_agent_of_another_user_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSH's hangs up on other users, where the socket's mode lets them come so far."""
    with fake_agent(b"") as agent:
        user = os.geteuid()
        monkeypatch.setattr(os, "geteuid", lambda: user + 1)
        assert "it is another user's" in refused(AgentKey(agent.path, ALICE.public))[1]


def test_no_agent_there_is_told(tmp_path: Path) -> None:
    for path, words in (
        (str(tmp_path / "none"), "No such file or directory"),
        (str(tmp_path / ("x" * 200)), "too long"),
    ):
        assert words in refused(AgentKey(path, ALICE.public))[0]
    left = str(tmp_path / "left")
    with socket.socket(socket.AF_UNIX) as ended:
        ended.bind(left)
    assert "Connection refused" in refused(AgentKey(left, ALICE.public))[0]


def test_a_process_without_an_agent_says_how_to_have_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        monkeypatch.delenv("SSH_AUTH_SOCK") if value is None and "SSH_AUTH_SOCK" in os.environ else None
        if value is not None:
            monkeypatch.setenv("SSH_AUTH_SOCK", value)
        with pytest.raises(SigningError, match="SSH_AUTH_SOCK is not set") as caught:
            agent_path()
        assert "ssh-agent" in str(caught.value.hint)
        assert "file:PATH" in str(caught.value.hint)


def test_a_system_without_such_sockets_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(SigningError, match="cannot be reached on this system"):
        agent_path()


# -- patience


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


def test_an_agent_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_agent(lambda _: None) as agent:
        message, hint = refused(AgentKey(agent.path, ALICE.public, seconds=0.05))
        assert message == "the SSH agent did not sign within 0.05 s"
        assert "confirm sooner" in hint
        monkeypatch.setattr(ssh_agent, "ANSWER_SECONDS", 0.05)
        with pytest.raises(SigningError, match=r"did not answer within 0\.05 s"):
            ssh_agent.listed(agent.path)


def test_bytes_that_drip_in_do_not_make_it_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time is for the whole answer: each byte that comes costs some of it."""
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock.monotonic)

    def says(_: bytes) -> bytes | None:
        clock.now += 31
        return b"\x0e"

    with fake_agent(says) as agent:
        assert "did not sign within 30 s" in refused(AgentKey(agent.path, ALICE.public))[0]


def test_somebody_has_half_of_a_servers_window_to_confirm() -> None:
    """What is signed holds the time; the rest of the minute is for clocks."""
    assert ssh_agent.SIGN_SECONDS == 30


# -- as a profile's identity


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAgent]:
    with fake_agent(having(BOB, ALICE)) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", agent.path)
        yield agent


def test_a_profile_that_has_the_public_key_asks_for_nothing_but_the_signature(here: FakeAgent, tmp_path: Path) -> None:
    identity = open_identity(ALICES, ALICE.public, tmp_path, None)
    assert here.requests == []
    assert identity.sign(MESSAGE) == ALICE.sign(MESSAGE)
    assert [request[0] for request in here.requests] == [13]


@pytest.mark.usefixtures("here")
def test_a_profile_without_it_finds_it_in_the_agent(tmp_path: Path) -> None:
    assert open_identity(ALICES, None, tmp_path, None).public == ALICE.public
    assert public_key_of(ALICES, tmp_path) == ALICE.public
    with pytest.raises(SigningError, match="several"):
        public_key_of("ssh-agent", tmp_path)


@pytest.mark.parametrize(
    "forged",
    [bytes(64), BOB.sign(MESSAGE), ALICE.sign(b"something else")],
    ids=["zeros", "another's", "another message"],
)
def test_a_signature_that_is_not_the_keys_is_never_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forged: bytes
) -> None:
    with fake_agent(lambda _: signature(forged)) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", agent.path)
        with pytest.raises(SigningError, match="gave no signature"):
            open_identity(ALICES, ALICE.public, tmp_path, None).sign(MESSAGE)


def test_a_task_that_is_cancelled_leaves_no_thread_with_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait its half minute, and keep the loop, and the program, from ending."""
    with fake_agent(lambda _: None) as agent:
        monkeypatch.setenv("SSH_AUTH_SOCK", agent.path)
        monkeypatch.setattr(AgentKey.__init__, "__kwdefaults__", {"seconds": 80.0})
        profile = Profile(
            "home", "127.0.0.1", SERVER.public, 9, public_key=ALICE.public, identity=ALICES, ip="203.0.113.5"
        )
        session = AsyncSession(ClientConfig(tmp_path / "c", {"home": profile}))

        async def give_up() -> None:
            task = asyncio.create_task(session.knock())
            await asyncio.to_thread(agent.asked.wait, 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(agent.left.wait, 40), "long before the agent's time is over"

        asyncio.run(give_up())
