"""The file that `init` writes: every setting with its default, and what it does."""

from pathlib import Path

from openme.config.model import DEFAULT_UDP_PORT, WIRE_VERSIONS
from openme.config.scalars import quote
from openme.firewall import registry as firewalls
from openme.keys.ed25519 import encode_base64
from openme.keys.x25519 import ServerPrivateKey

_TEMPLATE = """\
# The configuration of an openme server. It holds the server's private key: keep it at mode 0600.
# Durations are written 30s, 1m30s, 2h or 7d. Check the file after a change: openme check-config

server:
  # Public name or address of this machine, copied into client profiles.
{host}
  # UDP port for knocks, and the TCP port that answers only after one.
  udp_port: {udp_port}
  health_port: {udp_port}
  # Accept the knock port in this host's firewall.
  open_knock_port: true

  # {firewalls}
  firewall: {firewall}
  # Hide every port under 'ports' and of every client from whoever has not knocked.
  drop_ports: true
  # What a hidden port shows: drop (no answer) or reject (looks closed).
  hidden_as: drop
  # Keep unused UDP ports as silent as hidden ones, so that the knock port is one silent port among all.
  hide_udp_errors: true
  # Networks for which managed ports are not hidden: monitoring, the office, a way back in. The host's own rules decide.
  # always_open_from: [192.0.2.0/24, "2001:db8::/32"]
  # A door is for the network of this prefix length around the address, so for every host in it; full: for that address
  # alone. Shorter for carriers that send UDP and TCP from several addresses (16 to 32), and for IPv6 addresses that
  # change (48 to 128). A client's entry can have its own.
  prefix_v4: 32
  prefix_v6: 128
  # Apply the rules only to packets that arrive on this interface; without it: on all.
{interface}

  # How long a door stays open after a knock; another knock starts it afresh.
  knock_timeout: 30s
  # Largest accepted difference between a knock's time and this machine's clock.
  replay_window: 60s
  # Wire formats to accept, as far as this version of openme speaks them.
  protocols: [{protocols}]
  # Key epochs of wire format v2: the length of one, and for how many a client carries keys.
  epoch_length: 7d
  epoch_horizon: 53

  # Where the server remembers knocks across restarts.
  state_dir: {state_dir}
  # User of the process that reads the network; without it: 'openme' if there is one, else an unused id.
  # run_as: openme

  # Name of the profile in the client files that 'openme add' writes.
  default_profile: default

  # X25519, base64. The private key never leaves this file; clients carry the public one.
  private_key: {private_key}
  public_key: {public_key}

# Named groups of ports. 22/tcp, 53/udp, 80 (both), 8080-8090/tcp. Clients without allowed_ports get 'default'.
ports:
  default: [22/tcp]

# Added with 'openme add NAME', removed with 'openme revoke NAME'.
clients: {{}}
"""


def render_server_config(
    private_key: ServerPrivateKey,
    *,
    host: str | None = None,
    udp_port: int = DEFAULT_UDP_PORT,
    firewall: str = firewalls.DEFAULT,
    interface: str | None = None,
    state_dir: Path = Path("/var/lib/openme"),
) -> str:
    """The text of a new server's file, secret. Every key of `server:` that has a default is a live line."""
    return _TEMPLATE.format(
        host="  # host: knock.example.org" if host is None else f"  host: {quote(host)}",
        udp_port=udp_port,
        firewalls=" ".join(f"{kind.name}: {kind.summary}." for kind in firewalls.KINDS if kind.summary is not None),
        protocols=", ".join(WIRE_VERSIONS),
        firewall=quote(firewall),
        interface="  # interface: eth0" if interface is None else f"  interface: {quote(interface)}",
        state_dir=quote(str(state_dir)),
        private_key=quote(private_key.to_base64()),
        public_key=quote(encode_base64(private_key.public)),
    )
