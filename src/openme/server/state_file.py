"""The state file: who is in, for people and for other programs (spec config.md, `serve`)."""

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from openme.firewall.base import Steps
from openme.keeper.grants import Grant
from openme.moments import rfc3339

RUN_DIR = Path("/run/openme")
DEFAULT_STATE_FILE = RUN_DIR / "sessions.json"
_AT_ONCE = 100  # sessions or names of one step


def make_run_dir() -> None:
    """Make the run directory, before anything looks into it; a user who may not goes without."""
    with suppress(OSError):
        RUN_DIR.mkdir(mode=0o700, exist_ok=True)


def sessions_value(grants: Iterable[Grant], last_seen: Mapping[str, float], now: float) -> Steps[dict[str, Any]]:
    """The state file's content: `updated_at`, `active_sessions`, `last_seen`."""
    sessions: list[tuple[str, str, dict[str, Any]]] = []
    for grant in grants:
        address = str(grant.address)
        sessions.append((grant.client_name, address, _session(grant, address)))
        if len(sessions) % _AT_ONCE == 0:
            yield
    sessions.sort(key=lambda item: item[:2])
    yield
    seen: dict[str, str] = {}
    for name, at in sorted(last_seen.items()):
        seen[name] = rfc3339(at)
        if len(seen) % _AT_ONCE == 0:
            yield
    return {
        "updated_at": rfc3339(now),
        "active_sessions": [session for _, _, session in sessions],
        "last_seen": seen,
    }


def _session(grant: Grant, address: str) -> dict[str, Any]:
    return {
        "client_name": grant.client_name,
        "ip": address,
        "ports": [{"port": p.first, "proto": p.proto, "end_port": p.last} for p in grant.ports],
        "opened_at": rfc3339(grant.opened_at),
        "expires_at": rfc3339(grant.expires_at),
    }


def json_text(value: Mapping[str, Any]) -> Steps[str]:
    """The value as JSON: a line for each of its keys, and for each item of a list or mapping that it holds."""
    parts: list[str] = []
    for key, item in value.items():
        if isinstance(item, list):
            lines, brackets = (json.dumps(inner) for inner in item), "[]"
        elif isinstance(item, Mapping):
            lines, brackets = (f"{json.dumps(name)}: {json.dumps(inner)}" for name, inner in item.items()), "{}"
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(item)}")
            continue
        texts: list[str] = []
        for line in lines:
            texts.append(f"  {line}")
            if len(texts) % _AT_ONCE == 0:
                yield
        inside = ",\n".join(texts)
        parts.append(f" {json.dumps(key)}: {brackets[0]}" + (f"\n{inside}\n " if texts else "") + brackets[1])
    return "{\n" + ",\n".join(parts) + "\n}\n"


def write_state_file(path: Path, text: str) -> None:
    """Replace the file as a whole, mode 0600, so that a reader never sees half of it. OSError if the disk refuses."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        # Made anew each time: whatever lies there, in a directory that others may write too, is not written into.
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
