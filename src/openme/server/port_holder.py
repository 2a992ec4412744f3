"""Who has a port that we would have: by the kernel's list of sockets and every process's descriptors (proc(5))."""

import os
import pwd
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal

_PROC = Path("/proc")
_TCP_LISTEN = "0A"
_TCP_TIME_WAIT = "06"
_SOCKET = re.compile(r"socket:\[([0-9]+)\]")
_MOST = 3  # programs that are named


def holders_of(proto: Literal["udp", "tcp"], port: int, proc: Path = _PROC) -> str | None:
    """The programs that hold `port`, such as `nc (process 4711 of user mallory)`; None if nothing is known of any.

    Of a program whose descriptors cannot be seen, from another container or without CAP_SYS_PTRACE (as under systemd's
    unit), the user alone is known; of a socket of the kernel's own (WireGuard, VXLAN) that it is one. A program's name
    is its own word.
    """
    sockets = dict(_sockets(proto, port, proc))
    if not sockets:
        return None
    found: list[str] = []
    programs = _programs(set(sockets), proc)
    for inode, uid in sockets.items():
        user = _user(uid)
        if inode == "0":
            words = "the kernel itself (such as WireGuard or VXLAN)"
        elif inode in programs:
            pid, name = programs[inode]
            words = f"{name} (process {pid} of user {user})"
        else:
            words = f"a program of user {user} that cannot be seen from here"
        if words not in found:
            found.append(words)
    more = len(found) - _MOST
    return " and ".join([*found[:_MOST], *([f"{more} more"] if more > 0 else [])])


def listening_users(port: int, proc: Path = _PROC) -> set[int]:
    """The user ids that own the sockets which listen on this TCP port, on whatever address; none if nobody is seen."""
    return {uid for state, _, uid in _rows("tcp", port, proc) if state == _TCP_LISTEN}


def _sockets(proto: str, port: int, proc: Path) -> Iterator[tuple[str, int]]:
    """Inode and user id of the sockets on this local port; those that listen, where there are such."""
    on_port = _rows(proto, port, proc)
    listening = [row for row in on_port if row[0] == _TCP_LISTEN and proto == "tcp"]
    for state, inode, uid in listening or on_port:
        if proto == "udp" or state != _TCP_TIME_WAIT:
            yield inode, uid


def _rows(proto: str, port: int, proc: Path) -> list[tuple[str, str, int]]:
    """State, inode and user id of the sockets on this local port."""
    rows = []
    for family in (proto, f"{proto}6"):
        with suppress(OSError):
            rows += (proc / "thread-self/net" / family).read_text().splitlines()[1:]
    on_port = []
    for fields in map(str.split, rows):
        with suppress(IndexError, ValueError):
            if int(fields[1].rpartition(":")[2], 16) == port:
                on_port.append((fields[3], fields[9], int(fields[7])))
    return on_port


def _programs(inodes: set[str], proc: Path) -> dict[str, tuple[int, str]]:
    """The first process that has each of these sockets, and its name."""
    found: dict[str, tuple[int, str]] = {}
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdecimal()):
        with suppress(OSError):  # it has ended, or is none of ours to look at
            for descriptor in (proc / str(pid) / "fd").iterdir():
                with suppress(OSError):
                    match = _SOCKET.fullmatch(os.readlink(descriptor))  # noqa: PTH115  # its text: it leads nowhere
                    if match and match[1] in inodes and match[1] not in found:
                        found[match[1]] = pid, _name(pid, proc)
    return found


def _name(pid: int, proc: Path) -> str:
    with suppress(OSError):
        return (proc / str(pid) / "comm").read_bytes().rstrip(b"\n").decode("utf-8", "replace") or "?"
    return "?"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
