"""openme: Single Packet Authorization. `knock`, `aknock` and `keep_open` are for programs; docs/client-library.md.

Public is what `__all__` lists, and what `openme.client` lists. Each name is loaded when it is first used.
"""

TYPE_CHECKING = False  # type checkers take it for typing's, which every command would wait for

if TYPE_CHECKING:
    from openme import client
    from openme.client.errors import ClientError, ShutError
    from openme.client.in_one_call import aknock, knock
    from openme.client.keeping_open import KeptOpen, keep_open
    from openme.client.policy import Outcome, State
    from openme.config.faults import ConfigError

__all__ = [
    "ClientError",
    "ConfigError",
    "KeptOpen",
    "Outcome",
    "ShutError",
    "State",
    "__version__",
    "aknock",
    "client",
    "keep_open",
    "knock",
]
__version__ = "0.1.0"

if not TYPE_CHECKING:  # a type checker would take any name for one of ours
    # ruff: noqa: PLC0415  # that they are imported later is what this is for

    def __getattr__(name: str) -> object:
        """A public name, from the module that it is in."""
        match name:
            case "client":
                import openme.client as value
            case "aknock" | "knock":
                from openme.client import in_one_call as home
            case "KeptOpen" | "keep_open":
                from openme.client import keeping_open as home
            case "ClientError" | "ConfigError" | "Outcome" | "ShutError" | "State":
                import openme.client as home
            case _:
                raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name != "client":
            value = globals()[name] = getattr(home, name)
        return value

    def __dir__() -> list[str]:
        """The public names, loaded or not."""
        return sorted({*globals(), *__all__})
