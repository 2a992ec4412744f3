"""`split`: code running in the listener opens nothing that a registered client has not just signed.

First the two processes as promised, read from /proc of the running server and tried from inside the sandbox; then the
server with its listener replaced by the one of hostile_listener.py, which sends whatever an attacker can think of.
"""

import fcntl
import grp
import json
import os
import pwd
import re
import resource
import secrets
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pyseccomp
import pytest
from py_landlock import LandlockError, get_abi_version

import openme
import support.confined
from openme.client.knock import build
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.ratchet import epoch_at
from openme.keys.x25519 import public_key_of
from openme.processes.roles import GUARDIAN, KEEPER, LISTENER, Role, RunsAs
from openme.seam.messages import FRAME_SIZE, Frame, KnockNotOpened, KnockOpened
from openme.wire import v1, v2
from openme.wire.knock import IPAddress, Knock
from support.entries import restrict
from support.kernel_doors import until_shut
from support.knocks import WEEK
from support.netns import until, v4
from support.server import CLIENT, KNOCK_PORT, SERVER, STRANGER, ServerWorld

pytestmark = pytest.mark.root

CAP_KILL = 1 << 5
CAP_NET_ADMIN = 1 << 12
OWN_IDS = range(61184, 65520)
REPORT_SIZE = 26
MIB = 1 << 20
ACCEPTED, REFUSED = KnockOpened().pack()[:1], KnockNotOpened().pack()[:1]
VICTIM = ip_address(CLIENT[4])
THIEF = ip_address(STRANGER[4])

# -- the two processes


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerWorld]:
    with ExitStack() as stack:
        made = ServerWorld(stack, tmp_path_factory.mktemp("split"))
        made.start()
        yield made


@dataclass(frozen=True)
class Status:
    """/proc/PID/status and what belongs to it."""

    pid: int

    def __getitem__(self, key: str) -> str:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(key + ":"))

    def capabilities(self, kind: str) -> int:
        return int(self["Cap" + kind], 16)

    def descriptors(self) -> dict[int, str]:
        links = Path(f"/proc/{self.pid}/fd").iterdir()
        return {int(link.name): str(link.readlink()) for link in links}

    def sockets(self, *tables: str) -> set[str]:
        """The sockets of its network namespace in these tables, as they stand in `descriptors`."""
        found = set()
        for table in tables:
            for line in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                found.add(f"socket:[{words[6] if table.startswith('unix') else words[9]}]")
        return found


def parted(world: ServerWorld) -> tuple[Status, Status]:
    keeper, listener = world.pids()[:2]
    return Status(keeper), Status(listener)


def test_the_listener_is_a_user_that_nobody_else_is_and_may_nothing(world: ServerWorld) -> None:
    keeper, listener = parted(world)
    (uid,), (gid,) = (set(map(int, listener[key].split())) for key in ("Uid", "Gid"))
    assert uid in OWN_IDS
    assert gid in OWN_IDS
    for ask, number in ((pwd.getpwuid, uid), (grp.getgrgid, gid)):
        with pytest.raises(KeyError):
            ask(number)
    assert listener["Groups"] == ""
    for kind in ("Eff", "Prm", "Inh", "Bnd", "Amb"):
        assert listener.capabilities(kind) == 0, kind
    assert listener["NoNewPrivs"] == "1"
    assert listener["Seccomp"] == "2"
    assert str(Path(f"/proc/{listener.pid}/cwd").readlink()) == "/"
    assert keeper["Uid"].split() == ["0"] * 4


def test_what_this_kernel_has_of_a_sandbox_is_in_force(world: ServerWorld) -> None:
    """A process says what it could not put in force before it obeys the first order; this host has all of it."""
    get_abi_version()  # raises on a kernel without Landlock
    assert "sandbox:" not in world.log()


def test_two_servers_have_two_users(world: ServerWorld, bare: ServerWorld) -> None:
    bare.start()
    assert parted(world)[1]["Uid"] != parted(bare)[1]["Uid"]
    assert bare.stop() == 0


def test_the_listener_holds_its_sockets_and_nothing_else(world: ServerWorld) -> None:
    _, listener = parted(world)
    descriptors = listener.descriptors()
    assert [descriptors.pop(number) for number in range(3)] == ["/dev/null"] * 3
    held = list(descriptors.values())
    datagrams, streams = listener.sockets("udp", "udp6"), listener.sockets("tcp", "tcp6")
    others = [text for text in held if text not in datagrams | streams]
    assert len([text for text in held if text in datagrams]) == 1
    assert len([text for text in held if text in streams]) == 1
    channel, *rest = sorted(others, reverse=True)
    assert channel in listener.sockets("unix")
    assert rest == ["anon_inode:[eventpoll]"]


def test_the_listener_alone_has_the_kernel_filters_memory_and_nobody_its_descriptors(world: ServerWorld) -> None:
    """And nobody has the right to load another one: what each has is in the table of roles."""
    mapped = {pid: Path(f"/proc/{pid}/maps").read_text().count("bpf-map") for pid in world.pids()}
    assert list(mapped.values()) == [0, 3, 0], "settings, counts and familiar addresses"
    for pid in world.pids():
        assert not [link for link in Status(pid).descriptors().values() if "bpf" in link]


