"""The real ssh and what builds on it, through the stanza of `openme ssh-config`, to the real sshd behind a hidden port.

Each finds the door shut, and gets through by its own name for the host: that openme is there shows nowhere.
"""

import hashlib
import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.netns import Namespace, until, v4
from support.server import OPENME, SERVER, ServerWorld
from support.ssh import Ssh

pytestmark = pytest.mark.root
SIZE = 3 << 20


class Gate:
    """A world whose server hides sshd, and a client whose ssh knows `gate`; another sshd on the stranger's host."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.world = ServerWorld(stack, folder, knock_timeout="1s")
        self.folder = folder
        self.ssh = Ssh(folder)
        profile = self.world.add("alice", "--profile", "gate")
        stanza = self.world.openme(self.world.client, "--client-config", profile, "ssh-config", code=0)
        (self.ssh.folder / "openme.conf").write_text(stanza.stdout)
        self.ssh.configure(f"Include {self.ssh.folder}/openme.conf")
        self.log = self.ssh.serve(self.world.server)
        self.ssh.serve(self.world.stranger)
        self.world.start()

    @property
    def here(self) -> Namespace:
        return self.world.client

    def shut(self) -> int:
        """Wait until the door is; how many knocks opened it so far."""
        until(lambda: not self.world.sessions())
        return self.world.log().count("alice: opened")

    def is_left_alone(self) -> bool:
        """Whether no `openme connect` of this client runs any more."""
        return f"{self.folder}/alice.yaml connect" not in self.here.run("ps", "-eo", "args")

    def run(self, program: str, *words: str, **more: str) -> str:
        """Run it to its good end, without a word on stderr; its stdout."""
        done = self.ssh.run(self.here, program, *words, stdin=more.get("stdin"))
        assert (done.returncode, done.stderr) == (0, ""), done
        return done.stdout


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    with ExitStack() as stack:
        yield Gate(stack, tmp_path_factory.mktemp("gate"))


@pytest.fixture
def gate(whole: Gate) -> Iterator[Gate]:
    """With its door shut; each test has it opened with one knock."""
    before = whole.shut()
    yield whole
    assert whole.world.log().count("alice: opened") == before + 1


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "data"
    file.write_bytes(os.urandom(SIZE))
    return file


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_stanza_is_what_ssh_goes_by(whole: Gate) -> None:
    found = whole.run("ssh", "-G", "gate")
    assert f"hostname {SERVER[4]}\n" in found
    assert f"proxycommand {OPENME} --client-config {whole.folder}/alice.yaml connect --profile gate %h %p\n" in found


def test_ssh_runs_a_command_there(gate: Gate) -> None:
    assert gate.run("ssh", "gate", "echo", "hello") == "hello\n"


def test_ssh_has_the_exit_code_of_the_command(gate: Gate) -> None:
    assert gate.ssh.run(gate.here, "ssh", "gate", "exit 7").returncode == 7


def test_by_its_address_too(gate: Gate) -> None:
    assert gate.run("ssh", SERVER[4], "cat", stdin="to its end\n") == "to its end\n"


@pytest.mark.parametrize(("at", "to"), [("", "gate:"), ("gate:", "")], ids=["there", "back"])
def test_scp(gate: Gate, data: Path, at: str, to: str) -> None:
    gate.run("scp", "-q", f"{at}{data}", f"{to}{data}.copy")
    assert digest(Path(f"{data}.copy")) == digest(data)


def test_sftp(gate: Gate, data: Path) -> None:
    gate.run("sftp", "-q", "-b", "-", "gate", stdin=f"put {data} {data}.there\nget {data}.there {data}.back\n")
    assert digest(Path(f"{data}.back")) == digest(data)


def remote_shell(gate: Gate) -> str:
    """ssh as another program starts it."""
    return shlex.join(["ssh", "-F", str(gate.ssh.config)])


def test_rsync(gate: Gate, data: Path) -> None:
    gate.run("rsync", "-e", remote_shell(gate), str(data), f"gate:{data}.there")
    assert digest(Path(f"{data}.there")) == digest(data)


def test_git(gate: Gate, data: Path, tmp_path: Path) -> None:
    there, here = tmp_path / "there", tmp_path / "here"
    subprocess.run(["git", "init", "-q", str(there)], check=True)
    (there / "file").write_bytes(data.read_bytes())
    for words in (["add", "file"], ["-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "-q", "-m", "a"]):
        subprocess.run(["git", "-C", str(there), *words], check=True)
    gate.run("env", f"GIT_SSH_COMMAND={remote_shell(gate)}", "git", "clone", "-q", f"gate:{there}", str(here))
    assert digest(here / "file") == digest(data)


def test_a_host_behind_the_gate_by_proxy_jump(gate: Gate) -> None:
    found = gate.run("ssh", "-J", "gate", v4(3), "echo $SSH_CONNECTION").split()
    assert (found[0], found[2]) == (SERVER[4], v4(3)), "it comes from the gate"


def test_a_forwarded_port(gate: Gate) -> None:
    assert gate.run("ssh", "-W", f"{v4(3)}:22", "gate", stdin="x\n").startswith("SSH-2.0-")


def test_a_master_that_stays_carries_the_sessions_after_the_door_is_shut(gate: Gate, tmp_path: Path) -> None:
    options = ["-o", "ControlMaster=auto", "-o", f"ControlPath={tmp_path}/master", "-o", "ControlPersist=60"]
    assert gate.run("ssh", *options, "gate", "echo one") == "one\n"
    gate.shut()
    try:
        for word in ("two", "three"):
            assert gate.run("ssh", *options, "gate", "echo", word) == f"{word}\n"
        master = gate.ssh.run(gate.here, "ssh", *options, "-O", "check", "gate")
        assert "Master running" in master.stderr
    finally:
        gate.ssh.run(gate.here, "ssh", *options, "-O", "exit", "gate")
    until(gate.is_left_alone)


def test_an_established_session_outlives_its_door_and_a_killed_ssh_leaves_nothing_behind(gate: Gate) -> None:
    session = gate.here.popen("ssh", "-F", str(gate.ssh.config), "gate", "cat")
    assert session.stdin is not None
    assert session.stdout is not None
    for word in ("before\n", "after\n"):
        session.stdin.write(word)
        session.stdin.flush()
        assert session.stdout.readline() == word
        gate.shut()
    session.kill()
    until(gate.is_left_alone)


def test_sshd_has_seen_no_connection_that_said_nothing(gate: Gate) -> None:
    """Each that came, in whichever of these tests, was a session's: none was made only to look."""
    gate.run("ssh", "gate", "true")
    lines = gate.log.read_text().splitlines()
    begun = sum(line.startswith("Connection from ") for line in lines)
    assert begun == sum(line.startswith("Accepted publickey for root") for line in lines) > 0


def test_why_there_is_no_connection_is_told_on_the_stderr_of_ssh(whole: Gate) -> None:
    command = f"{OPENME} --client-config {whole.folder}/alice.yaml connect --profile nobody %h %p"
    done = whole.ssh.run(whole.here, "ssh", "-o", f"ProxyCommand={command}", "gate", "true")
    assert done.returncode == 255
    assert "openme: error: there is no profile nobody\nopenme: hint: profiles: gate\n" in done.stderr
