"""The client as a library: sends knocks, and tells whether the door opened. Imports nothing that only Linux has.

Public is what `__all__` lists; docs/client-library.md shows how it is used. Modules, and whatever else is in them, may
change at any time. Each name is loaded when it is first used: asyncio with AsyncSession, and not before.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openme.client.addresses import Endpoint
    from openme.client.async_session import AsyncSession
    from openme.client.dialling import Dialler
    from openme.client.errors import (
        AddressError,
        BrokenError,
        ClientError,
        DiskError,
        KeysRefusedError,
        NotSentError,
        ProfileError,
        ShutError,
        SigningError,
        UnknownHostError,
    )
    from openme.client.grant import USUAL_INTERVAL
    from openme.client.identity import Identity, public_key_of
    from openme.client.knock import Attempt, Sent, protocol_of
    from openme.client.known import refuse_shared_keys
    from openme.client.policy import Answer, Outcome, Reached, State
    from openme.client.profiles import choose_profile, leads_to, load_profiles, profile_for, profiles_path
    from openme.client.receipt import Proof
    from openme.client.relaying import relay
    from openme.client.renewal import WARN_SECONDS
    from openme.client.session import Session
    from openme.config.faults import ConfigError
    from openme.config.profile_model import ClientConfig, Profile
    from openme.wire.receipt import Receipt

__all__ = [
    "USUAL_INTERVAL",
    "WARN_SECONDS",
    "AddressError",
    "Answer",
    "AsyncSession",
    "Attempt",
    "BrokenError",
    "ClientConfig",
    "ClientError",
    "ConfigError",
    "Dialler",
    "DiskError",
    "Endpoint",
    "Identity",
    "KeysRefusedError",
    "NotSentError",
    "Outcome",
    "Profile",
    "ProfileError",
    "Proof",
    "Reached",
    "Receipt",
    "Sent",
    "Session",
    "ShutError",
    "SigningError",
    "State",
    "UnknownHostError",
    "choose_profile",
    "leads_to",
    "load_profiles",
    "profile_for",
    "profiles_path",
    "protocol_of",
    "public_key_of",
    "refuse_shared_keys",
    "relay",
]

if not TYPE_CHECKING:  # a type checker would take any name for one of ours
    # ruff: noqa: PLC0415  # that they are imported later is what this is for

    def __getattr__(name: str) -> object:
        """A public name, from the module that it is in."""
        match name:
            case "AsyncSession":
                from openme.client import async_session as home
            case "Session":
                from openme.client import session as home
            case "Answer" | "Outcome" | "Reached" | "State":
                from openme.client import policy as home
            case "Attempt" | "Sent" | "protocol_of":
                from openme.client import knock as home
            case "refuse_shared_keys":
                from openme.client import known as home
            case "choose_profile" | "leads_to" | "load_profiles" | "profile_for" | "profiles_path":
                from openme.client import profiles as home
            case "Identity" | "public_key_of":
                from openme.client import identity as home
            case "Proof":
                from openme.client import receipt as home
            case "Dialler":
                from openme.client import dialling as home
            case "relay":
                from openme.client import relaying as home
            case "USUAL_INTERVAL":
                from openme.client import grant as home
            case "WARN_SECONDS":
                from openme.client import renewal as home
            case "Endpoint":
                from openme.client import addresses as home
            case "Receipt":
                from openme.wire import receipt as home
            case "ConfigError":
                from openme.config import faults as home
            case "ClientConfig" | "Profile":
                from openme.config import profile_model as home
            case _ if name in __all__:
                from openme.client import errors as home
            case _:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(home, name)
        return value

    def __dir__() -> list[str]:
        """The public names, loaded or not."""
        return sorted({*globals(), *__all__})
