"""Whether the sandbox is in force, by what the kernel says of the running processes (proc(5))."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from openme.doctor.looks import Finding, NotLookedError
from openme.doctor.server.subject import Server
from openme.processes.roles import GUARDIAN, KEEPER, TRIAL_GUARD, Role

SANDBOX = "sandbox"
_FILTERED = "2"  # SECCOMP_MODE_FILTER
_PROC = Path("/proc")
_LOG = "journalctl -u openme says why; docs/operating.md, Logs"


class Process(NamedTuple):
    """What the kernel says of one: its users, whether seccomp and no_new_privs are in force, its capabilities."""

    pid: int
    uid: int
    seccomp: bool
    no_new_privileges: bool
    capabilities: int


def sandbox(server: Server) -> Iterator[Finding]:
    """The keeper and its children against what their roles may have."""
    if server.process is None:
        raise NotLookedError("the server's processes are not seen from here")
    yield from shortfalls(*of_server(server.process))


def of_server(pid: int, proc: Path = _PROC) -> tuple[Process, list[Process]]:
    """The keeper, and its children that live. NotLookedError if it has gone."""
    keeper = _process(pid, proc)
    if keeper is None:
        raise NotLookedError("the server's processes are not seen from here")
    children: list[str] = []
    with suppress(OSError):
        children = (proc / str(pid) / "task" / str(pid) / "children").read_text().split()
    return keeper, [child for number in children if (child := _process(int(number), proc)) is not None]


def shortfalls(keeper: Process, children: list[Process]) -> Iterator[Finding]:
    """What is missing, a line for each kind."""
    # A trial's guard has no sandbox, by its role: it takes the rules away when the trial is over.
    confined = [keeper, *(child for child in children if child.seccomp or child.capabilities != _mask(TRIAL_GUARD))]
    if without := [process.pid for process in confined if not process.seccomp]:
        yield Finding(
            SANDBOX,
            f"seccomp is not in force for {_processes(without)}: it may make any system call",
            f"apt-get install libseccomp2, then restart the server; {_LOG}",
        )
    if without := [process.pid for process in confined if not process.no_new_privileges]:
        yield Finding(SANDBOX, f"no_new_privs is not set for {_processes(without)}", _LOG)
    if keeper.uid == 0 and children and all(child.uid == 0 for child in children):
        yield Finding(
            SANDBOX,
            "the process that reads the network runs as root",
            f"allow the server to change its user: CAP_SETUID and CAP_SETGID; {_LOG}",
        )
    most = {keeper.pid: _mask(KEEPER)} | {child.pid: _mask(GUARDIAN) for child in children}
    if more := [process.pid for process in confined if process.capabilities & ~most[process.pid]]:
        yield Finding(SANDBOX, f"{_processes(more)} has capabilities that it needs no more", _LOG)


def _mask(role: Role) -> int:
    return sum(1 << capability for capability in role.capabilities)


def _processes(pids: list[int]) -> str:
    return f"process {', '.join(map(str, pids))}"


def _process(pid: int, proc: Path) -> Process | None:
    try:
        lines = (proc / str(pid) / "status").read_text().splitlines()
    except OSError:
        return None
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in lines)}
    if fields["State"][0] == "Z":
        return None
    return Process(
        pid,
        int(fields["Uid"][1]),
        fields.get("Seccomp", [""])[0] == _FILTERED,
        fields.get("NoNewPrivs", [""])[0] == "1",
        int(fields["CapEff"][0], 16),
    )
