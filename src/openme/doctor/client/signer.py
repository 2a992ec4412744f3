"""Whether the key that the profile's `identity` names is there to sign with."""

from collections.abc import Iterator

from openme.client.errors import ProfileError, SigningError
from openme.client.identity import public_key_of
from openme.doctor.client.subject import Client
from openme.doctor.looks import Finding

IDENTITY = "identity"


def identity(client: Client) -> Iterator[Finding]:
    """An agent that is not there, has not the key, is locked or hangs; a key file that is none, or open to others."""
    profile = client.profile
    if profile.identity is None or profile.private_key is not None:
        return
    try:
        public = public_key_of(profile.identity, client.config.path.parent)
    except (ProfileError, SigningError) as error:
        yield Finding(IDENTITY, error.message, error.hint or "name another key: identity: in the profile")
        return
    if profile.public_key not in {None, public}:
        yield Finding(
            IDENTITY,
            f"profile {profile.name}: public_key is another one than that of {profile.identity}",
            "name the identity that the server knows, or remove public_key",
        )
