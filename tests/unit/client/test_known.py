"""What a client keeps beside its file: epoch keys that only ever grow at the end, and its last knock."""

import base64
import json
import os
import stat
from ipaddress import ip_address
from pathlib import Path

import pytest

from openme.client.errors import KeysRefusedError
from openme.client.known import HORIZON, Known, PastKnock
from openme.config.profile_model import ClientConfig, EpochKeys, Profile
from openme.wire.base import ReceiptKeys
from openme.wire.receipt import EpochKeyList
from support import independent_v2
from support.knocks import ALICE, BOB, EPOCH, SERVER, START, WEEK, ratchet

KEYS = dict(enumerate(ratchet().public_keys(EPOCH, 120), EPOCH))
OTHER = tuple(bytes([number]) * 32 for number in range(1, 60))
PAST = PastKnock("192.0.2.1", None, START, EPOCH, ReceiptKeys(b"i" * 16, b"k" * 32, b"n" * 12))


def profile(name: str = "home", host: str = "host.example", first: int = EPOCH, count: int = 3) -> Profile:
    keys = EpochKeys(WEEK, first, tuple(KEYS[first + n] for n in range(count)))
    return Profile(name, host, SERVER.public, private_key=ALICE, public_key=ALICE.public, epoch_keys=keys)


def known(tmp_path: Path, *profiles: Profile) -> Known:
    return Known(ClientConfig(tmp_path / "config.yaml", {p.name: p for p in profiles}))


def offered(first: int = EPOCH, count: int = HORIZON) -> EpochKeyList:
    return EpochKeyList(first, tuple(KEYS[first + n] for n in range(count)))


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "config.yaml.known").glob("*"))


def epochs(first: int, count: int) -> dict[int, bytes]:
    return {first + n: KEYS[first + n] for n in range(count)}


HOME = profile()


# -- epoch keys


def test_at_first_there_are_those_of_the_file(tmp_path: Path) -> None:
    assert known(tmp_path, HOME).keys(HOME) == epochs(EPOCH, 3)
    assert known(tmp_path, HOME).keys(HOME._replace(epoch_keys=None)) == {}
    assert files(tmp_path) == []


def test_those_of_a_receipt_are_added_behind_the_last(tmp_path: Path) -> None:
    mine = known(tmp_path, HOME)
    mine.add(HOME, EPOCH, offered())
    assert mine.keys(HOME) == epochs(EPOCH, HORIZON)
    assert known(tmp_path, HOME).keys(HOME) == epochs(EPOCH, HORIZON)


def test_use_renews_week_after_week(tmp_path: Path) -> None:
    mine = known(tmp_path, HOME)
    for week in range(0, 60, 2):
        mine.add(HOME, EPOCH + week, offered(EPOCH + week))
        assert mine.keys(HOME) == epochs(EPOCH, week + HORIZON)


def test_nothing_new_writes_nothing(tmp_path: Path) -> None:
    mine = known(tmp_path, HOME)
    mine.add(HOME, EPOCH, offered(count=3))
    mine.add(HOME, EPOCH, offered(count=0))
    assert files(tmp_path) == []
    mine.add(HOME, EPOCH, offered())
    (before,) = (path.stat().st_ino for path in files(tmp_path))
    mine.add(HOME, EPOCH, offered())
    assert [path.stat().st_ino for path in files(tmp_path)] == [before]


@pytest.mark.parametrize("more", [1, 20])
def test_none_is_taken_beyond_53_epochs_from_the_knocks(tmp_path: Path, more: int) -> None:
    mine = known(tmp_path, HOME)
    mine.add(HOME, EPOCH, offered(count=HORIZON + more))
    assert mine.keys(HOME) == epochs(EPOCH, HORIZON)
    assert max(mine.keys(HOME)) == EPOCH + 52


def test_a_knock_of_the_past_brings_no_more_than_its_own_year(tmp_path: Path) -> None:
    late = profile(first=EPOCH + 5, count=3)
    mine = known(tmp_path, late)
    mine.add(late, EPOCH + 5 - 52, offered(EPOCH, 100))
    assert mine.keys(late) == epochs(EPOCH + 5, 3)