def test_the_guardian_is_root_with_the_right_to_kill_alone(world: ServerWorld) -> None:
    guardian = Status(world.pids()[2])
    assert guardian["Uid"].split() == ["0"] * 4
    assert guardian["Groups"] == ""
    for kind, mask in {"Eff": CAP_KILL, "Prm": CAP_KILL, "Bnd": CAP_KILL, "Inh": 0, "Amb": 0}.items():
        assert guardian.capabilities(kind) == mask, kind
    assert guardian["NoNewPrivs"] == "1"
    assert guardian["Seccomp"] == "2"
    descriptors = guardian.descriptors()
    assert [descriptors.pop(number) for number in range(3)] == ["/dev/null"] * 3
    kinds = sorted(
        link.partition(":")[0] + link.partition(":")[2].lstrip("[0123456789") for link in descriptors.values()
    )
    # What it waits for: the keeper, the listener, and the end of a pipe.
    assert [link for link in kinds if not link.startswith("pipe")] == ["anon_inodepidfd]"] * 2
    assert len(kinds) == 3


def test_nothing_of_whoever_starts_it_is_left_to_the_others(bare: ServerWorld, tmp_path: Path) -> None:
    """Descriptors that are inherited, also above the limit, and groups."""
    secret = tmp_path / "secret"
    secret.write_text("a password")
    groups = ("setpriv", "--groups", "4,65533")
    bare.start(prefix=(*groups, "bash", "-c", f'exec 5<{secret} 250>>{secret}; ulimit -n 64; exec "$@"', "bash"))
    for pid in bare.pids()[1:]:
        assert str(secret) not in Status(pid).descriptors().values()
        assert Status(pid)["Groups"] == ""
    assert bare.stop() == 0


LIMITS = {"processes": 0, "file size": 0, "locked memory": 0, "pending signals": 0, "msgqueue size": 0}


def test_listener_and_guardian_have_limits(world: ServerWorld) -> None:
    for pid, files, memory in zip(world.pids()[1:], (640, 16), (256 * MIB, 16 * MIB), strict=True):
        text = Path(f"/proc/{pid}/limits").read_text()
        for name, most in {**LIMITS, "open files": files}.items():
            assert re.search(rf"^Max {name} +{most} +{most} ", text, re.MULTILINE), (name, text)
        found = re.search(r"^Max address space +(\d+) +(\d+) ", text, re.MULTILINE)
        assert found is not None
        assert found[1] == found[2]
        at_start = int(Status(pid)["VmSize"].split()[0]) << 10
        assert memory / 2 < int(found[1]) - at_start <= memory


def test_the_keeper_may_change_the_firewall_and_reaches_no_network(world: ServerWorld) -> None:
    keeper, _ = parted(world)
    assert keeper["Uid"].split() == ["0"] * 4
    for kind, mask in {"Eff": CAP_NET_ADMIN, "Prm": CAP_NET_ADMIN, "Bnd": CAP_NET_ADMIN, "Inh": 0, "Amb": 0}.items():
        assert keeper.capabilities(kind) == mask, kind
    assert keeper["NoNewPrivs"] == "1"
    assert keeper["Seccomp"] == "2"
    network = keeper.sockets("udp", "udp6", "tcp", "tcp6", "raw", "raw6")
    assert len(network) >= 2  # the knock and the health port are seen here, in other hands
    assert not network & set(keeper.descriptors().values())


LIMIT_NAMES = {
    resource.RLIMIT_NPROC: "processes",
    resource.RLIMIT_FSIZE: "file size",
    resource.RLIMIT_NOFILE: "open files",
    resource.RLIMIT_MEMLOCK: "locked memory",
    resource.RLIMIT_MSGQUEUE: "msgqueue size",
    resource.RLIMIT_SIGPENDING: "pending signals",
    resource.RLIMIT_NICE: "nice priority",
    resource.RLIMIT_RTPRIO: "realtime priority",
    resource.RLIMIT_CORE: "core file size",
}


@pytest.mark.parametrize("role", [KEEPER, LISTENER, GUARDIAN], ids=lambda role: role.name)
def test_each_process_is_what_the_table_of_roles_says(world: ServerWorld, role: Role) -> None:
    pids = dict(zip(("keeper", "listener", "guardian"), world.pids(), strict=False))
    status = Status(pids[role.name])
    mask = sum(1 << capability for capability in role.capabilities)
    for kind in ("Eff", "Prm", "Bnd"):
        assert status.capabilities(kind) == mask, kind
    assert (status["Uid"].split() == ["0"] * 4) == (role.runs_as is RunsAs.STARTER)
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == ("0" if role.calls is None else "2")
    limits = dict(re.findall(r"^Max (.+?)  +(\S+ +\S+)", Path(f"/proc/{status.pid}/limits").read_text(), re.MULTILINE))
    for which, most in role.limits.items():
        assert limits[LIMIT_NAMES[which]].split() == [str(most)] * 2
    assert (limits["address space"].split()[0] == "unlimited") == (role.growth is None)
    network = status.sockets("udp", "udp6", "tcp", "tcp6", "raw", "raw6")
    assert bool(network & set(status.descriptors().values())) == (role is LISTENER)


def test_both_stay_in_the_session_and_process_group_of_serve(world: ServerWorld) -> None:
    for status in parted(world):
        assert os.getsid(status.pid) == os.getsid(0)
        assert os.getpgid(status.pid) == os.getpgid(0)


def has_landlock() -> bool:
    try:
        return get_abi_version() > 0
    except LandlockError:
        return False


