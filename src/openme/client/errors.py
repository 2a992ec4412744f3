"""What can go wrong in the client, by kind: a caller tells a full disk from a refusal by the class, and prints neither.

Each message is one line for the user, `hint` the cure; what others wrote in it is still to go through `visible`.
"""

from typing import TYPE_CHECKING

from openme.errors import OpenmeError

if TYPE_CHECKING:
    from openme.client.knock import Attempt
    from openme.client.policy import Outcome


class ClientError(OpenmeError):
    """Whatever this library raises; a file that cannot be used is a ConfigError."""


class ProfileError(ClientError):
    """The profile cannot knock: it is not there, has no key or none for this date, or shares keys with another host."""


class AddressError(ClientError):
    """What is to be named is no address, word or page that can be."""


class UnknownHostError(ClientError):
    """The server's name has no address, or this machine has no resolver that answers."""


class NotSentError(ClientError):
    """No packet could leave, over no family."""


class SigningError(ClientError):
    """An identity that signs elsewhere did not, or not with its key."""


class KeysRefusedError(ClientError):
    """A receipt brought epoch keys that must not be believed; none of them was stored."""


class DiskError(ClientError):
    """What was learnt could not be kept; the OSError is the cause. What was asked for was done all the same."""


class BrokenError(ClientError):
    """A connection that stood was cut off: reset by the peer, or no longer answered."""


class ShutError(ClientError):
    """The door stayed shut, however often it was knocked at.

    `attempt` is the last knock. `outcome`: what is known of the door, where that was looked at; `reach` does not.
    """

    def __init__(self, message: str, hint: str | None, attempt: "Attempt", outcome: "Outcome | None" = None) -> None:
        super().__init__(message, hint)
        self.attempt = attempt
        self.outcome = outcome
