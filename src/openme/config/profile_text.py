"""A client's file as `openme add` writes it."""

from openme.config.profile_model import DEFAULT_UDP_PORT, EpochKeys
from openme.config.scalars import quote
from openme.durations import format_duration
from openme.keys.ed25519 import ClientPrivateKey, ClientPublicKey, encode_base64


def render_profile(
    name: str,
    *,
    server_host: str,
    server_pubkey: bytes,
    public_key: ClientPublicKey,
    private_key: ClientPrivateKey | None = None,
    identity: str | None = None,
    server_udp_port: int = DEFAULT_UDP_PORT,
    server_health_port: int | None = None,
    epoch_keys: EpochKeys | None = None,
) -> str:
    """A complete client file with one profile, secret if `private_key` is given; server_health_port if it differs."""
    lines = ["profiles:", f"  {quote(name)}:", f"    server_host: {quote(server_host)}"]
    lines.append(f"    server_udp_port: {server_udp_port}")
    if server_health_port is not None and server_health_port != server_udp_port:
        lines.append(f"    server_health_port: {server_health_port}")
    lines.append(f"    server_pubkey: {quote(encode_base64(server_pubkey))}")
    lines.append(f"    public_key: {quote(str(public_key))}")
    if private_key is not None:
        lines.append(f"    private_key: {quote(private_key.to_base64())}")
    elif identity is not None:
        lines.append(f"    identity: {quote(identity)}")
    if epoch_keys is not None:
        lines.append("    epoch_keys:")
        lines.append(f"      length: {format_duration(epoch_keys.length)}")
        lines.append(f"      first: {epoch_keys.first}")
        lines.append(f"      keys: {quote(encode_base64(b''.join(epoch_keys.keys)))}")
    return "\n".join(lines) + "\n"
