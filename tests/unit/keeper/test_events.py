"""Events: everybody who has subscribed is told, in order, and nobody else."""

from openme.keeper.events import Ended, Events, NewConfig
from openme.server.slices import Slices
from openme.steps import Steps
from support.knocks import NOW, config


def test_subscribers_are_told_in_the_order_in_which_they_came() -> None:
    told: list[str] = []
    events = Events(lambda _: None)
    for name in ("first", "second"):
        events.subscribe(NewConfig, lambda _, name=name: told.append(name))  # type: ignore[misc]
    events.subscribe(Ended, lambda _: told.append("somebody else"))
    events.publish(NewConfig(config(), NOW))
    assert told == ["first", "second"]


def test_whoever_has_much_to_do_has_his_turn_between_knocks() -> None:
    done: list[int] = []

    def much(_: Ended) -> Steps[None]:
        for number in range(3):
            done.append(number)
            yield

    slices = Slices()
    events = Events(slices.add)
    events.subscribe(Ended, much)
    events.publish(Ended(()))
    assert done == [0], "begun at once, and no more"
    while slices:
        slices.advance()
    assert done == [0, 1, 2]
