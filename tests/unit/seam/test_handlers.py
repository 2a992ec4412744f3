"""Handlers: one for each type that the other side may say."""

import pytest

from openme.seam.handlers import Handler, Handlers
from openme.seam.messages import Frame, Message, Sender, Serve, types_from
from support.messages import example


def every(sender: Sender, seen: list[Message]) -> dict[type[Message], Handler]:
    return dict.fromkeys(types_from(sender), seen.append)


@pytest.mark.parametrize("sender", Sender)
def test_each_message_reaches_its_own_handler(sender: Sender) -> None:
    seen: list[tuple[type[Message], Message]] = []
    kinds = types_from(sender)

    def noted(kind: type[Message]) -> Handler:
        return lambda message: seen.append((kind, message))

    handlers = Handlers(sender, {kind: noted(kind) for kind in kinds})
    for kind in kinds:
        handlers.take(example(kind))
    assert seen == [(kind, example(kind)) for kind in kinds]


def test_a_message_without_a_handler_is_found_when_they_are_put_together() -> None:
    handlers = every(Sender.KEEPER, [])
    del handlers[Serve]
    with pytest.raises(LookupError, match=r"^handlers of what the keeper says: Serve$"):
        Handlers(Sender.KEEPER, handlers)


def test_a_handler_for_what_the_other_side_never_says_is_found_too() -> None:
    with pytest.raises(LookupError, match="Serve"):
        Handlers(Sender.LISTENER, every(Sender.LISTENER, []) | {Serve: print})


def test_what_is_received_elsewhere_needs_none() -> None:
    handlers = every(Sender.LISTENER, [])
    del handlers[Frame]
    Handlers(Sender.LISTENER, handlers, but={Frame})
