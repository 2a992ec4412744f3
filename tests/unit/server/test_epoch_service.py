"""The epochs of a running server alone: what the listener is told, what is erased, and on whose word."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from openme.control.requests import NewRatchet, SaveRatchet
from openme.errors import OpenmeError
from openme.keeper.deliveries import Deliveries, Offer
from openme.keeper.epochs import Epochs
from openme.keeper.events import NewConfig
from openme.keeper.ratchet_file import FILE_NAME, read_ratchet, write_ratchet
from openme.seam.messages import ForgetEpochKey, UseEpochKey
from openme.server.epoch_service import ERASING_INTERVAL, EpochService
from support.keeper_parts import Ground, Listening, listening
from support.knocks import ALICE, EPOCH, WEEK, config, lines, ratchet

V1_ALONE = "protocols: [v1]"


class Stand:
    def __init__(self, state_dir: Path, listener: Listening, server: str = "") -> None:
        self.text = f"state_dir: {state_dir}"
        self.state_dir = state_dir
        self.listener = listener
        self.ground = Ground(config(server=f"{self.text}; {server}" if server else self.text))
        self.deliveries = Deliveries()
        self.service = EpochService(self.ground.keeper, self.ground.store, listener.outbox, self.deliveries)
        self.service.follow(self.ground.events)

    def begin(self, index: int = EPOCH) -> None:
        """There is a ratchet, on the disk and in force."""
        write_ratchet(self.state_dir, ratchet(index))
        settings = self.ground.keeper.config
        self.ground.keeper.epochs = Epochs(ratchet(index), settings.replay_window, settings.epoch_horizon)
        self.service.tick(self.ground.clock.now)

    def serves(self) -> bool:
        return self.ground.keeper.epochs is not None

    def use(self, server: str) -> None:
        parsed = config(server=f"{self.text}; {server}" if server else self.text)
        self.ground.events.publish(NewConfig(parsed, self.ground.clock.now))


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    with listening() as listener:
        yield Stand(tmp_path, listener)


def on_the_disk(stand: Stand) -> int:
    found = read_ratchet(stand.state_dir)
    assert found is not None
    return found.index


def test_the_listener_is_given_the_live_epoch_once(stand: Stand) -> None:
    stand.begin()
    assert stand.listener.told() == [UseEpochKey(EPOCH, ratchet().private_key(EPOCH))]
    stand.service.tick(stand.ground.clock.now)
    assert stand.listener.told() == []


def test_an_epoch_that_begins_is_given_and_one_that_ends_taken(stand: Stand) -> None:
    stand.begin()
    stand.listener.told()
    stand.ground.clock.advance(WEEK)
    stand.service.tick(stand.ground.clock.now)
    told = stand.listener.told()
    assert ForgetEpochKey(EPOCH) in told
    assert [order.epoch for order in told if isinstance(order, UseEpochKey)] == [EPOCH + 1]


def test_what_evidence_allows_is_erased_here_on_the_disk_and_in_the_listener(stand: Stand) -> None:
    stand.begin()
    stand.ground.clock.advance(WEEK)
    stand.service.tick(stand.ground.clock.now)
    assert on_the_disk(stand) == EPOCH, "the clock alone destroys nothing"
    assert stand.ground.keeper.epochs is not None
    stand.ground.keeper.epochs.accepted(EPOCH + 1)
    stand.service.tick(stand.ground.clock.now)
    assert on_the_disk(stand) == EPOCH + 1


def test_a_disk_that_refuses_to_erase_is_asked_again_once_a_minute(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.begin()
    assert stand.ground.keeper.epochs is not None
    stand.ground.keeper.epochs.accepted(EPOCH + 1)
    stand.ground.clock.advance(WEEK)
    tries: list[int] = []

    def refuses(first: int, *_: object) -> bool:
        tries.append(first)
        return False

    monkeypatch.setattr("openme.server.epoch_service.erase_before", refuses)
    for _ in range(3):
        stand.service.tick(stand.ground.clock.now)
    assert tries == [EPOCH + 1]
    stand.ground.clock.advance(ERASING_INTERVAL)
    stand.service.tick(stand.ground.clock.now)
    assert tries == [EPOCH + 1] * 2


def test_a_config_switches_version_2_off_and_on(stand: Stand) -> None:
    stand.begin()
    stand.listener.told()
    epochs = stand.ground.keeper.epochs
    assert epochs is not None
    stand.use(V1_ALONE)
    assert not stand.serves()
    assert epochs.private_key(EPOCH) != ratchet().private_key(EPOCH), "in memory it is wiped"
    assert stand.listener.told() == [ForgetEpochKey(EPOCH)]
    assert on_the_disk(stand) == EPOCH, "the file stays"
    stand.use("")
    assert stand.serves()
    stand.service.tick(stand.ground.clock.now)
    assert [type(order) for order in stand.listener.told()] == [UseEpochKey]


def test_version_2_that_cannot_be_switched_on_is_said(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise OpenmeError("the ratchet is of another length")

    monkeypatch.setattr("openme.server.epoch_service.open_epochs", refuses)
    with lines("openme.keeper") as records:
        stand.use("")
    assert "version 2 is not switched on: the ratchet is of another length" in records[0].getMessage()


def test_a_file_that_somebody_has_removed_is_written_again_on_request(stand: Stand) -> None:
    stand.begin()
    (stand.state_dir / FILE_NAME).unlink()
    assert stand.service.save(SaveRatchet(), stand.ground.clock.now).made is False
    assert on_the_disk(stand) == EPOCH


def test_a_new_ratchet_takes_the_place_of_the_old_one_everywhere(stand: Stand) -> None:
    stand.begin()
    stand.listener.told()
    stand.deliveries.offer(bytes(32), Offer(ALICE.public.raw, EPOCH))
    stand.ground.store.renew(ALICE.public.raw, EPOCH)
    stand.service.begin_anew(NewRatchet(epoch_length=WEEK), stand.ground.clock.now)
    told = stand.listener.told()
    assert told[0] == ForgetEpochKey(EPOCH)
    assert isinstance(told[1], UseEpochKey)
    assert told[1].key != ratchet().private_key(EPOCH)
    assert stand.deliveries.fetched(bytes(16)) is None, "what was offered of the old one counts no more"
    assert stand.ground.store.renewals() == {}, "nor does what was fetched"
    made = read_ratchet(stand.state_dir)
    assert made is not None
    assert stand.ground.store.ratchet_seen()[0] == (made.index, made.public_key(made.index)), "or a start would warn"
    with pytest.raises(OpenmeError, match="started with epoch_length"):
        stand.service.begin_anew(NewRatchet(epoch_length=3600), stand.ground.clock.now)


def test_keys_that_were_fetched_are_counted_once_and_strangers_not_at_all(stand: Stand) -> None:
    stand.deliveries.offer(b"\x01" * 32, Offer(ALICE.public.raw, EPOCH + 51))
    stand.service.note_fetched([b"\x01" * 16, b"\x02" * 16, b"\x01" * 16])
    assert stand.ground.store.renewals() == {ALICE.public.raw: EPOCH + 51}