@pytest.mark.skipif(not has_landlock(), reason="this kernel has no Landlock")
def test_a_kernel_that_can_enforce_all_of_it_does(world: ServerWorld) -> None:
    assert "sandbox" not in world.log()


@pytest.mark.skipif(not has_landlock(), reason="this kernel has no Landlock")
@pytest.mark.parametrize("role", ["listener", "guardian"])
def test_landlock_holds_a_process_that_may_start_no_program(role: str) -> None:
    """Its library looks for libc by running programs, when it is first used."""
    done = subprocess.run(
        [sys.executable, support.confined.__file__, "late", role], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [[], "EACCES"]


def confined(tmp_path: Path, which: str) -> dict[str, str]:
    folders = [tmp_path / name for name in ("config", "state", "elsewhere")]
    for folder in folders:
        folder.mkdir()
        (folder / "there").touch()
    done = subprocess.run(
        [sys.executable, support.confined.__file__, which, *folders], capture_output=True, text=True, check=True
    )
    first, exec_outcome = map(json.loads, done.stdout.splitlines())
    assert first["warnings"] == []
    return {**first["outcome"], "exec": exec_outcome}


def test_inside_the_listener_nothing_works_but_its_sockets(tmp_path: Path) -> None:
    outcome = confined(tmp_path, "listener")
    assert outcome.pop("use the channel") == "done"
    assert set(outcome.values()) == {"EPERM"}, outcome


# What a hostile process may still ask the kernel for, whatever its arguments. A name more is a decision: what can it do
# to others by it? (docs/decisions/0005-two-processes.md)
CALLS = [
    "brk",
    "munmap",
    "mremap",
    "madvise",
    "futex",
    "sched_yield",
    "rseq",
    "set_robust_list",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sigaltstack",
    "restart_syscall",
    "clock_gettime",
    "clock_nanosleep",
    "nanosleep",
    "gettimeofday",
    "getrandom",
    "getpid",
    "gettid",
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getppid",
    "read",
    "write",
    "writev",
    "close",
    "exit",
    "exit_group",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "getsockname",
    "recvfrom",
]


@pytest.mark.parametrize(
    ("role", "names"), [("listener", [*CALLS, "listen", "accept", "accept4", "getpeername"]), ("guardian", CALLS)]
)
def test_no_other_system_call_is_left(role: str, names: list[str]) -> None:
    """By number, with arguments that no rule about arguments lets pass."""
    numbers = ",".join(str(pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)) for name in names)
    done = subprocess.run(
        [sys.executable, support.confined.__file__, "calls", role, numbers], capture_output=True, text=True, check=True
    )
    outcome = {int(number): what for number, what in json.loads(done.stdout).items()}
    assert len(outcome) == 468 - len(names)
    clone3 = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, "clone3")
    assert outcome.pop(clone3) == "ENOSYS"
    assert set(outcome.values()) == {"EPERM"}, {number for number, what in outcome.items() if what != "EPERM"}


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="this processor has one set of numbers")
@pytest.mark.parametrize("role", ["listener", "guardian", "keeper"])
@pytest.mark.parametrize("abi", ["i386", "x32"])
def test_no_other_set_of_call_numbers_leads_past_the_filter(role: str, abi: str) -> None:
    done = subprocess.run(
        [sys.executable, support.confined.__file__, "abi", role, abi], capture_output=True, check=False, timeout=30
    )
    assert (done.returncode, done.stdout) in {(-signal.SIGSYS, b""), (-signal.SIGSEGV, b""), (0, b"refused")}


def test_inside_the_keeper_files_and_netlink_work_and_no_more(tmp_path: Path) -> None:
    outcome = confined(tmp_path, "keeper")
    allowed = {name for name, what in outcome.items() if what == "done"}
    mine = {"use the channel", "socket: unix", "socket: netlink", "config: read", "state: make", "state: replace"}
    mine |= {"die with the parent"}  # for its child
    # A config of thousands of clients is read by a child, which the sandbox holds as well; a message needs a socket to
    # leave by, and the keeper has none.
    harmless = {
        "fork",
        "start a thread",
        "anonymous file",
        "send to an address",
        "send a message to an address",
    }
    assert allowed == mine | harmless
    assert not {name: what for name, what in outcome.items() if what not in {"done", "EPERM", "EACCES"}}


# -- run_as


def refused_start(world: ServerWorld) -> str:
    assert world.begin().wait(20) == 1
    return world.log()


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[ServerWorld]:
    """A world whose server has not been started."""
    with ExitStack() as stack:
        yield ServerWorld(stack, tmp_path)


