"""Asking for a passphrase: on the terminal, or by the program in SSH_ASKPASS where there is none, as ssh does it."""

import getpass
import os
import subprocess
from pathlib import Path

from openme.errors import OpenmeError
from openme.interrupts import heard, held_back
from openme.visible import visible

ASKPASS_SECONDS = 120.0
_TERMINAL = "/dev/tty"


def passphrase(path: Path) -> bytearray:
    """The passphrase of a key file. OpenmeError if nobody can be asked, or declines."""
    return _asked(f"passphrase for {path}")


def new_passphrase(path: Path, *, may_be_empty: bool) -> bytearray:
    """The passphrase that a new key file is to have, asked for twice. OpenmeError as for `passphrase`."""
    first = _asked(f"new passphrase for {path}{' (empty for none)' if may_be_empty else ''}")
    if not first and not may_be_empty:
        raise OpenmeError("an empty passphrase seals nothing", "nothing was changed")
    second = _asked(f"new passphrase for {path}, once more")
    if first != second:
        raise OpenmeError("the two passphrases differ", "nothing was changed; try again")
    return first


def _asked(what: str) -> bytearray:
    """SSH_ASKPASS_REQUIRE says which way, as ssh(1) has it; else the terminal, where there is one."""
    program, wish = os.environ.get("SSH_ASKPASS"), os.environ.get("SSH_ASKPASS_REQUIRE")
    if program and wish in {"force", "prefer"}:
        return _by_program(program, what)
    if _has_terminal():
        # Ctrl-C meanwhile is an exception, after which the terminal shows again what is typed.
        with held_back(), heard():
            return bytearray(os.fsencode(getpass.getpass(visible(f"openme: {what}: "))))
    if program and wish != "never":
        return _by_program(program, what)
    raise OpenmeError(
        f"{what}: there is no terminal to ask on",
        "set SSH_ASKPASS to a program that asks, or ssh-add the key and name it as ssh-agent:SHA256:…",
    )


def _has_terminal() -> bool:
    if os.name != "posix":
        return True  # getpass asks the console
    try:
        os.close(os.open(_TERMINAL, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _by_program(program: str, what: str) -> bytearray:
    """What the program prints on its first line."""
    try:
        done = subprocess.run(
            [program, f"openme: {what}:"], stdout=subprocess.PIPE, check=False, timeout=ASKPASS_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise OpenmeError(f"{what}: {program} did not answer within {ASKPASS_SECONDS:g} s") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise OpenmeError(f"{what}: {program}: {reason or 'cannot be run'}", "correct SSH_ASKPASS") from None
    if done.returncode != 0:
        raise OpenmeError(f"{what}: declined")
    return bytearray(done.stdout.split(b"\n", 1)[0].removesuffix(b"\r"))
