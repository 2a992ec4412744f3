"""Whether systemd starts the server at the next boot, and has not given it up."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from openme.doctor.looks import Finding, NotLookedError
from openme.doctor.server.subject import Server

FAILED = "unit_failed"
NOT_ENABLED = "unit_not_enabled"
UNIT = "openme"
_RUNS = Path("/run/systemd/system")
"""Where sd_booted(3) looks."""
_SECONDS = 4.0


def failed(_server: Server) -> Iterator[Finding]:
    """Whether systemd has given it up."""
    _state()
    if _says("is-failed") == "failed":
        yield Finding(
            FAILED, f"systemd has given {UNIT} up", f"journalctl -u {UNIT} says why; then systemctl restart {UNIT}"
        )


def enabled(_server: Server) -> Iterator[Finding]:
    """Whether the next boot starts it."""
    if (state := _state()) in {"disabled", "masked"}:
        yield Finding(
            NOT_ENABLED, f"{UNIT} is {state}: nothing is served after the next boot", f"sudo systemctl enable {UNIT}"
        )


def _state() -> str:
    """What systemd says of openme.service. NotLookedError where there is none, as where somebody starts it himself."""
    if not _RUNS.is_dir():
        raise NotLookedError("systemd does not run here")
    state = _says("is-enabled")
    if not state or state == "not-found":
        raise NotLookedError(f"systemd has no {UNIT}")
    return state


def _says(question: str) -> str:
    try:
        done = subprocess.run(
            ["systemctl", question, UNIT], capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError):
        raise NotLookedError("systemctl does not answer") from None
    return done.stdout.strip()