def test_run_as_that_would_undo_the_split_is_an_error(bare: ServerWorld) -> None:
    bare.edit(run_as="nosuchuser")
    assert "run_as: there is no user nosuchuser" in refused_start(bare)
    bare.edit(run_as="root")
    assert "run_as: root is root" in refused_start(bare)
    bare.edit(run_as="nobody")
    assert "run_as: nobody is shared with other programs" in refused_start(bare)
    bare.edit(run_as="daemon")
    daemon = pwd.getpwnam("daemon")
    os.chown(bare.state_dir, daemon.pw_uid, 0)
    assert f"state_dir {bare.state_dir} belongs to another user" in refused_start(bare)
    os.chown(bare.state_dir, 0, 0)
    os.chown(bare.config, daemon.pw_uid, 0)
    assert "as owner" in refused_start(bare)
    os.chown(bare.config, 0, 0)
    # The folder of both: whoever may write there may put others in their place.
    bare.folder.chmod(0o777)
    assert f"run_as: daemon could write {bare.folder}" in refused_start(bare)
    bare.folder.chmod(0o770)
    os.chown(bare.folder, 0, daemon.pw_gid)
    assert f"run_as: daemon could write {bare.folder}" in refused_start(bare)
    bare.edit(run_as=None)
    bare.folder.chmod(0o777)
    assert re.search(rf"run_as: user id \d+ could write {bare.folder}", refused_start(bare))
    bare.folder.chmod(0o700)
    os.chown(bare.folder, 0, 0)
    assert "openme" not in bare.server.ruleset()  # none of them has touched the firewall before it knew
    bare.edit(run_as="daemon")
    bare.start()
    assert parted(bare)[1]["Uid"].split() == [str(daemon.pw_uid)] * 4
    assert bare.stop() == 0


# One user id in the namespace, as in a rootless container; and a root that may not become another user.
ALONE = {
    "one id is mapped": (("unshare", "--user", "--map-root-user"), "no second user is mapped"),
    "no right to change": (("setpriv", "--bounding-set", "-setuid,-setgid"), "without CAP_SETUID and CAP_SETGID"),
}


@pytest.mark.parametrize("how", ALONE)
def test_where_all_processes_must_be_one_user_a_warning_says_what_is_lost(bare: ServerWorld, how: str) -> None:
    prefix, why = ALONE[how]
    bare.edit(firewall="memory")
    bare.start(prefix=prefix)
    bare.says(f"warning: run_as: {why}")
    assert "could signal the others" in bare.log()
    for pid in bare.pids()[1:]:
        assert Status(pid)["Uid"].split() == ["0"] * 4
        assert Status(pid).capabilities("Eff") in {0, CAP_KILL}
    assert Status(bare.pids()[1]).capabilities("Eff") == 0
    assert bare.stop() == 0