def test_no_gap_is_left(tmp_path: Path) -> None:
    mine = known(tmp_path, HOME)
    mine.add(HOME, EPOCH + 4, offered(EPOCH + 4))
    assert mine.keys(HOME) == epochs(EPOCH, 3)
    mine.add(HOME, EPOCH + 3, offered(EPOCH + 3, 2))
    assert mine.keys(HOME) == epochs(EPOCH, 5)


def test_none_is_ever_added_before_the_first(tmp_path: Path) -> None:
    late = profile(first=EPOCH + 5, count=3)
    mine = known(tmp_path, late)
    mine.add(late, EPOCH + 5, offered(EPOCH))
    assert mine.keys(late) == epochs(EPOCH + 5, HORIZON - 5)


@pytest.mark.parametrize("at", [0, 2, 3, 30, 52])
def test_a_key_that_differs_from_a_known_one_stores_nothing(tmp_path: Path, at: int) -> None:
    mine = known(tmp_path, HOME)
    mine.add(HOME, EPOCH, offered(count=53))
    before = mine.keys(HOME)
    keys = list(offered(count=60).keys)
    keys[at] = OTHER[0]
    with pytest.raises(KeysRefusedError, match="differs"):
        mine.add(HOME, EPOCH + 5, EpochKeyList(EPOCH, tuple(keys)))
    assert mine.keys(HOME) == before


def test_a_low_order_key_stores_nothing(tmp_path: Path) -> None:
    mine = known(tmp_path, HOME)
    for u in independent_v2.LOW_ORDER:
        keys = (*offered(count=10).keys, u.to_bytes(32, "little"))
        with pytest.raises(KeysRefusedError, match="low-order"):
            mine.add(HOME, EPOCH, EpochKeyList(EPOCH, keys))
    assert mine.keys(HOME) == epochs(EPOCH, 3)


def test_a_profile_without_epoch_keys_takes_none(tmp_path: Path) -> None:
    bare = HOME._replace(epoch_keys=None)
    known(tmp_path, bare).add(bare, EPOCH, offered())
    assert files(tmp_path) == []


# -- another server's keys


def test_a_key_that_another_hosts_file_has_is_refused(tmp_path: Path) -> None:
    office = profile("office", "office.example", EPOCH + 10)
    mine = known(tmp_path, HOME, office)
    with pytest.raises(KeysRefusedError, match=r"office \(office\.example\)"):
        mine.add(HOME, EPOCH, offered())
    assert mine.keys(HOME) == epochs(EPOCH, 3)


def test_a_key_that_another_hosts_store_has_is_refused(tmp_path: Path) -> None:
    strange = EpochKeys(WEEK, EPOCH, OTHER[:2])
    office = profile("office", "office.example")._replace(epoch_keys=strange)
    mine = known(tmp_path, HOME, office)
    keys = (*OTHER[:2], *(KEYS[EPOCH + n] for n in range(4, 10)))
    mine.add(office, EPOCH, EpochKeyList(EPOCH, keys))
    with pytest.raises(KeysRefusedError, match="office"):
        mine.add(HOME, EPOCH, offered())
    assert mine.other_host_with(HOME, HOME.epoch_keys.keys if HOME.epoch_keys else ()) is None
    assert mine.other_host_with(HOME, [KEYS[EPOCH + 9]]) == office


def test_profiles_of_one_host_share_keys_without_a_word(tmp_path: Path) -> None:
    second = profile("root", count=5)._replace(private_key=BOB, public_key=BOB.public)
    mine = known(tmp_path, HOME, second)
    mine.add(HOME, EPOCH, offered())
    assert mine.keys(HOME) == epochs(EPOCH, HORIZON)
    assert mine.keys(second) == epochs(EPOCH, HORIZON)


