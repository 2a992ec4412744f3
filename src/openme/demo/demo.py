"""The demo: the whole story on this machine, with the real server, the real firewall and real tools.

    +--------------------+     +--------------------------------------------+     +--------------------+
    | alice              |     | server  192.0.2.1                          |     | mallory            |
    | 192.0.2.2    eth0 -+-----+- to-alice                     to-mallory --+-----+- eth0    192.0.2.3 |
    | has a profile      |     | openme serve, its own nftables, a service  |     | has nmap           |
    +--------------------+     +--------------------------------------------+     +--------------------+

Each step says what it promises, runs commands and looks whether their output shows it.
"""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from openme.demo.demo_hosts import Cable, Host, Interruptions, Outcome, connect
from openme.errors import OpenmeError
from openme.interrupts import Interrupted, ignore
from openme.processes.privileges import has_net_admin

SERVER = "192.0.2.1"
ALICE = "192.0.2.2"
MALLORY = "192.0.2.3"
DOOR_SECONDS = 8
_READY_SECONDS = 15.0

_TOOLS = {
    "nmap": "nmap",
    "nft": "nftables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "bash": "bash",
    "python3": "python3",
}

_SERVICE = """\
import socketserver

class Service(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(b"the service greets you\\n")
        for line in self.rfile:
            self.wfile.write(b"the service heard: " + line)

socketserver.ThreadingTCPServer.allow_reuse_address = True
with socketserver.ThreadingTCPServer(("", 22), Service) as server:
    print("listening", flush=True)
    server.serve_forever()
"""

_HOST_FIREWALL = """\
table inet filter {
    chain input {
        type filter hook input priority 0; policy drop;
        iifname "lo" accept
        ct state established,related accept
        tcp dport 22 accept
    }
}
"""

_SCAN = f"nmap -n -Pn -T4 --max-retries 1 -p 1-100 {SERVER}"
_LOOK = f"nmap -n -Pn -T4 --max-retries 1 -p 22 {SERVER}"


@dataclass(frozen=True, slots=True)
class _Stage:
    """The hosts, with their shells in the demo's directory."""

    directory: Path
    server: Host
    alice: Host
    mallory: Host


def demo() -> int:
    """Show the story; 0 when every step showed what it promised. OpenmeError otherwise, and for what is missing."""
    _need_everything()
    interruptions = Interruptions()
    try:
        with ExitStack() as stack:
            interruptions.catch()
            try:
                stage = _build(stack, interruptions)
                for number, (title, step) in enumerate(_STEPS, 1):
                    interruptions.check()
                    print(f"\n== {number}. {title}\n", flush=True)
                    step(stage)
            finally:
                ignore()  # an impatient second Ctrl-C must neither leave a host nor end us otherwise than the first
    except Interrupted:
        print("openme: ended early; the three hosts are gone, nothing is left", file=sys.stderr)
        raise
    print("\nEvery step showed what it promised. The three hosts are gone, nothing is left.")
    return 0


def _need_everything() -> None:
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    if os.geteuid() != 0 or not has_net_admin():
        raise OpenmeError("the demo builds network namespaces, which needs root", "run it as root: sudo openme demo")
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        packages = " ".join(dict.fromkeys(_TOOLS[tool] for tool in missing))
        raise OpenmeError(f"the demo needs {', '.join(missing)}", f"install it: apt-get install {packages}")


def _openme_program() -> Path:
    """The `openme` that is running, so that the hosts run the same one."""
    for candidate in (Path(sys.argv[0]), Path(sys.executable).with_name("openme")):
        found = shutil.which(candidate)
        if candidate.name == "openme" and found:
            return Path(found).absolute()
    raise OpenmeError("the program openme is not installed beside its Python", "install it: pip install .")


