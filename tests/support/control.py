"""The control socket as a command has it, with words for requests instead of types."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openme.control import asking
from openme.control.forms import to_json
from openme.control.requests import REQUESTS, request_untrusted


def asked(state_dir: Path, command: str, values: Mapping[str, object], timeout: float = 30.0) -> dict[str, Any]:
    """What the running server replies to a command with these fields, as JSON has them; as `asking.ask`."""
    assert command in {row.command for row in REQUESTS}
    request = request_untrusted(json.dumps({"command": command, **values}).encode())
    return to_json(asking.ask(state_dir, request, timeout))
