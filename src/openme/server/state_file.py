"""The state file: who is in, for people and for other programs (spec config.md, `serve`)."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from openme.keeper.grants import Grant
from openme.moments import rfc3339

RUN_DIR = Path("/run/openme")
DEFAULT_STATE_FILE = RUN_DIR / "sessions.json"


def make_run_dir() -> None:
    """Make the run directory, before anything looks into it; a user who may not goes without."""
    with suppress(OSError):
        RUN_DIR.mkdir(mode=0o700, exist_ok=True)


def sessions_value(grants: Iterable[Grant], last_seen: Mapping[str, float], now: float) -> dict[str, Any]:
    """The state file's content: `updated_at`, `active_sessions`, `last_seen`."""
    return {
        "updated_at": rfc3339(now),
        "active_sessions": [
            {
                "client_name": grant.client_name,
                "ip": str(grant.address),
                "ports": [{"port": p.first, "proto": p.proto, "end_port": p.last} for p in grant.ports],
                "opened_at": rfc3339(grant.opened_at),
                "expires_at": rfc3339(grant.expires_at),
            }
            for grant in sorted(grants, key=lambda g: (g.client_name, str(g.address)))
        ],
        "last_seen": {name: rfc3339(at) for name, at in sorted(last_seen.items())},
    }


def write_state_file(path: Path, value: Mapping[str, Any]) -> None:
    """Replace the file as a whole, mode 0600, so that a reader never sees half of it. OSError if the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Made anew each time: whatever lies there, in a directory that others may write too, is not written into.
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)
            file.write("\n")
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