def test_an_installation_that_run_as_cannot_read_serves(bare: ServerWorld, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir(mode=0o700)
    subprocess.run(["cp", "-r", str(Path(openme.__file__).parent), str(hidden)], check=True)
    alice = bare.add("alice")
    bare.start("--log-json", prefix=("env", f"PYTHONPATH={hidden}", "PYTHONDONTWRITEBYTECODE=1"))
    bare.send(b"", b"short", bytes(165), b"\x01" + secrets.token_bytes(164), bytes(2000))
    bare.opens(alice)
    bare.opens(alice, version=6)
    assert "mistake" not in bare.log()
    assert bare.stop() == 0


# -- one without the other


@pytest.mark.parametrize(
    ("victim", "how"), [("listener", signal.SIGKILL), ("listener", signal.SIGSEGV), ("keeper", signal.SIGKILL)]
)
def test_either_dying_ends_the_other_and_doors_close_on_time(tmp_path: Path, victim: str, how: signal.Signals) -> None:
    with ExitStack() as stack:
        world = ServerWorld(stack, tmp_path, knock_timeout="2s")
        alice = world.add("alice")
        world.serve(tcp=[22])
        world.start()
        keeper, listener = world.pids()[:2]
        world.opens(alice, port=22)
        os.kill(listener if victim == "listener" else keeper, how)
        assert world.wait() == (1 if victim == "listener" else -how)
        until(lambda: not Path(f"/proc/{listener}").exists(), 5)
        # Nobody is alive, what was hidden is hidden, and the kernel ends the door by itself.
        assert world.tcp(world.stranger, 22) == "filtered"
        until_shut(world.server, at_most=2)
        assert world.tcp(world.client, 22) == "filtered"
        world.start()
        world.opens(alice, port=22)


def test_a_listener_that_hangs_does_not_outlive_the_keeper(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = ServerWorld(stack, tmp_path)
        world.start()
        keeper, listener, guardian = world.pids()
        os.kill(listener, signal.SIGSTOP)
        os.kill(keeper, signal.SIGKILL)
        world.wait()
        until(lambda: not Path(f"/proc/{listener}").exists() and not Path(f"/proc/{guardian}").exists(), 5)
        world.start()


# -- a hostile listener


class TakenOver(ServerWorld):
    """A server whose listener is the attacker's."""

    def start(
        self,
        *words: str,
        level: str = "debug",
        terminal: int | None = None,
        stderr: int | None = None,
        dies: str = "",
        **_: object,
    ) -> None:
        self.runs += 1
        script = str(Path(__file__).with_name("hostile_listener.py"))
        arguments = [
            *([dies] if dies else []),
            "--config",
            str(self.config),
            "--log-level",
            level,
            "serve",
            "--state-file",
            str(self.state_file),
        ]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                self.server.command(sys.executable, script, *arguments, *words),
                stdin=subprocess.DEVNULL if terminal is None else terminal,
                stdout=log,
                stderr=log if stderr is None else stderr,
                start_new_session=terminal is not None,
                preexec_fn=None if terminal is None else _take_terminal,  # noqa: PLW1509  # no threads run here
            )
        until(self._serves)

    def tell(self, letter: bytes, content: bytes = b"", *, wait: float = 5) -> bytes:
        """Have the listener do something; what came of it."""
        with self.socket_on(self.client, socket.SOCK_DGRAM) as commands:
            commands.settimeout(wait)
            time.sleep(0.003)  # datagrams that are no knocks: the kernel lets 500 a second through
            commands.sendto(letter + content, (SERVER[4], KNOCK_PORT))
            return commands.recv(65536)

    def attack(self, *words: object) -> Any:
        """Have the listener try something against the others; what came of it, as JSON has it."""
        return json.loads(self.tell(b"A", " ".join(map(str, words)).encode(), wait=30))

    def frame(self, content: bytes) -> bytes:
        """Have a frame sent; the verdict."""
        return self.tell(b"F", content)

    @property
    def nobody_is_in(self) -> bool:
        return self.sessions() == [] and "expires" not in self.server.run("nft", "list", "ruleset")

    def addresses(self) -> list[str]:
        return [session["ip"] for session in self.sessions()]


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@dataclass(frozen=True)
class Stage:
    """`key` is what the listener decrypts with: the version 1 key, or the private key of `epoch`."""

    world: TakenOver
    alice: Path
    key: bytes
    wire: int = 1
    epoch: int = 0

    def knock(self, target: IPAddress | None = None, late: float = 0, client: Path | None = None) -> bytes:
        """A client's knock, dated `late` seconds ago and sealed with the key that is live now."""
        profile = self.world.profile(client or self.alice)
        moment = time.time_ns() - round(late * 10**9)
        if self.wire == 1:
            return build(profile, target, moment).datagram
        epoch_keys = {epoch_at(moment, WEEK): public_key_of(self.key)}
        return build(profile, target, moment, epoch_keys).datagram


@pytest.fixture
def stage(taken: Stage) -> Iterator[Stage]:
    """Nobody is in before, and the keeper is alive and judges well after."""
    world = taken.world
    world.ask("close", name="alice")
    assert world.nobody_is_in
    yield taken
    world.ask("close", name="alice")
    assert world.nobody_is_in
    fresh = taken.knock(VICTIM)
    assert world.frame(framed(taken, fresh)) == ACCEPTED
    assert world.addresses() == [str(VICTIM)]


@pytest.fixture(scope="module", params=[1, 2], ids=["v1", "v2"])
def taken(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Stage]:
    with ExitStack() as stack:
        world = TakenOver(stack, tmp_path_factory.mktemp("hostile"))
        version = ["--v1"] if request.param == 1 else []
        alice = world.add("alice", *version)
        world.add("careful", *version)
        restrict(world, "careful", "require_target_ip: true")
        world.start()
        yield stage_of(world, alice, request.param)


def stage_of(world: TakenOver, alice: Path, wire: int) -> Stage:
    if wire == 1:
        return Stage(world, alice, world.tell(b"K"))
    told = world.tell(b"E")
    return Stage(world, alice, told[8:], 2, int.from_bytes(told[:8], "big"))


def aead_key(stage: Stage, packet: bytes) -> bytes:
    """The key of a packet, which the listener knows."""
    if stage.wire == 1:
        return v1.aead_key_untrusted(b"\x01" + packet[1:], stage.key)
    return v2.schedule_untrusted(packet, stage.key, public_key_of(stage.key)).aead_key


def framed(stage: Stage, packet: bytes, source: IPAddress = VICTIM, /, **changed: object) -> bytes:
    """The frame that an honest listener would send, or one with fields of the attacker's choice."""
    nonce = packet[v1.AEAD_NONCE_OFFSET : v1.CIPHERTEXT_OFFSET]
    if stage.wire == 2:
        nonce = v2.schedule_untrusted(packet, stage.key, public_key_of(stage.key)).aead_nonce
    values: dict[str, object] = {
        "version": stage.wire,
        "source": source,
        "epoch": stage.epoch,
        "aead_key": aead_key(stage, packet),
        "aead_nonce": nonce,
        "packet": packet,
    }
    return Frame(**(values | changed)).pack()  # type: ignore[arg-type]


def test_he_holds_the_live_keys_and_reads_knocks(stage: Stage) -> None:
    """The price of a take-over, shown: what is recorded or arrives meanwhile is an open book (not a door)."""
    if stage.wire == 1:
        assert stage.key == stage.world.private_key()
        return
    keys = stage.world.profile(stage.alice).epoch_keys
    assert keys is not None
    assert public_key_of(stage.key) == keys.keys[stage.epoch - keys.first]


def test_another_epoch_than_a_live_one_opens_nothing_in_version_2(stage: Stage) -> None:
    if stage.wire == 1:
        return
    for epoch in (0, stage.epoch - 1, stage.epoch + 1, 2**64 - 1):
        assert stage.world.frame(framed(stage, stage.knock(VICTIM), epoch=epoch)) == REFUSED


def test_random_frames_open_nothing(stage: Stage) -> None:
    for _ in range(300):
        assert stage.world.frame(secrets.token_bytes(FRAME_SIZE)) == REFUSED
    for filler in (bytes(FRAME_SIZE), b"\xff" * FRAME_SIZE, b"\x01" * FRAME_SIZE):
        assert stage.world.frame(filler) == REFUSED


def test_old_and_early_knocks_open_nothing(stage: Stage) -> None:
    for late in (61, 3600, 86400 * 365, -61, -3600, -86400 * 365):
        assert stage.world.frame(framed(stage, stage.knock(VICTIM, late))) == REFUSED


def test_a_knock_opens_once_whatever_is_said_around_it(stage: Stage) -> None:
    knock = stage.knock(VICTIM)
    assert stage.world.frame(framed(stage, knock)) == ACCEPTED
    stage.world.ask("close", name="alice")
    for source in (VICTIM, THIEF, ip_address("2001:db8::2")):
        for changed in ({}, {"version": 3 - stage.wire}, {"epoch": 7}, {"aead_nonce": bytes(12)}):
            assert stage.world.frame(framed(stage, knock, source, **changed)) == REFUSED


def test_changed_fields_open_nothing(stage: Stage) -> None:
    """Every byte of a signed packet flipped; the AEAD key is the right one, which only the listener could know."""
    knock = stage.knock(VICTIM)
    key = aead_key(stage, knock)
    # M is for an honest listener, who drops what it does not fit; it says nothing that the keeper believes.
    unsigned = range(v2.FILTER_MAC_OFFSET, v2.CIPHERTEXT_OFFSET) if stage.wire == 2 else ()
    for place in range(len(knock)):
        changed = knock[:place] + bytes([knock[place] ^ 1 << place % 8]) + knock[place + 1 :]
        if place not in unsigned:
            assert stage.world.frame(framed(stage, knock, packet=changed, aead_key=key)) == REFUSED, place
    # A new plaintext under the right key, with the signature that was made for the old one.
    assert stage.world.frame(framed(stage, knock, packet=resealed(stage, knock))) == REFUSED


def resealed(stage: Stage, knock: bytes) -> bytes:
    """The same knock with the thief's address in it, as far as whoever holds the decryption keys can make it."""
    content = Knock(time.time_ns(), secrets.token_bytes(16), THIEF)
    if stage.wire == 1:
        signature = knock[v1.SIGNATURE_OFFSET :]
        key = aead_key(stage, knock)
        return v1.assemble(knock[1:33], key, knock[33:45], v1.pack_plaintext(content), lambda _: signature)
    epoch_public = public_key_of(stage.key)
    schedule = v2.schedule_untrusted(knock, stage.key, epoch_public)
    old = v2.open_untrusted(knock, schedule.aead_key, schedule.aead_nonce)
    fields = old.fields[:1] + v1.pack_plaintext(content) + old.key_id
    return v2.assemble(knock[:32], schedule, epoch_public, fields + old.signature)


def test_his_own_signature_opens_nothing(stage: Stage) -> None:
    content = Knock(time.time_ns(), secrets.token_bytes(16), THIEF)
    own = ClientPrivateKey(secrets.token_bytes(32))
    alice = stage.world.profile(stage.alice).public_key
    assert alice is not None
    if stage.wire == 1:
        key = secrets.token_bytes(32)
        for signer in (own.sign, lambda _: bytes(64)):
            plaintext = v1.pack_plaintext(content)
            packet = v1.assemble(secrets.token_bytes(32), key, secrets.token_bytes(12), plaintext, signer)
            assert stage.world.frame(framed(stage, packet, aead_key=key)) == REFUSED
        return
    epoch_public = public_key_of(stage.key)
    for name in (alice, own.public):  # as alice, by her key id, and as himself
        representative, secret = v2.new_ephemeral()
        schedule = v2.ephemeral_schedule(secret, epoch_public, representative)
        plaintext = v2.plaintext_of(content, own, name, epoch_public, representative)
        for signed in (plaintext, plaintext[: v2.SIGNATURE_OFFSET] + bytes(64)):
            packet = v2.assemble(representative, schedule, epoch_public, signed)
            assert stage.world.frame(framed(stage, packet)) == REFUSED


def test_other_aead_keys_and_versions_open_nothing(stage: Stage) -> None:
    knock = stage.knock(VICTIM)
    for key in (bytes(32), b"\xff" * 32, stage.key, secrets.token_bytes(32)):
        assert stage.world.frame(framed(stage, knock, aead_key=key)) == REFUSED
    for version in range(256):
        other = bytes([version]) + knock[1:]
        if version not in {stage.wire, knock[0]}:
            assert stage.world.frame(framed(stage, knock, packet=other, version=version)) == REFUSED
            assert stage.world.frame(framed(stage, knock, packet=other)) == REFUSED
        if version != stage.wire:
            assert stage.world.frame(framed(stage, knock, version=version)) == REFUSED


def test_a_named_target_stays_the_only_one(stage: Stage) -> None:
    for source in (THIEF, ip_address("203.0.113.9"), ip_address("2001:db8::bad"), ip_address("127.0.0.1")):
        changed = {"epoch": 2**64 - 1, "aead_nonce": secrets.token_bytes(12)} if stage.wire == 1 else {}
        assert stage.world.frame(framed(stage, stage.knock(VICTIM), source, **changed)) == ACCEPTED
        assert stage.world.addresses() == [str(VICTIM)]
        assert stage.world.tcp(stage.world.stranger, KNOCK_PORT) == "filtered"


def test_he_chooses_the_address_of_a_fresh_wildcard_knock(stage: Stage) -> None:
    """What the split cannot end: the source is his word. Ports, client and time are not."""
    assert stage.world.frame(framed(stage, stage.knock(), THIEF)) == ACCEPTED
    assert stage.world.addresses() == [str(THIEF)]
    assert [session["ports"] for session in stage.world.sessions()] == [[{"port": 22, "proto": "tcp", "end_port": 22}]]
    stage.world.ask("close", name="alice")
    # Not even he can choose what is no unicast address of somebody else.
    for source in ("127.0.0.1", "0.0.0.0", SERVER[4], SERVER[6], "ff02::1", "255.255.255.255", "192.0.2.255"):
        assert stage.world.frame(framed(stage, stage.knock(), ip_address(source))) == REFUSED


def test_require_target_ip_ends_that(stage: Stage) -> None:
    careful = stage.world.folder / "careful.yaml"
    assert stage.world.frame(framed(stage, stage.knock(client=careful), THIEF)) == REFUSED
    assert stage.world.nobody_is_in


def test_a_refused_client_stays_refused(stage: Stage) -> None:
    knock = stage.knock(THIEF, client=stage.world.add("gone", *(["--v1"] if stage.wire == 1 else [])))
    stage.world.revoke("gone")
    assert stage.world.frame(framed(stage, knock)) == REFUSED


def test_attached_descriptors_are_dropped_unseen(stage: Stage) -> None:
    keeper = Status(stage.world.pids()[0])
    before = len(keeper.descriptors())
    for _ in range(10):
        assert stage.world.tell(b"D", secrets.token_bytes(FRAME_SIZE)) == REFUSED
    assert len(keeper.descriptors()) == before


def test_flooding_and_never_listening_stops_nobody_else(tmp_path: Path) -> None:
    """20,000 frames, half of them with a client's signature, from a listener that reads no answer."""
    with ExitStack() as stack:
        world = TakenOver(stack, tmp_path)
        alice = world.add("alice")
        world.start()
        stage = stage_of(world, alice, 2)
        old = framed(stage, stage.knock(VICTIM, 61))
        world.tell(b"S")
        memory = int(Status(world.pids()[0])["VmRSS"].split()[0])
        taken = sum(
            int.from_bytes(world.tell(b"R", frame), "big") for frame in [old, secrets.token_bytes(FRAME_SIZE)] * 10
        )
        assert taken > 1000
        assert int(Status(world.pids()[0])["VmRSS"].split()[0]) < memory + 20_000  # KiB
        # The keeper answers its operator, opens what is signed, and closes on time.
        assert world.nobody_is_in
        fresh = framed(stage, stage.knock(VICTIM))
        until(lambda: world.tell(b"F", fresh) == b"" and world.addresses() == [str(VICTIM)], 10)
        assert world.ask("close", name="alice")["closed"] == [str(VICTIM)]
        assert world.stop() == 0


@pytest.mark.parametrize("size", [0, FRAME_SIZE + 1, 60_000])
def test_a_frame_of_another_size_ends_the_server_with_the_doors_shut(tmp_path: Path, size: int) -> None:
    """No honest listener sends one, so that nothing it says can be believed any more; the next start is clean."""
    with ExitStack() as stack:
        world = TakenOver(stack, tmp_path)
        world.serve(tcp=[22])
        world.start()
        stage = stage_of(world, world.add("alice"), 2)
        frame = framed(stage, stage.knock(VICTIM))
        world.send(b"F" + (frame + bytes(size))[:size])
        assert world.wait() == 1
        assert "the listener is gone" in world.log()
        for host in (world.client, world.stranger):
            assert world.tcp(host, 22) == "filtered"
        assert v4(2) not in world.server.run("nft", "list", "ruleset")
        world.start()
        assert world.nobody_is_in
        assert world.stop() == 0


# -- what a hostile listener does to others, without any sandbox


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TakenOver]:
    with ExitStack() as stack:
        world = TakenOver(stack, tmp_path_factory.mktemp("attacks"))
        world.add("alice")
        world.start(level="info")
        yield world