def _build(stack: ExitStack, interruptions: Interruptions) -> _Stage:
    program = _openme_program()
    with interruptions.held():
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openme-demo-")))
    (directory / "service.py").write_text(_SERVICE, encoding="utf-8")
    (directory / "firewall.nft").write_text(_HOST_FIREWALL, encoding="utf-8")
    environment = {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(directory),
        "LANG": "C.UTF-8",
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def host(name: str) -> Host:
        with interruptions.held():
            made = Host(name, directory, environment)
            stack.callback(made.end)
        made.run("ip link set lo up", show=False)
        return made

    stage = _Stage(directory, host("server"), host("alice"), host("mallory"))
    # A run directory of its own, in the host's own mount namespace: nothing of the demo's stays in this machine's.
    stage.server.run("mount -t tmpfs -o mode=755 tmpfs /run", show=False)
    connect(Cable((stage.server, "to-alice", SERVER), (stage.alice, "eth0", ALICE)))
    connect(Cable((stage.server, "to-mallory", SERVER), (stage.mallory, "eth0", MALLORY)))
    print(f"Three hosts in namespaces of their own: server {SERVER}, alice {ALICE}, mallory {MALLORY}.")
    print(f"Their files are in {directory}. 'alice $' stands before what runs on alice, and so on.")
    return stage


def _expect(outcome: Outcome, promise: str, *patterns: str, code: int = 0) -> None:
    """Say that the outcome shows the promise, or end the demo saying that it does not."""
    missing = [pattern for pattern in patterns if not re.search(pattern, outcome.output, re.MULTILINE)]
    if outcome.code != code:
        missing.append(f"exit code {code} (it was {outcome.code})")
    if missing:
        raise OpenmeError(f"this step did not show that {promise}; not in its output: {', '.join(missing)}")
    print(f"-> {promise}", flush=True)


def _do(host: Host, command: str) -> None:
    """A command that shows nothing by itself but has to work."""
    if code := host.run(command).code:
        raise OpenmeError(f"{host.name}: '{command}' ended with exit code {code}")


def _until(host: Host, command: str, what: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while host.run(command, show=False).code != 0:
        if time.monotonic() > deadline:
            host.run("cat serve.log service.log", show=True)
            raise OpenmeError(f"{what} did not start within {_READY_SECONDS:.0f} s")
        time.sleep(0.05)


def _visible(stage: _Stage) -> None:
    _do(stage.server, "nft -f firewall.nft")
    _do(stage.server, "python3 service.py >service.log &")
    _until(stage.server, "grep -q listening service.log", "the service")
    _do(stage.server, "nft --stateless list ruleset >before.nft")
    _expect(stage.mallory.run(_SCAN), "anybody on the network finds port 22", r"^22/tcp +open\b")


def _set_up(stage: _Stage) -> None:
    _do(stage.server, f"openme --config server.yaml init --server {SERVER} --state-dir $PWD/state")
    _do(stage.server, f"sed -i 's/knock_timeout: 30s/knock_timeout: {DOOR_SECONDS}s/' server.yaml")
    _do(stage.server, "openme --config server.yaml add alice > alice.yaml")
    _expect(
        stage.server.run("ls -l server.yaml alice.yaml"),
        "config and profile can be read by their owner alone",
        r"^-rw------- .* server\.yaml$",
        r"^-rw------- .* alice\.yaml$",
    )
    _do(stage.server, "openme --config server.yaml serve --state-file $PWD/sessions.json 2>serve.log & serve=$!")
    _until(stage.server, "grep -q serving: serve.log", "openme serve")
    _expect(stage.server.run("cat serve.log"), "the server serves", r"serving: knock port 54154/udp, 1 clients")


def _hidden(stage: _Stage) -> None:
    _expect(
        stage.mallory.run(_SCAN),
        "all ports look alike: filtered",
        r"^(Not shown: 100 filtered|All 100 scanned ports .* filtered)",
    )
    _expect(
        stage.mallory.run(f"nmap -n -Pn -sU -p 54153-54155 {SERVER}"),
        "the knock port looks like its neighbours",
        r"^54153/udp +open\|filtered ",
        r"^54154/udp +open\|filtered ",
        r"^54155/udp +open\|filtered ",
    )
    _expect(
        stage.alice.run("openme --client-config alice.yaml status"), "the door is shut to alice too", "^closed$", code=3
    )


def _knock(stage: _Stage) -> None:
    _expect(
        stage.alice.run("openme --client-config alice.yaml knock --check"),
        "one signed packet opened the door",
        r"\bopen\b",
    )
    _expect(
        stage.alice.run(f'exec 3<>/dev/tcp/{SERVER}/22; read -t 5 line <&3; echo "$line"'),
        "alice talks to the service",
        "^the service greets you$",
    )


def _others(stage: _Stage) -> None:
    _expect(stage.mallory.run(_LOOK), "mallory is still shut out", r"^22/tcp +filtered ")
    _expect(
        stage.server.run("openme --config server.yaml sessions"),
        "the server knows who is in",
        rf"^alice +{re.escape(ALICE)} +22/tcp ",
    )


def _closes(stage: _Stage) -> None:
    _do(stage.server, f"sleep {DOOR_SECONDS}")
    _expect(stage.alice.run(_LOOK), "alice finds no open port any more", r"^22/tcp +filtered ")
    _expect(stage.alice.run("openme --client-config alice.yaml status"), "the door is shut again", "^closed$", code=3)
    _expect(
        stage.alice.run('echo "still there?" >&3; read -t 5 line <&3; echo "$line"'),
        "the connection that was open lives on",
        r"^the service heard: still there\?$",
    )
    _expect(
        stage.server.run("openme --config server.yaml sessions"),
        "nobody is in, and the last knock is remembered",
        "^nobody is in$",
        r"^alice +\d{4}-",
    )


def _stops(stage: _Stage) -> None:
    _expect(
        stage.server.run("kill $serve; wait $serve; cat serve.log"),
        "the log says what happened",
        rf"alice: opened 22/tcp for {re.escape(ALICE)} ",
        rf"alice: closed for {re.escape(ALICE)} ",
        r"stopped;",
    )
    _expect(
        stage.server.run("nft --stateless list ruleset | diff before.nft - && echo the same"),
        "nothing of openme's is left in it",
        "^the same$",
    )


_STEPS: tuple[tuple[str, Callable[[_Stage], None]], ...] = (
    ("A server like many: its firewall drops all but port 22, and everybody sees that port", _visible),
    ("openme is set up, alice gets a profile, the server starts", _set_up),
    ("A port scan now finds nothing, neither the service nor the knock port", _hidden),
    ("alice knocks, the door opens for her, and she connects", _knock),
    ("Meanwhile the door is open for alice's address alone", _others),
    ("The door closes by itself; the connection lives on", _closes),
    ("The server stops and leaves the host's firewall as it was", _stops),
)
