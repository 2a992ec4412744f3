"""The table of processes: what each role may still do once it serves. Start-up and sandbox are made from it.

    listener   the sockets it was born with: receive, accept, write, close. No file, no new socket, no connection, no
               datagram to anybody, no program, no child, no signal to anybody, no memory that can be run.
    guardian   to wait, and to kill the one process that it has a descriptor of.
    keeper     the firewall (netlink), the config (read), state and run directory. No program, no network.

A call may be held to arguments. What is left was gone through call by call, with the question what a hostile process
does to others by it; the answers are in docs/decisions/0005-two-processes.md.
"""

import fcntl
import mmap
import os
import resource
import signal
import socket
from dataclasses import dataclass, field
from enum import Enum

from openme.seam.messages import Sender

PR_SET_PDEATHSIG = 1  # prctl(2)
CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
CAP_NET_BIND_SERVICE = 10
CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21
CAP_BPF = 39

_FIONBIO = 0x5421  # ioctl_tty(2): what setblocking does
_SO_PROTOCOL = 38
_SO_DOMAIN = 39
_NAMESPACES = 0x7E02_0000  # clone(2): every CLONE_NEW… but NEWTIME, which clone cannot make
_CLONE_FLAGS = 1 if os.uname().machine.startswith("s390") else 0  # clone(2): the place of the flags
_F_LOCKS = (36, 37, 38)  # F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW (fcntl.h), which the fcntl module does not name


@dataclass(frozen=True, slots=True)
class Allowed:
    """A system call, and what its arguments must be: (place, mask, value) says that `argument & mask == value`."""

    call: str
    arguments: tuple[tuple[int, int, int], ...] = ()


_EXACTLY = 2**64 - 1


def _calls(*groups: str) -> tuple[Allowed, ...]:
    return tuple(Allowed(name) for group in groups for name in group.split())


def _one_of(call: str, place: int, *values: int) -> tuple[Allowed, ...]:
    return tuple(Allowed(call, ((place, _EXACTLY, value),)) for value in values)


# Memory that can be written and then run is how a hole becomes a program of the attacker's.
_MEMORY = tuple(Allowed(call, ((2, mmap.PROT_EXEC, 0),)) for call in ("mmap", "mprotect"))
_ASK_SOCKET = tuple(
    Allowed("getsockopt", ((1, _EXACTLY, socket.SOL_SOCKET), (2, _EXACTLY, option)))
    for option in (socket.SO_TYPE, socket.SO_ERROR, socket.SO_ACCEPTCONN, _SO_PROTOCOL, _SO_DOMAIN)
)
# What every running Python needs: memory, threads' locks, signals, clocks, descriptors it has, and to end.
_ALWAYS = _calls(
    "brk munmap mremap madvise futex sched_yield rseq set_robust_list",
    "rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack restart_syscall",
    "clock_gettime clock_nanosleep nanosleep gettimeofday getrandom",
    "getpid gettid getuid geteuid getgid getegid getppid",
    "read write writev close exit exit_group",
    "epoll_ctl epoll_wait epoll_pwait epoll_pwait2 poll ppoll select pselect6",
    "getsockname recvfrom",
) + _one_of("ioctl", 1, _FIONBIO)
# No F_SETOWN, F_SETSIG, F_SETLEASE, F_NOTIFY: by those the kernel sends signals in a process's name.
_ASK_DESCRIPTOR = _one_of("fcntl", 1, fcntl.F_GETFD, fcntl.F_GETFL)

_LISTENER = (
    _ALWAYS
    + _MEMORY
    + _ASK_SOCKET
    + _ASK_DESCRIPTOR
    + _calls("listen accept accept4 getpeername")
    + _one_of("shutdown", 1, socket.SHUT_WR)
    # send(2), whose address is NULL, without flags: the knock socket has no peer, so that nothing can leave by it.
    + (Allowed("sendto", ((3, _EXACTLY, 0), (4, _EXACTLY, 0))),)
)
_KEEPER = (
    _ALWAYS
    + _calls(
        "mmap mprotect membarrier getsockopt recvmsg epoll_create1 sendto sendmsg bind",
        "accept accept4 socketpair setsockopt getpeername shutdown",
        "open openat stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getcwd",
        "lseek pread64 pwrite64 readv preadv pwritev fsync fdatasync ftruncate fallocate flock statfs fstatfs",
        "link linkat",
        "unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir chmod fchmod fchmodat umask getdents64",
        "memfd_create dup dup2 dup3 pipe2 uname sysinfo getrlimit getrusage",
        "fork vfork wait4 waitid",
        "rt_sigpending",
    )
    + _ASK_DESCRIPTOR
    + _one_of("fcntl", 1, fcntl.F_SETFD, fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC)
    + _one_of("fcntl", 1, fcntl.F_GETLK, fcntl.F_SETLK, fcntl.F_SETLKW, *_F_LOCKS)
    + (Allowed("fcntl", ((1, _EXACTLY, fcntl.F_SETFL), (2, fcntl.FASYNC, 0))),)
    + (Allowed("clone", ((_CLONE_FLAGS, _NAMESPACES, 0),)),)
    + _one_of("prlimit64", 0, 0)  # of nobody but ourselves
    # Of a child that reads the config: to be killed when the keeper ends.
    + (Allowed("prctl", ((0, _EXACTLY, PR_SET_PDEATHSIG), (1, _EXACTLY, signal.SIGKILL))),)
)


