"""The tables of docs/configuration.md, as the rows of the config's keys give them."""

from openme.config.keys import Key, Keys
from openme.config.profile_keys import PROFILE_KEYS
from openme.config.server_keys import CLIENT_KEYS, SERVER_KEYS


def tables() -> dict[str, str]:
    """Each table's first heading, and the whole table."""
    return {
        heading: _table(keys, heading, absent)
        for heading, absent, keys in (
            ("key under `server:`", "default", SERVER_KEYS),
            ("key of a client", "when absent", CLIENT_KEYS),
            ("key of a profile", "when absent", PROFILE_KEYS),
        )
    }


def _table(keys: Keys, *columns: str) -> str:
    lines = [f"| {' | '.join((*columns, 'what it does'))} |", "|---|---|---|"]
    lines += [f"| `{key.name}` | {_absent(key)} | {_help(key)} |" for key in keys]
    return "\n".join(lines) + "\n"


def _absent(key: Key) -> str:
    return key.absent if key.default is None else f"`{key.default}`"


def _help(key: Key) -> str:
    return f"{key.help}. Read only at a start" if key.needs_restart else key.help
