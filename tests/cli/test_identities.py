"""Knocks signed by OpenSSH's own agent and by key files of ssh-keygen's, and what is said where they cannot be."""

import os
import pty
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from openme.config.server import load_server_config
from support.command import DEADLINE, Done, Place
from support.ssh_agents import Agent, fake_agent, new_key, program, public_key, ssh_agent


@pytest.fixture
def agent() -> Iterator[Agent]:
    with ssh_agent() as running:
        yield running


@pytest.fixture
def mine(here: Place) -> Path:
    """A user's own key."""
    return new_key(here.root / "id_ed25519")


def registered(here: Place, key: Path, *words: str) -> Path:
    """What `openme add alice --pubkey "$(cat KEY.pub)"` prints, as a file, for an address that a server opens for."""
    file = here.client("alice", "--pubkey", key.with_suffix(".pub").read_text(), *words)
    file.write_text(f"{file.read_text()}    ip: 203.0.113.5\n")
    return file


def knock(here: Place, file: Path, agent: Agent | None, *words: str, **environment: str) -> Done:
    """`openme knock` with that agent and file, and nothing to ask anybody with but what the environment has."""
    variables = here.environment | environment
    if agent is not None:
        variables["SSH_AUTH_SOCK"] = str(agent.path)
    done = subprocess.run(
        here.command("--client-config", str(file), "knock", *words),
        env=variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,  # without a terminal
    )
    return Done(done.returncode, done.stdout, done.stderr)


def hint(done: Done) -> str:
    """The one hint of a command that failed."""
    assert done.code == 1
    (line,) = (line for line in done.err.splitlines() if line.startswith("openme: hint: "))
    return line.removeprefix("openme: hint: ")


@pytest.mark.parametrize("words", [[], ["--v1"]], ids=["v2", "v1"])
def test_a_key_that_somebody_has_opens_the_door_by_the_agent(
    here: Place, agent: Agent, mine: Path, words: list[str]
) -> None:
    """What `add` prints for an OpenSSH line is complete: no secret, and the agent's key by its fingerprint."""
    file = registered(here, mine, *words)
    text = file.read_text()
    assert "private" not in text
    assert f'identity: "ssh-agent:{public_key(mine.with_suffix(".pub")).ssh_fingerprint}"' in text
    assert load_server_config(here.config).clients["alice"].public_key == public_key(mine.with_suffix(".pub"))
    agent.add(str(mine))
    with here.serving() as server:
        done = knock(here, file, agent)
        assert (done.code, done.out) == (0, "")
        server.logs("alice: opened")


@pytest.mark.parametrize("words", [[], ["--v1"]], ids=["v2", "v1"])
@pytest.mark.parametrize("passphrase", ["", "geheim"])
def test_a_key_file_opens_the_door(here: Place, mine: Path, words: list[str], passphrase: str) -> None:
    file = registered(here, mine, *words)
    name_file(file, mine, passphrase)
    askpass = program(here.root / "askpass", "echo geheim")
    with here.serving() as server:
        done = knock(here, file, None, SSH_ASKPASS=str(askpass))
        assert (done.code, done.out) == (0, "")
        server.logs("alice: opened")


def name_file(file: Path, key: Path, passphrase: str) -> None:
    """Have a profile name the key's file, which gets a passphrase."""
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-N", passphrase, "-a", "1", "-f", str(key)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    (line,) = (line for line in file.read_text().splitlines() if "identity" in line)
    file.write_text(file.read_text().replace(line, f'    identity: "file:{key}"'))


# -- why an agent does not sign


@pytest.mark.parametrize(("answer", "code"), [("exit 0", 0), ("exit 1", 1)])
def test_a_key_to_be_confirmed_signs_when_somebody_confirms(here: Place, mine: Path, answer: str, code: int) -> None:
    asked = here.root / "asked"
    with ssh_agent(program(here.root / "confirm", f'echo "$1" > {asked}', answer)) as agent:
        agent.add("-c", str(mine))
        done = knock(here, registered(here, mine), agent)
        assert "Allow use of key" in asked.read_text()
        assert done.code == code
    if code:
        assert "refused to sign with SHA256:" in done.error
        assert "declined" in hint(done)


def test_a_key_for_certain_hosts_is_told_by_that(here: Place, agent: Agent, mine: Path) -> None:
    """Not as if it had been declined: the agent says neither."""
    known = here.root / "known_hosts"
    known.write_text(f"example.org {new_key(here.root / 'host').with_suffix('.pub').read_text()}")
    agent.add("-H", str(known), "-h", "example.org", str(mine))
    done = knock(here, registered(here, mine), agent)
    assert "only to log in to certain hosts (ssh-add -h)" in done.error
    assert "without -h" in hint(done)


