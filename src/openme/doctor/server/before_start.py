"""What `serve` and `check-config` look at, as looks of doctor's: the functions are theirs (server/preflight.py)."""

from collections.abc import Callable, Iterator

from openme.doctor.looks import Finding
from openme.doctor.server.subject import Server
from openme.errors import OpenmeError
from openme.server.preflight import BEFORE_START, ONCE_IT_SERVES, heard

_LOOKS = {**BEFORE_START, **ONCE_IT_SERVES}


def preflight(
    name: str, cause: str, cure: str, *, only: type[OpenmeError] | type[str] | None = None
) -> Callable[[Server], Iterator[Finding]]:
    """The look called so. `cure`: for what brings none of its own. `only`: refusals alone, or warnings."""

    def take(server: Server) -> Iterator[Finding]:
        for item in heard(_LOOKS[name], server.about):
            if only is not None and not isinstance(item, only):
                continue
            if isinstance(item, OpenmeError):
                yield Finding(cause, item.message, item.hint or cure)
            else:
                yield Finding(cause, item, cure)

    return take