def test_he_holds_no_descriptor_of_the_operators(hostile: TakenOver) -> None:
    held = hostile.attack("descriptors")
    assert [held.pop(str(number)) for number in range(3)] == ["/dev/null"] * 3
    assert len(held) == 3
    assert all(link.startswith("socket:") for link in held.values())


def test_he_writes_no_line_of_his_own(hostile: TakenOver) -> None:
    hostile.attack("write_to_all", "alice:_opened_22/tcp")
    assert hostile.attack("signals", hostile.pids()[0])[f"stderr {hostile.pids()[0]}"] == "EACCES"
    assert "alice:_opened" not in hostile.log()
    assert "\x1b" not in hostile.log()


def test_he_has_no_terminal(tmp_path: Path) -> None:
    """Started from a terminal, as in a first trial; by its name everybody who has one may open it."""
    main, terminal = os.openpty()
    with ExitStack() as stack:
        stack.callback(os.close, main)
        world = TakenOver(stack, tmp_path)
        world.start(terminal=terminal)
        os.close(terminal)
        keeper, listener, guardian = world.pids()
        has_terminal = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[4] for pid in world.pids()]
        assert has_terminal[0] != "0", "the server itself was not started from a terminal"
        assert world.attack("open_terminal") == "ENXIO"
        assert has_terminal[1:] == ["0", "0"]
        assert {os.getsid(pid) for pid in (listener, guardian)} == {os.getsid(keeper)}
        assert world.stop() == 0


