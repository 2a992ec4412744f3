"""The file that `init` writes: every setting with its default, and what it does."""

import textwrap
from pathlib import Path

from openme.config.keys import Key
from openme.config.profile_model import DEFAULT_UDP_PORT
from openme.config.scalars import quote
from openme.config.server_keys import DEFAULT_STATE_DIR, SERVER_BLOCKS
from openme.firewall import registry as firewalls
from openme.keys.ed25519 import encode_base64
from openme.keys.x25519 import ServerPrivateKey

_HEAD = """\
# The configuration of an openme server. It holds the server's private key: keep it at mode 0600.
# Durations are written 30s, 1m30s, 2h or 7d. Check the file after a change: openme check-config

server:
"""
_TAIL = """\

# Named groups of ports. 22/tcp, 53/udp, 80 (both), 8080-8090/tcp. Clients without allowed_ports get 'default'.
ports:
  default: [22/tcp]

# Added with 'openme add NAME', removed with 'openme revoke NAME'.
clients: {}
"""


def render_server_config(
    private_key: ServerPrivateKey,
    *,
    host: str | None = None,
    udp_port: int = DEFAULT_UDP_PORT,
    firewall: str = firewalls.DEFAULT,
    interface: str | None = None,
    state_dir: Path = Path(DEFAULT_STATE_DIR),
) -> str:
    """The text of a new server's file, secret. Every key of `server:` that has a default is a live line."""
    told = {
        "host": host,
        "udp_port": str(udp_port),
        "health_port": str(udp_port),
        "firewall": firewall,
        "interface": interface,
        "state_dir": str(state_dir),
        "private_key": private_key.to_base64(),
        "public_key": encode_base64(private_key.public),
    }
    # A number needs no quotes: as a port it is one.
    values = {
        name: value if name.endswith("port") else quote(value) for name, value in told.items() if value is not None
    }
    blocks = ("".join(_lines(key, values.get(key.name)) for key in block) for block in SERVER_BLOCKS)
    return _HEAD + "\n".join(blocks) + _TAIL


def _lines(key: Key, told: str | None) -> str:
    """A key as it stands below `server:`, with what there is to say of it; empty if it does not."""
    if key.comment is None:
        return ""
    lines = textwrap.wrap(key.comment, width=120, initial_indent="  # ", subsequent_indent="  # ")
    value = told or key.initial or key.default
    lines.append(f"  # {key.name}: {key.example}" if value is None else f"  {key.name}: {value}")
    return "".join(f"{line}\n" for line in lines)
