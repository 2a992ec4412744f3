"""Who answers a request: one handler for each type in the table, and none missing."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from openme.control.requests import REQUESTS, Request

HandlerT = TypeVar("HandlerT", bound=Callable[..., Any])


class Handlers(Generic[HandlerT]):
    """Dispatch by type, complete by the table."""

    def __init__(self, handlers: Mapping[type[Request[Any]], HandlerT]) -> None:
        """LookupError if a request has no handler, or a handler no request."""
        expected = {row.request for row in REQUESTS}
        if handlers.keys() != expected:
            names = sorted(kind.__name__ for kind in handlers.keys() ^ expected)
            raise LookupError(f"handlers of requests: {', '.join(names)}")
        self._handlers = dict(handlers)

    def of(self, request: Request[Any]) -> HandlerT:
        """The handler of this request."""
        return self._handlers[type(request)]