def test_he_signals_nobody(hostile: TakenOver) -> None:
    """On a kernel without Landlock's signal scope as well: nothing here rests on a sandbox."""
    keeper, _, guardian = hostile.pids()
    outcome = hostile.attack("signals", keeper, guardian)
    assert not [name for name, what in outcome.items() if what not in {"EPERM", "EACCES", "ESRCH"}], outcome
    assert hostile.attack("signals_of_sockets", keeper, guardian) == "done"
    hostile.ask("sessions")
    assert (hostile.pids()[0], hostile.pids()[2]) == (keeper, guardian)


def test_he_takes_bounded_memory_and_starts_no_process(hostile: TakenOver) -> None:
    assert 0 < hostile.attack("eat_memory", 2048 * MIB) <= 256 * MIB
    outcome = hostile.attack("use_up")
    assert outcome.pop("descriptors") < 640
    assert outcome == {"fork": "EAGAIN", "file": "EFBIG", "lock memory": "EPERM"}


def report(kind: int, reason: int = 0, number: int = 1, source: bytes = bytes(16)) -> bytes:
    return bytes([kind, reason]) + number.to_bytes(8, "big") + source


def test_all_that_he_says_is_wrong_numbers_in_a_line_a_minute(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = TakenOver(stack, tmp_path)
        world.start(level="info")
        before = len(world.log().splitlines())
        taken = 0
        for number in range(300):
            for said in (report(0, number % 7, 2**64 - 1), report(number % 8, number % 256), secrets.token_bytes(26)):
                taken += world.tell(b"P", said)[0]
        assert taken > 500
        world.says("the listener has sent")
        lines = world.log().splitlines()[before:]
        # Sums, nonsense, receiving failed; then once each: seccomp, its library, Landlock, memory, a mistake.
        assert len(lines) <= 8 + 2, lines
        assert "it may have been taken over" in world.log()
        assert world.ask("sessions")["active_sessions"] == []
        assert world.stop() == 0


def test_the_line_of_every_door_is_written_though_he_says_what_he_can(tmp_path: Path) -> None:
    """Stderr is a small pipe that is not read for a while; he fills it with all that he may cause on level debug."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(reader, False)
    with ExitStack() as stack:
        stack.callback(os.close, reader)
        world = TakenOver(stack, tmp_path)
        alice = world.add("alice")
        world.start(stderr=writer)
        os.close(writer)
        stage = stage_of(world, alice, 2)
        doors = 6
        for door in range(doors):
            for number in range(100):
                world.tell(b"P", report(0, number % 7, 1, secrets.token_bytes(16)))
            assert world.frame(framed(stage, stage.knock(ip_address(f"198.51.100.{door + 1}")))) == ACCEPTED
        said = bytearray()

        def has_all() -> bool:
            with suppress(BlockingIOError):
                said.extend(os.read(reader, 65536))
            return said.count(b"alice: opened") == doors

        until(has_all, 10)
        assert world.stop() == 0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_he_outlives_nobody_and_gives_the_port_back(tmp_path: Path, how: signal.Signals) -> None:
    """He ignores the end of the channel; the guardian does not ask."""
    with ExitStack() as stack:
        world = TakenOver(stack, tmp_path)
        world.start()
        keeper, listener, guardian = world.pids()
        world.send(b"I")
        until(lambda: "nanosleep" in Path(f"/proc/{listener}/wchan").read_text())
        os.kill(keeper, how)
        assert world.wait() == (0 if how == signal.SIGTERM else -how)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in (listener, guardian)), 5)
        assert str(KNOCK_PORT) not in world.server.run("ss", "-ulnH")
        world.start()
        assert world.stop() == 0


def test_a_guardian_that_is_killed_is_missed(bare: ServerWorld) -> None:
    alice = bare.add("alice")
    bare.serve(tcp=[22])
    bare.start()
    os.kill(bare.pids()[2], signal.SIGKILL)
    bare.says("error: the guardian was killed")
    bare.opens(alice, port=22)
    assert bare.log().count("the guardian was killed") == 1
    assert bare.stop() == 0


def test_a_listener_at_its_limit_ends_the_server_and_the_log_says_so(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = TakenOver(stack, tmp_path)
        world.serve(tcp=[22])
        world.start()
        world.send(b"A" + b"die_of_hunger")
        assert world.wait() == 1
        assert "error: the listener has reached its limit of memory and ends" in world.log()
        assert "error: the listener ended with 1" in world.log()
        assert world.tcp(world.stranger, 22) == "filtered"


@pytest.mark.parametrize("dies", ["dies", "dies when it is ready"])
def test_a_listener_that_dies_before_it_has_its_keys_is_said_to_be_gone(tmp_path: Path, dies: str) -> None:
    with ExitStack() as stack:
        world = TakenOver(stack, tmp_path)
        with pytest.raises(AssertionError, match="the server ended with 1"):
            world.start(dies=dies)
        assert "the listener was killed by SIGKILL" in world.log()
        assert "mistake" not in world.log()


@pytest.mark.parametrize("dies", ["dies", "dies when it is ready"])
def test_a_start_whose_listener_does_not_come_up_hides_nothing(tmp_path: Path, dies: str) -> None:
    """Else nobody could knock, and everybody would be shut out until somebody came in by another way."""
    with ExitStack() as stack:
        world = TakenOver(stack, tmp_path)
        before = world.server.ruleset()
        with pytest.raises(AssertionError, match="the server ended with 1"):
            world.start(dies=dies)
        assert world.server.ruleset() == before
        assert not {"hidden_ports", "control"} & {path.name for path in world.state_dir.iterdir()}