class RunsAs(Enum):
    """Whose user a process is."""

    STARTER = "root"  # whoever started `serve`, where that is another one
    OWN = "`run_as`, else an id that nobody has"


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of process. What is words here is for docs/privilege-separation.md; all else is put in force.

    `capabilities` are those it keeps. `calls` are those that seccomp leaves it, `sockets` the families of those that it
    may make; `calls` of None: no sandbox. `reads` and `writes`: the folders that Landlock leaves it, named by whoever
    starts it. `says`: whose messages it may send at the seam. `limits` are those of setrlimit(2), soft and hard;
    `growth` is how many bytes of address space it may add to what it has when it is made. `inherits`: it is forked by a
    process of that role once all of this is in force there, and has the same.
    """

    name: str
    runs_as: RunsAs
    descriptors: str
    dies_with: str
    calls: tuple[Allowed, ...] | None = None
    capabilities: frozenset[int] = frozenset()
    leaves_groups: bool = True
    reads: str = "none"
    writes: str = "none"
    sockets: tuple[int, ...] = ()
    says: Sender | None = None
    limits: dict[int, int] = field(default_factory=dict)
    growth: int | None = None
    kills: str = "nobody"
    dies_with_parent: bool = False
    inherits: "Role | None" = None

    def allowed(self, victim: int | None = None) -> tuple[Allowed, ...]:
        """All that seccomp leaves it; `victim`: the descriptor of the one process that it may kill (pidfd_open(2))."""
        made = _one_of("socket", 0, *self.sockets)
        if victim is None:
            return (*(self.calls or ()), *made)
        kill = Allowed("pidfd_send_signal", ((0, _EXACTLY, victim), (1, _EXACTLY, signal.SIGKILL)))
        return (*(self.calls or ()), *made, kill)


_NOTHING = {
    resource.RLIMIT_NPROC: 0,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_MEMLOCK: 0,
    resource.RLIMIT_MSGQUEUE: 0,
    resource.RLIMIT_SIGPENDING: 0,
    resource.RLIMIT_NICE: 0,
    resource.RLIMIT_RTPRIO: 0,
    resource.RLIMIT_CORE: 0,
}

LISTENER_GROWTH = 256 << 20  # floods need 1 MiB; 4,096 receipts that name a thousand epochs some 180
LISTENER_FILES = 640  # the health port's 512 connections, and what the listener was born with
GUARDIAN_GROWTH = 16 << 20

LISTENER = Role(
    name="listener",
    runs_as=RunsAs.OWN,
    descriptors="knock, health and its connections, the channel, its event queue; `/dev/null` as 0, 1 and 2",
    dies_with="the keeper: the channel ends; one that hangs is killed by the guardian",
    calls=_LISTENER,
    says=Sender.LISTENER,
    limits=_NOTHING | {resource.RLIMIT_NOFILE: LISTENER_FILES},
    growth=LISTENER_GROWTH,
    dies_with_parent=True,
)
KEEPER = Role(
    name="keeper",
    runs_as=RunsAs.STARTER,
    descriptors="channel, control socket, database, locks, netlink, news of files and clock, what the operator gave it",
    dies_with="the listener: it ends itself, the rules stay",
    calls=_KEEPER,
    capabilities=frozenset({CAP_NET_ADMIN}),
    leaves_groups=False,
    reads="the config's folder",
    writes="`state_dir` and the run directory",
    sockets=(socket.AF_UNIX, socket.AF_NETLINK),
    says=Sender.KEEPER,
)
GUARDIAN = Role(
    name="guardian",
    runs_as=RunsAs.STARTER,
    descriptors="the listener and the keeper (pidfd), the end of a pipe; `/dev/null` as 0, 1 and 2",
    dies_with="the keeper or the listener",
    calls=_ALWAYS + _MEMORY + _ASK_DESCRIPTOR,
    capabilities=frozenset({CAP_KILL}),
    limits=_NOTHING | {resource.RLIMIT_NOFILE: 16},
    growth=GUARDIAN_GROWTH,
    kills="the listener",
)
CONFIG_READER = Role(
    name="config reader",
    runs_as=RunsAs.STARTER,
    descriptors="the keeper's, and memory in which it leaves what it has read",
    dies_with="the keeper: the kernel kills it; else when it has read",
    dies_with_parent=True,
    inherits=KEEPER,
)
TRIAL_GUARD = Role(
    name="trial guard",
    runs_as=RunsAs.STARTER,
    descriptors="the end of a pipe, stderr; `/dev/null` as 0 and 1",
    dies_with="the keeper or the trial; then it takes the rules away, if nobody has knocked",
    capabilities=frozenset({CAP_NET_ADMIN}),
    leaves_groups=False,
    reads="not held",
    writes="not held",
)
ROLES = (LISTENER, KEEPER, GUARDIAN, CONFIG_READER, TRIAL_GUARD)