def test_a_locked_agent_is_told_and_unlocked_it_signs(here: Place, mine: Path) -> None:
    with ssh_agent(program(here.root / "askpass", "echo locked")) as agent:
        agent.add(str(mine))
        file = registered(here, mine)
        agent.add("-x")
        done = knock(here, file, agent)
        assert "has no keys, or is locked" in done.error
        assert "ssh-add -X" in hint(done)
        agent.add("-X")
        assert knock(here, file, agent).code == 0


def test_a_key_that_is_not_in_the_agent_is_told_with_those_that_are(here: Place, agent: Agent, mine: Path) -> None:
    """Two of them have one comment, so the fingerprints stand with them."""
    others = [new_key(here.root / f"other{n}", comment="me@laptop") for n in range(2)]
    file = registered(here, mine)
    assert "has no keys, or is locked" in knock(here, file, agent).error
    agent.add(*map(str, others))
    done = knock(here, file, agent)
    assert public_key(mine.with_suffix(".pub")).ssh_fingerprint in done.error
    for other in others:
        assert f"{public_key(other.with_suffix('.pub')).ssh_fingerprint} (me@laptop)" in done.error


@pytest.mark.parametrize(("kind", "words"), [("rsa", "an RSA key"), ("ecdsa", "an ECDSA key")])
def test_other_keys_are_told_by_their_type(here: Place, agent: Agent, kind: str, words: str) -> None:
    key = new_key(here.root / "other", kind=kind)
    agent.add(str(key))
    listed = subprocess.run(
        ["ssh-add", "-l"], env=agent.environment, capture_output=True, text=True, check=True, timeout=60
    )
    fingerprint = listed.stdout.split()[1]
    file = registered(here, new_key(here.root / "id"))
    lines = [line for line in file.read_text().splitlines() if "public_key" not in line and "identity" not in line]
    file.write_text("\n".join([*lines, f'    identity: "ssh-agent:{fingerprint}"', ""]))
    done = knock(here, file, agent)
    assert f"{fingerprint} in the SSH agent is {words}" in done.error
    assert "ssh-keygen -t ed25519" in hint(done)
    refused = here.run("add", "bob", "--pubkey", key.with_suffix(".pub").read_text())
    assert f"expected an Ed25519 key, got one of type {key.with_suffix('.pub').read_text().split()[0]}" in refused.error


def test_a_certificate_beside_its_key_changes_nothing_and_alone_is_told(here: Place, agent: Agent, mine: Path) -> None:
    authority = new_key(here.root / "authority")
    subprocess.run(
        ["ssh-keygen", "-q", "-s", str(authority), "-I", "me", "-n", "me", str(mine.with_suffix(".pub"))],
        check=True,
        capture_output=True,
        timeout=60,
    )
    file = registered(here, mine)
    agent.add(str(mine))  # and the certificate beside it
    assert knock(here, file, agent).code == 0
    agent.add("-k", "-d", str(mine))  # but not the certificate
    done = knock(here, file, agent)
    assert "a certificate for SHA256:" in done.error
    certificate = (here.root / "id_ed25519-cert.pub").read_text()
    refused = here.run("add", "bob", "--pubkey", certificate)
    assert "got one of type ssh-ed25519-cert-v01@openssh.com" in refused.error


def test_no_agent_is_one_line_with_its_cure(here: Place, agent: Agent, mine: Path) -> None:
    file = registered(here, mine)
    done = knock(here, file, None)
    assert done.error == "there is no SSH agent: SSH_AUTH_SOCK is not set"
    assert "ssh-agent" in hint(done)
    done = knock(here, file, None, SSH_AUTH_SOCK=str(here.root / "nowhere"))
    assert done.error == f"no SSH agent at {here.root / 'nowhere'}: No such file or directory"
    assert knock(here, file, agent).code == 1


def test_an_agent_that_hangs_does_not_keep_the_terminal(here: Place, mine: Path) -> None:
    """Ctrl-C ends a knock that waits, as any program."""
    file = registered(here, mine)
    with fake_agent(lambda _: None) as hung:
        waiting = subprocess.Popen(
            here.command("--client-config", str(file), "knock"),
            env=here.environment | {"SSH_AUTH_SOCK": hung.path},
            stderr=subprocess.PIPE,
        )
        assert hung.asked.wait(DEADLINE)
        waiting.send_signal(signal.SIGINT)
        assert b"error" not in waiting.communicate(timeout=DEADLINE)[1]
        assert waiting.returncode == -signal.SIGINT


