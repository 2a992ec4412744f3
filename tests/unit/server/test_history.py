"""Who has knocked when: it begins with what the store knows, and a knock is the last word."""

from openme.keeper.events import LetIn
from openme.server.history import History
from openme.store.base import Seen
from support.keeper_parts import Ground
from support.knocks import ALICE, BOB, HOME, NOW, STRANGER, config
from support.steps import done


def test_it_begins_with_the_store_and_follows_the_knocks() -> None:
    ground = Ground()
    history = History({BOB.public.raw: Seen("bob", NOW.unix - 100, HOME)})
    history.follow(ground.events)
    ground.clock.advance(5)
    ground.events.publish(LetIn(ground.grant(), HOME, ground.clock.now))
    assert done(history.by_name(ground.keeper.client)) == {"bob": NOW.unix - 100, "alice": NOW.unix + 5}
    assert history.at(ALICE.public.raw) == NOW.unix + 5


def test_a_name_is_todays_and_who_is_no_client_any_more_is_not_listed() -> None:
    ground = Ground(config("{alicia: {ed25519_pubkey: KEY_A}}"))
    history = History({key.public.raw: Seen("alice", NOW.unix, HOME) for key in (ALICE, STRANGER)})
    assert done(history.by_name(ground.keeper.client)) == {"alicia": NOW.unix}
    assert history.keys_of("alice") == {ALICE.public.raw, STRANGER.public.raw}, "by the name that they knocked under"