def test_two_profiles_with_one_first_key_leave_each_other_no_gap(tmp_path: Path) -> None:
    """Made in one week, one of them with more keys: what the longer one stores is enough for the shorter one."""
    second = profile("root", count=5)._replace(private_key=BOB, public_key=BOB.public)
    mine = known(tmp_path, HOME, second)
    mine.add(second, EPOCH, offered())
    assert mine.keys(second) == mine.keys(HOME) == epochs(EPOCH, HORIZON)


@pytest.mark.parametrize("says", ["home", "office"])
def test_two_hosts_that_are_said_to_be_one_server_share_keys(tmp_path: Path, says: str) -> None:
    office = profile("office", "office.example", EPOCH + 10)
    told = {
        "home": (HOME._replace(same_server_as=("office.example",)), office),
        "office": (HOME, office._replace(same_server_as=("host.example",))),
    }[says]
    mine = known(tmp_path, *told)
    mine.add(told[0], EPOCH, offered())
    assert mine.keys(told[0]) == epochs(EPOCH, HORIZON)


def test_being_told_of_one_host_allows_no_other(tmp_path: Path) -> None:
    home = HOME._replace(same_server_as=("third.example",))
    mine = known(tmp_path, home, profile("office", "office.example", EPOCH + 10))
    with pytest.raises(KeysRefusedError, match="office"):
        mine.add(home, EPOCH, offered())


# -- the last knock


@pytest.mark.parametrize("target", [None, "203.0.113.5", "2001:db8::7"])
def test_the_last_knock_is_remembered_datagram_by_datagram(tmp_path: Path, target: str | None) -> None:
    mine = known(tmp_path, HOME)
    past = PAST._replace(target=None if target is None else ip_address(target))
    mine.remember(HOME, [past, past._replace(host="2001:db8::1")])
    assert known(tmp_path, HOME).last(HOME) == [past, past._replace(host="2001:db8::1")]
    mine.remember(HOME, [past._replace(sent_ns=5)])
    assert [knock.sent_ns for knock in mine.last(HOME)] == [5]


def test_each_clients_key_has_its_own_last_knock(tmp_path: Path) -> None:
    second = profile("root")._replace(private_key=BOB, public_key=BOB.public)
    mine = known(tmp_path, HOME, second)
    mine.remember(HOME, [PAST])
    assert mine.last(second) == []
    mine.remember(second, [PAST._replace(sent_ns=5)])
    assert mine.last(HOME) == [PAST]


def test_without_epoch_keys_nothing_is_remembered(tmp_path: Path) -> None:
    bare = HOME._replace(epoch_keys=None)
    mine = known(tmp_path, bare)
    mine.remember(bare, [PAST])
    assert mine.last(bare) == []
    assert files(tmp_path) == []


# -- files


def test_they_are_the_owners_alone_and_nothing_else_is_left(tmp_path: Path) -> None:
    mine = known(tmp_path, HOME)
    mine.add(HOME, EPOCH, offered())
    mine.remember(HOME, [PAST])
    assert len(files(tmp_path)) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(tmp_path)} == {0o600}
    assert stat.S_IMODE((tmp_path / "config.yaml.known").stat().st_mode) == 0o700


def test_only_keys_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A knock must not: what it leaves costs no more than a proof, or another question, where a crash takes it."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    mine = known(tmp_path, HOME)
    mine.remember(HOME, [PAST])
    mine.note_try(HOME, 5)
    mine.note_networks({})
    assert synced == []
    mine.add(HOME, EPOCH, offered())
    assert len(synced) == 2, "content and name"


def test_they_belong_to_one_client_file_and_go_with_it(tmp_path: Path) -> None:
    """After a theft the thief may have planted keys: a file of a new ratchet must know nothing of them."""
    mine = known(tmp_path, HOME)
    mine.add(HOME, EPOCH, offered())
    mine.remember(HOME, [PAST])
    old = files(tmp_path)
    anew = HOME._replace(epoch_keys=EpochKeys(WEEK, EPOCH, OTHER[:3]))
    renewed = known(tmp_path, anew)
    assert renewed.keys(anew) == {EPOCH + n: OTHER[n] for n in range(3)}
    assert renewed.last(anew) == []
    renewed.remember(anew, [PAST])
    assert not set(old) & set(files(tmp_path))
    assert len(files(tmp_path)) == 1