@pytest.mark.root
def test_another_users_agent_is_told(here: Place, agent: Agent, mine: Path) -> None:
    """By the kernel, and where its mode lets one in, by the agent itself."""
    file = registered(here, mine)
    nobody = 65534

    def as_nobody() -> Done:
        # A program of nobody's cannot read root's checkout: it runs what we have read.
        code = (
            "import os, sys\n"
            "from openme.client.ssh_agent import listed\nfrom openme.client.errors import SigningError\n"
            "import openme.client.agent_messages, difflib\n"
            f"os.setgroups([]); os.setgid({nobody}); os.setuid({nobody})\n"
            "try:\n    listed(sys.argv[1])\n"
            "except SigningError as error:\n    sys.exit(f'{error.message} | {error.hint}')\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(agent.path)],
            env=here.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    agent.path.parent.chmod(0o755)
    agent.path.chmod(0o600)
    done = as_nobody()
    assert "Permission denied | it is another user's" in done.err
    agent.path.chmod(0o666)
    done = as_nobody()
    assert "hung up" in done.err
    assert "it is another user's" in done.err
    assert file.exists()


def test_what_an_agent_calls_its_keys_cannot_move_the_cursor(here: Place, agent: Agent, mine: Path) -> None:
    agent.add(str(new_key(here.root / "other", comment="\x1b[2Jowned\u202e")))
    done = knock(here, registered(here, mine), agent)
    assert r"(\x1b[2Jowned\u202e)" in done.error


# -- passphrases


def sealed(here: Place, mine: Path) -> Path:
    """A profile whose key is in a file with the passphrase `geheim`."""
    file = registered(here, mine)
    name_file(file, mine, "geheim")
    return file


class Terminal:
    """A command with a terminal of its own, which shows what it prints there."""

    def __init__(self, here: Place, words: list[str], **environment: str) -> None:
        self._master, slave = pty.openpty()
        self.slave_name = os.ttyname(slave)
        self._seen = b""

        def own() -> None:
            os.setsid()
            os.close(os.open(self.slave_name, os.O_RDWR))  # the first one opened is the controlling terminal

        self.process = subprocess.Popen(
            here.command(*words),
            env=here.environment | environment,
            stdin=slave,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=own,  # noqa: PLW1509  # no other thread holds a lock that it needs
            text=True,
        )
        self.slave = slave

    def see(self, text: str) -> None:
        """Wait until the terminal shows this."""
        end = time.monotonic() + DEADLINE
        while text.encode() not in self._seen:
            assert time.monotonic() < end, self._seen
            if select.select([self._master], [], [], 0.1)[0]:
                self._seen += os.read(self._master, 1000)

    def type(self, text: str) -> None:
        """Type this."""
        os.write(self._master, text.encode())

    def shown(self) -> bytes:
        """All that it shows, to the end of the command."""
        while select.select([self._master], [], [], 0)[0]:
            self._seen += os.read(self._master, 1000)
        return self._seen

    def echoes(self) -> bool:
        """Whether it shows what is typed."""
        import termios  # noqa: PLC0415  # of this test alone

        return bool(termios.tcgetattr(self.slave)[3] & termios.ECHO)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        os.close(self._master)
        os.close(self.slave)


@pytest.fixture
def terminal(here: Place) -> Iterator[Callable[..., Terminal]]:
    with ExitStack() as stack:

        def make(*words: str, **environment: str) -> Terminal:
            made = Terminal(here, list(words), **environment)
            stack.callback(made.close)
            return made

        yield make


def test_a_passphrase_is_asked_for_on_the_terminal_and_not_shown(
    here: Place, mine: Path, terminal: Callable[..., Terminal]
) -> None:
    shown = terminal("--client-config", str(sealed(here, mine)), "knock", SSH_ASKPASS="/nonexistent")
    for said in ("wrong", "geheim"):
        shown.see(f"openme: passphrase for {mine}: " if said == "wrong" else f"{mine}: \r\nopenme: passphrase")
        shown.type(f"{said}\n")
    assert shown.process.wait(DEADLINE) == 0
    assert b"geheim" not in shown.shown()
    assert shown.echoes()


def test_ctrl_c_at_the_prompt_leaves_a_terminal_that_shows_what_is_typed(
    here: Place, mine: Path, terminal: Callable[..., Terminal]
) -> None:
    shown = terminal("--client-config", str(sealed(here, mine)), "knock")
    shown.see("passphrase for")
    assert not shown.echoes()
    shown.type("\x03")
    assert shown.process.wait(DEADLINE) == -signal.SIGINT
    assert shown.echoes()


def test_without_a_terminal_the_program_in_ssh_askpass_asks(here: Place, mine: Path) -> None:
    file, asked = sealed(here, mine), here.root / "asked"
    right = program(here.root / "right", f'echo "$1" >> {asked}', "echo geheim")
    assert knock(here, file, None, SSH_ASKPASS=str(right)).code == 0
    assert asked.read_text() == f"openme: passphrase for {mine}:\n"
    wrong = program(here.root / "wrong", f'echo "$1" >> {asked}', "echo wrong")
    assert "stays sealed: wrong passphrase" in knock(here, file, None, SSH_ASKPASS=str(wrong)).error
    assert len(asked.read_text().splitlines()) == 4
    declined = program(here.root / "declined", "exit 1")
    assert knock(here, file, None, SSH_ASKPASS=str(declined)).error == f"passphrase for {mine}: declined"
    gone = knock(here, file, None, SSH_ASKPASS=str(here.root / "gone"))
    assert gone.error == f"passphrase for {mine}: {here.root / 'gone'}: No such file or directory"
    nobody = knock(here, file, None)
    assert nobody.error == f"passphrase for {mine}: there is no terminal to ask on"
    assert "SSH_ASKPASS" in hint(nobody)
    never = knock(here, file, None, SSH_ASKPASS=str(right), SSH_ASKPASS_REQUIRE="never")
    assert never.error == nobody.error


def test_ssh_askpass_can_be_asked_for_although_there_is_a_terminal(
    here: Place, mine: Path, terminal: Callable[..., Terminal]
) -> None:
    right = str(program(here.root / "right", "echo geheim"))
    file = str(sealed(here, mine))
    for wish in ("force", "prefer"):
        shown = terminal("--client-config", file, "knock", SSH_ASKPASS=right, SSH_ASKPASS_REQUIRE=wish)
        assert shown.process.wait(DEADLINE) == 0
        assert b"passphrase" not in shown.shown()


def test_a_passphrase_is_in_no_argument_and_no_environment(here: Place, mine: Path) -> None:
    """Neither option nor variable takes one; the program that asks gets none either."""
    seen = here.root / "seen"
    askpass = program(
        here.root / "askpass", f"cat /proc/$PPID/cmdline /proc/$PPID/environ /proc/$$/cmdline > {seen}", "echo geheim"
    )
    assert knock(here, sealed(here, mine), None, SSH_ASKPASS=str(askpass)).code == 0
    assert b"knock" in seen.read_bytes()
    assert b"geheim" not in seen.read_bytes()


def test_a_key_file_that_others_may_read_is_refused_with_its_cure(here: Place, mine: Path) -> None:
    file = sealed(here, mine)
    mine.chmod(0o640)
    done = knock(here, file, None)
    assert "expected mode 0600" in done.error
    assert hint(done) == f"chmod 600 {mine}"


def test_without_the_extra_a_key_file_is_one_line_with_its_cure(here: Place, mine: Path) -> None:
    """As where `cryptography` was never installed; a key in the agent needs none."""
    file = sealed(here, mine)
    code = (
        "import sys\nsys.modules['cryptography'] = None\nfrom openme.cli.main import run\n"
        f"sys.argv = ['openme', '--client-config', {str(file)!r}, 'knock']\nrun()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=here.environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first == "openme: error: key files need the Python library cryptography, which is not there"
    assert second.startswith(f"openme: hint: {sys.executable} -m pip install 'cryptography[ssh]'")


def test_status_without_a_knock_needs_no_key(here: Place, mine: Path) -> None:
    done = here.run("--client-config", str(sealed(here, mine)), "status")
    assert (done.code, done.out) == (3, "closed\n")


# -- what is loaded


def test_a_knock_by_an_agent_loads_no_cryptography_and_a_plain_one_neither(
    here: Place, agent: Agent, mine: Path
) -> None:
    agent.add(str(mine))
    code = "import sys\nfrom openme.cli.main import main\nmain(sys.argv[1:])\nprint(*sorted(sys.modules))\n"
    loaded = []
    for file in (registered(here, mine), here.client("bob")):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            udp.bind(("127.0.0.1", here.port))
            done = subprocess.run(
                [sys.executable, "-c", code, "--client-config", str(file), "knock"],
                env=here.environment | {"SSH_AUTH_SOCK": str(agent.path)},
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
        loaded.append(set(done.stdout.split()))
    by_agent, plain = loaded
    unwanted = (
        "cryptography",
        "bcrypt",
        "getpass",
        "openme.client.key_file",
        "openme.keys.openssh",
        "openme.cli.passphrase",
    )
    assert [name for name in by_agent if name.startswith(unwanted)] == []
    assert "openme.client.ssh_agent" in by_agent
    agents = ("openme.client.ssh_agent", "openme.client.agent_messages", "openme.keys.ssh_data")
    assert [name for name in plain if name.startswith((*unwanted, *agents))] == []


def test_the_server_keeps_no_trace_of_where_the_key_is(here: Place, mine: Path) -> None:
    registered(here, mine)
    text = here.config.read_text()
    assert "someone@example.org" not in text
    assert "ssh-agent" not in text
    assert stat.S_IMODE(here.config.stat().st_mode) == 0o600
