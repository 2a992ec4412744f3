"""The kernel filter at a start: in force, or why it is not, in words."""

import errno
import os
import socket

from openme.kernel_filter.bpf import RefusedProgramError, UnsupportedError
from openme.kernel_filter.filter import LOCKED, KernelFilter, put_before
from openme.processes.listener_reports import MOST_LINES, tells_each
from openme.processes.privileges import has
from openme.processes.roles import CAP_BPF, CAP_SYS_ADMIN

_ALLOW = f"allow the system call bpf (SystemCallFilter=) and {LOCKED >> 20} MiB of locked memory (LimitMEMLOCK=)"


def filtered(knock: socket.socket) -> tuple[KernelFilter | None, str | None]:
    """The filter before the knock socket, and None; or None, and why there is none, a line for the operator."""
    try:
        # On level debug the log names who sent what was refused, which the kernel would not say.
        return put_before(knock, told=MOST_LINES if tells_each() else 0), None
    except (UnsupportedError, OSError) as error:
        why, cure = _why(error)
        return None, (
            f"the kernel filter is not in force ({why}): the listener checks every packet itself, so that a flood costs"
            f" more; {cure}; see docs/operating.md, The kernel filter"
        )


def _why(error: UnsupportedError | OSError) -> tuple[str, str]:
    """Why the kernel does not take it, and what to do."""
    if isinstance(error, UnsupportedError):
        return f"it is not made for {error} processors", "nothing can be done here"
    if isinstance(error, RefusedProgramError):
        return f"{error.strerror}", "please report it, with what uname -r says"
    if error.errno == errno.EPERM and not (has(CAP_BPF) or has(CAP_SYS_ADMIN)):
        return "CAP_BPF is missing", "start openme with it"
    if error.errno in {errno.EPERM, errno.ENOSYS}:
        return os.strerror(error.errno), _ALLOW
    if error.errno == errno.ENOMEM:
        return os.strerror(error.errno), "let a socket have 20 KB for it: sysctl -w net.core.optmem_max=20480, or more"
    return error.strerror or "the kernel gives no reason", "a kernel from 5.10 on with CONFIG_BPF_SYSCALL has it"