def test_the_files_of_other_profiles_stay(tmp_path: Path) -> None:
    office = profile("office", "office.example")._replace(epoch_keys=EpochKeys(WEEK, EPOCH, OTHER[:3]))
    mine = known(tmp_path, HOME, office)
    mine.add(office, EPOCH, EpochKeyList(EPOCH, OTHER[:6]))
    mine.add(HOME, EPOCH, offered())
    assert len(mine.keys(office)) == 6
    assert len(mine.keys(HOME)) == HORIZON


@pytest.mark.parametrize(
    "content",
    [
        *("", "null", "[]", "5", '"x"', "{", "[" * 5000, "{}", '{"first": 1}', '{"keys": ""}', "\x00"),
        *('{"first": "1", "keys": ""}', '{"first": null, "keys": "AAAA"}', '{"first": 1, "keys": 5}'),
        f'{{"first": {EPOCH}, "keys": "AAAA"}}',
        f'{{"first": {EPOCH}, "keys": "{base64.b64encode(bytes(range(40))).decode()}"}}',
        f'{{"first": {EPOCH - 9}, "keys": "{base64.b64encode(bytes(range(32))).decode()}"}}',
        f'{{"first": {EPOCH + 9}, "keys": "{base64.b64encode(bytes(range(32))).decode()}"}}',
        f'{{"first": {EPOCH}.0, "keys": "{base64.b64encode(bytes(range(32))).decode()}"}}',
        f'{{"first": {EPOCH + 3}.5, "keys": "{base64.b64encode(bytes(range(32))).decode()}"}}',
        f'{{"first": true, "keys": "{base64.b64encode(bytes(range(32))).decode()}"}}',
    ],
)
def test_what_we_would_not_have_written_is_not_there(tmp_path: Path, content: str) -> None:
    mine = known(tmp_path, HOME)
    mine.add(HOME, EPOCH, offered())
    (path,) = files(tmp_path)
    path.write_text(content)
    assert mine.keys(HOME) == epochs(EPOCH, 3)
    mine.add(HOME, EPOCH, offered())
    assert mine.keys(HOME) == epochs(EPOCH, HORIZON)


@pytest.mark.parametrize(
    "changed",
    [
        *({"receipt": []}, {"receipt": ["00"]}, {"receipt": ["zz", "", ""]}, {"receipt": None}, {"target": "x"}),
        *({"sent_ns": "x"}, {"sent_ns": None}, {"sent_ns": float("inf")}, {"epoch": float("nan")}, {"target": [1]}),
        {"receipt": ["00" * 15, "00" * 32, "00" * 12]},
        {"receipt": ["00" * 16, "00" * 31, "00" * 12]},
        {"receipt": ["00" * 16, "00" * 32, "00" * 13]},
    ],
)
def test_a_last_knock_that_we_would_not_have_written_is_none(tmp_path: Path, changed: dict[str, object]) -> None:
    mine = known(tmp_path, HOME)
    mine.remember(HOME, [PAST])
    (path,) = files(tmp_path)
    value = json.loads(path.read_text())
    path.write_text(json.dumps({"knocks": [value["knocks"][0] | changed]}))
    assert mine.last(HOME) == []


def test_a_disk_that_refuses_is_the_callers_to_tell(tmp_path: Path) -> None:
    (tmp_path / "config.yaml.known").write_text("in the way")
    mine = known(tmp_path, HOME)
    with pytest.raises(OSError, match=r"directory|exists"):
        mine.add(HOME, EPOCH, offered())
    with pytest.raises(OSError, match=r"directory|exists"):
        mine.remember(HOME, [PAST])
    assert mine.keys(HOME) == epochs(EPOCH, 3)


def test_no_key_of_a_receipt_is_in_a_repr() -> None:
    assert repr(b"k" * 32) not in repr(PAST)
