"""Who does what a message says: one handler for each type that the other side may send, and none missing."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from openme.seam.messages import Message, Sender, types_from

Handler = Callable[[Any], None]


class Handlers:
    """Dispatch by type, complete by the table."""

    def __init__(
        self, sender: Sender, handlers: Mapping[type[Message], Handler], but: Collection[type[Message]] = ()
    ) -> None:
        """`but`: types that are received elsewhere. LookupError if a type has no handler, or a handler no type."""
        expected = types_from(sender) - set(but)
        if handlers.keys() != expected:
            names = sorted(kind.__name__ for kind in handlers.keys() ^ expected)
            raise LookupError(f"handlers of what the {sender.value} says: {', '.join(names)}")
        self._handlers = dict(handlers)

    def take(self, message: Message) -> None:
        """Have this message's handler do what it says."""
        self._handlers[type(message)](message)
