"""add, renew, epochs, rotate and init --upgrade under version 2, as transcripts of the real command."""

import base64
import socket
import sqlite3
import stat
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from openme.cli import main as cli_main
from openme.config.profile import load_client_config
from openme.config.server import load_server_config
from openme.control.place import SOCKET_NAME
from openme.errors import OpenmeError
from openme.keeper.ratchet_file import FILE_NAME, new_ratchet, read_ratchet, write_ratchet
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.ratchet import MAX_STEPS, Ratchet, epoch_at
from openme.store.places import DATABASE
from support.command import Place, place

# Two keys with one key id, found by trying the numbers from 0 on as seeds.
TWIN, OTHER_TWIN = (ClientPrivateKey(number.to_bytes(32, "big")).public for number in (14_099, 47_417))


def ratchet(here: Place) -> Ratchet:
    made = read_ratchet(here.state)
    assert made is not None
    return made


def entry(here: Place, name: str) -> dict[str, object]:
    value = yaml.safe_load(here.config.read_text())["clients"][name]
    assert isinstance(value, dict)
    return value


def rewritten(here: Place, old: str, new: str) -> None:
    text = here.config.read_text()
    assert old in text
    here.write(text.replace(old, new))


# -- add and renew


def test_add_makes_a_version_2_file_with_a_years_keys(here: Place) -> None:
    path = here.client("alice")
    assert entry(here, "alice")["protocols"] == ["v2"]
    profile = load_client_config(path).profiles["default"]
    assert profile.private_key is not None
    assert profile.epoch_keys is not None
    made = ratchet(here)
    assert (profile.epoch_keys.length, profile.epoch_keys.first) == (604_800, made.index)
    assert profile.epoch_keys.keys == made.public_keys(made.index, 53)
    assert profile.server_pubkey == load_server_config(here.config).public_key
    assert stat.S_IMODE((here.state / FILE_NAME).stat().st_mode) == 0o600


def test_every_client_gets_a_key_of_its_own_and_the_same_epoch_keys(here: Place) -> None:
    one, two = (load_client_config(here.client(name)).profiles["default"] for name in ("alice", "bob"))
    assert one.public_key != two.public_key
    assert one.epoch_keys == two.epoch_keys


def test_no_secret_of_the_ratchet_is_printed_anywhere(here: Place) -> None:
    outcomes = [here.ok("add", "alice"), here.ok("renew", "alice"), here.ok("epochs"), here.ok("epochs", "--json")]
    key = bytearray(32)
    made = ratchet(here)
    made.copy_key_to(key, 0)
    for secret in (bytes(key), made.private_key(made.index)):
        for done in outcomes:
            for text in (base64.b64encode(secret).decode()[:40], secret.hex()):
                assert text not in done.out + done.err


@pytest.mark.parametrize("word", [["--v1"], ["--qr"]])
def test_a_version_1_file_is_for_whoever_asks_for_it(here: Place, word: list[str]) -> None:
    profile = load_client_config(here.client("phone", *word)).profiles["default"]
    assert profile.epoch_keys is None
    assert profile.private_key is not None
    assert "protocols" not in entry(here, "phone")


def test_add_without_version_1_at_the_server_refuses_a_version_1_file(here: Place) -> None:
    here.set("protocols", "[v2]")
    before = here.config.read_bytes()
    done = here.run("add", "phone", "--v1")
    assert (done.code, done.out) == (1, "")
    assert "does not accept v1" in done.error
    assert here.config.read_bytes() == before


def test_add_without_version_2_at_the_server_says_how_to_get_it(here: Place) -> None:
    here.set("protocols", "[v1]")
    before = here.config.read_bytes()
    done = here.run("add", "alice")
    assert (done.code, done.out) == (1, "")
    assert "init --upgrade" in done.err
    assert here.config.read_bytes() == before
    assert not (here.state / FILE_NAME).exists()


def test_a_public_key_whose_key_id_is_taken_is_refused(here: Place) -> None:
    assert TWIN.key_id == OTHER_TWIN.key_id
    here.ok("add", "one", "--pubkey", str(TWIN))
    before = here.config.read_bytes()
    done = here.run("add", "two", "--pubkey", str(OTHER_TWIN))
    assert (done.code, done.out) == (1, "")
    assert "one" in done.error
    assert here.config.read_bytes() == before


def test_renew_prints_everything_but_the_private_key(here: Place) -> None:
    first = load_client_config(here.client("alice")).profiles["default"]
    path = here.root / "renewed.yaml"
    path.write_text(here.ok("renew", "alice").out)
    path.chmod(0o600)
    renewed = load_client_config(path).profiles["default"]
    assert (renewed.public_key, renewed.epoch_keys, renewed.private_key) == (first.public_key, first.epoch_keys, None)
    here.client("phone", "--v1")
    assert "epoch_keys" in here.ok("renew", "phone").out  # its entry takes the server's protocols


def test_renew_of_nobody_names_the_nearest(here: Place) -> None:
    here.client("alice")
    done = here.run("renew", "alcie")
    assert done.code == 1
    assert "alice" in done.err


# -- epochs


def test_epochs_says_where_the_ratchet_stands_and_until_when_files_last(here: Place) -> None:
    here.client("alice")
    here.client("phone", "--v1")
    value = here.ok("epochs", "--json").json()
    made = ratchet(here)
    assert (value["length"], value["epoch"], value["oldest"], value["horizon"]) == (604_800, made.index, made.index, 53)
    alice, phone = value["clients"]
    assert (alice["name"], phone) == ("alice", {"name": "phone", "file_until": None, "renewed_until": None})
    assert alice["file_until"] > value["epoch_ends"]
    text = here.ok("epochs").out
    assert f"epoch {made.index} of 7d each" in text
    assert alice["file_until"] in text


def test_epochs_without_a_ratchet_says_how_to_make_one(here: Place) -> None:
    done = here.run("epochs")
    assert done.code == 1
    assert "init --upgrade" in done.err
    assert not (here.state / FILE_NAME).exists()


def test_a_client_whose_keys_end_soon_is_named(here: Place) -> None:
    here.set("epoch_horizon", "2")
    here.client("alice")
    assert "alice has keys until" in here.ok("epochs").err
    here.set("epoch_horizon", "53")
    here.ok("renew", "alice")
    assert "has keys until" not in here.ok("epochs").err


def test_another_epoch_length_than_the_ratchets_is_an_error(here: Place) -> None:
    here.client("alice")
    here.set("epoch_length", "1d")
    for words in (["epochs"], ["add", "bob"], ["serve", "--state-file", ""]):
        done = here.run(*words)
        assert done.code == 1, words
        assert "epoch_length" in done.error


# -- rotate


def test_a_new_version_1_key_is_accepted_beside_the_old_until_it_is_finished(here: Place) -> None:
    rewritten(here, "clients:", "# about everybody\nclients:")
    old = load_server_config(here.config).private_key
    done = here.ok("rotate", "v1-key")
    config = load_server_config(here.config)
    assert done.out.strip() == base64.b64encode(config.public_key).decode()
    assert (config.previous_private_key, config.private_key == old) == (old, False)
    assert "# about everybody\n" in here.config.read_text()
    again = here.run("rotate", "v1-key")
    assert again.code == 1
    assert "--finish" in again.err
    here.ok("rotate", "v1-key", "--finish")
    config = load_server_config(here.config)
    assert (config.previous_private_key, config.private_key == old) == (None, False)
    assert here.run("rotate", "v1-key", "--finish").code == 1


def test_a_server_that_cannot_be_told_costs_a_warning_and_not_the_answer(here: Place) -> None:
    def refuse(listening: socket.socket) -> None:
        peer, _ = listening.accept()
        with peer:
            peer.recv(1000)
            peer.sendall(b'{"error": "the server is of another version"}')

    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(here.state / SOCKET_NAME))
        listening.listen()
        thread = threading.Thread(target=refuse, args=(listening,))
        thread.start()
        done = here.ok("rotate", "v1-key")
        thread.join(5)
    assert done.out.strip() == base64.b64encode(load_server_config(here.config).public_key).decode()
    assert "warning: the server is of another version" in done.err


def test_after_a_theft_the_old_version_1_key_goes_at_once(here: Place) -> None:
    old = load_server_config(here.config).private_key
    here.ok("rotate", "v1-key")
    here.ok("rotate", "v1-key", "--now")
    config = load_server_config(here.config)
    assert config.previous_private_key is None
    assert config.private_key != old
    assert old.to_base64() not in here.config.read_text()


@pytest.mark.parametrize("words", [["ratchet", "--now"], ["ratchet", "--finish"], ["v1-key", "--now", "--finish"], []])
def test_what_rotate_does_not_understand_is_a_mistake_of_the_users(here: Place, words: list[str]) -> None:
    before = here.config.read_bytes()
    assert here.run("rotate", *words).code == 2
    assert here.config.read_bytes() == before


def test_a_new_ratchet_has_nothing_in_common_with_the_old(here: Place) -> None:
    here.client("alice")
    before = ratchet(here)
    here.ok("rotate", "ratchet")
    after = ratchet(here)
    assert not set(before.public_keys(before.index, 60)) & set(after.public_keys(after.index, 60))
    assert here.ok("epochs", "--json").json()["clients"][0]["file_until"] is None


@pytest.mark.parametrize("how", ["rotated", "lost", "put there by hand"])
def test_what_receipts_brought_of_an_old_ratchet_is_not_told_of_the_new(here: Place, how: str) -> None:
    """It would say for a year that a client has keys, whose keys open nothing."""
    here.client("alice")
    with here.serving():
        pass
    key = load_server_config(here.config).clients["alice"].public_key.raw
    with closing(sqlite3.connect(here.state / DATABASE)) as database:
        database.execute("INSERT INTO delivered VALUES (?, ?)", (key, ratchet(here).index + 52))
        database.commit()
    assert here.ok("epochs", "--json").json()["clients"][0]["renewed_until"] is not None
    if how == "rotated":
        here.ok("rotate", "ratchet")
    elif how == "lost":
        (here.state / FILE_NAME).unlink()
        here.ok("add", "bob")
    else:
        write_ratchet(here.state, new_ratchet(604_800, time.time_ns()))
        with here.serving() as server:
            server.logs("another one than before")
    assert here.ok("epochs", "--json").json()["clients"][0]["renewed_until"] is None


def test_a_running_server_makes_the_new_ratchet_itself(here: Place) -> None:
    here.client("alice")
    with here.serving() as server:
        before = ratchet(here).public_keys(ratchet(here).index, 1)
        here.ok("rotate", "ratchet")
        server.logs("there is a new ratchet")
        assert ratchet(here).public_keys(ratchet(here).index, 1) != before
        here.ok("rotate", "v1-key")
        server.logs("config in force")
    assert "another one than before" not in server.log
    with here.serving() as again:
        assert "another one than before" not in again.log


def test_a_ratchet_that_was_removed_under_a_server_is_written_by_it_again(here: Place) -> None:
    with here.serving():
        before = ratchet(here)
        (here.state / FILE_NAME).unlink()
        here.client("alice")
        after = ratchet(here)
    assert (before.index, before.public_keys(before.index, 1)) == (after.index, after.public_keys(after.index, 1))


# -- init --upgrade


@pytest.mark.parametrize("protocols", [None, "[v1]", "[v1, v2]"])
@pytest.mark.parametrize("running", [False, True])
def test_an_upgrade_gives_a_version_1_server_what_it_lacks(
    here: Place, protocols: str | None, *, running: bool
) -> None:
    if protocols is None:
        here.write(
            "".join(
                line
                for line in here.config.read_text().splitlines(keepends=True)
                if not line.startswith("  protocols:")
            )
        )
    else:
        here.set("protocols", f"{protocols}  # as agreed")
    key = load_server_config(here.config).private_key
    comments = [line for line in here.config.read_text().splitlines() if "#" in line]

    def upgrade() -> None:
        done = here.ok("init", "--upgrade")
        assert done.out == "version 2 is ready\n"
        config = load_server_config(here.config)
        assert (sorted(config.protocols), config.private_key) == (["v1", "v2"], key)
        assert ratchet(here).index == epoch_at(here.config.stat().st_mtime_ns, 604_800)

    if running:
        with here.serving() as server:
            upgrade()
            if protocols == "[v1]":
                server.logs("config in force")
        assert "Traceback" not in server.log
    else:
        upgrade()
    assert {line.strip() for line in comments if "as agreed" not in line} <= {
        line.strip() for line in here.config.read_text().splitlines()
    }
    if protocols is not None:
        assert "# as agreed" in here.config.read_text()
    first = ratchet(here).public_keys(ratchet(here).index, 1)
    again = here.ok("init", "--upgrade")
    assert "there already" in again.err
    assert ratchet(here).public_keys(ratchet(here).index, 1) == first


# -- what a running server does with changes that it cannot follow


def test_a_new_ratchet_of_another_length_is_refused_while_the_server_runs(here: Place) -> None:
    here.client("alice")
    before = (here.state / FILE_NAME).read_bytes()
    with here.serving():
        here.set("epoch_length", "1d")
        refused = here.run("rotate", "ratchet")
        assert refused.code == 1
        assert "stop it first" in refused.error
        assert (here.state / FILE_NAME).read_bytes() == before
    assert here.run("check-config").code == 1
    here.ok("rotate", "ratchet")
    here.ok("check-config")
    assert ratchet(here).length == 86400


def test_an_upgrade_beside_a_running_version_1_server_disturbs_nobody(here: Place) -> None:
    rewritten(here, "protocols: [v1, v2]", "protocols: [v1]")
    with here.serving() as server:
        done = here.ok("init", "--upgrade")
        assert "made the epoch keys" in done.err
        server.logs("made the epoch keys of wire version 2")
        assert "clients need new files" not in server.log
        file = here.client("alice")
        assert here.run("--client-config", str(file), "knock", "--check", "--ip", "203.0.113.5").code == 0


def test_renew_for_a_version_1_client_has_no_epoch_keys(here: Place) -> None:
    here.client("phone", "--v1")
    assert "epoch_keys" not in here.ok("renew", "phone", "--v1").out
    assert "epoch_keys" in here.ok("renew", "phone").out
    here.client("alice")
    assert "may not speak version 1" in here.run("renew", "alice", "--v1").error


# -- clocks, disks and ratchets that are not as expected: one line with the cure, at each start


def lines_of_a_start(here: Place) -> str:
    with here.serving() as server:
        pass
    return server.log


def test_a_ratchet_made_under_a_clock_that_was_ahead_is_named_with_its_cure(here: Place) -> None:
    here.client("alice")
    write_ratchet(here.state, new_ratchet(604_800, time.time_ns() + 366 * 86400 * 10**9))
    for words in (["add", "bob"], ["renew", "alice"]):
        done = here.run(*words)
        assert (done.code, done.out) == (1, "")
        assert "begins" in done.error
        assert "openme rotate ratchet" in done.err
    told = here.ok("epochs").err
    assert "no version 2 knock is accepted" in told
    assert "openme rotate ratchet" in told
    for _ in range(2):
        log = lines_of_a_start(here)
        assert "no version 2 knock is accepted" in log
        assert "openme rotate ratchet" in log
    here.ok("rotate", "ratchet")
    assert "no version 2 knock" not in lines_of_a_start(here)
    here.ok("renew", "alice")


def test_more_epochs_than_can_be_skipped_are_named_with_their_cure(here: Place) -> None:
    here.set("epoch_length", "2m")
    here.client("alice")
    write_ratchet(here.state, new_ratchet(120, time.time_ns() - (MAX_STEPS + 10) * 120 * 10**9))
    assert "openme rotate ratchet" in here.ok("epochs").err
    assert "no version 2 knock is accepted" in lines_of_a_start(here)
    assert "openme rotate ratchet" in here.run("renew", "alice").err


@pytest.mark.parametrize("epochs", [-1, 0, 1])
def test_another_servers_ratchet_is_named_at_each_start_until_the_operator_has_chosen(here: Place, epochs: int) -> None:
    here.client("alice")
    lines_of_a_start(here)
    other = new_ratchet(604_800, time.time_ns() + epochs * 604_800 * 10**9)
    write_ratchet(here.state, other)
    for _ in range(2):
        log = lines_of_a_start(here)
        assert "the ratchet is another one than before" in log
        assert "openme rotate ratchet" in log
    here.ok("rotate", "ratchet")
    assert "another one" not in lines_of_a_start(here)


def test_an_old_copy_of_the_ratchet_is_named_at_each_start_until_it_has_caught_up(here: Place) -> None:
    here.client("alice")
    now = ratchet(here)
    lines_of_a_start(here)
    old = Ratchet(now.length, now.index - 3, bytes(range(32)))
    write_ratchet(here.state, old.later(now.index))
    with closing(sqlite3.connect(here.state / DATABASE, isolation_level=None)) as database:
        database.execute("UPDATE ratchet SET public = ?", (old.public_key(now.index),))
    assert "old copy" not in lines_of_a_start(here)
    write_ratchet(here.state, old)
    for _ in range(2):
        assert "the ratchet file is an old copy" in lines_of_a_start(here)
    write_ratchet(here.state, old.later(now.index))
    assert "old copy" not in lines_of_a_start(here)


def test_a_lost_state_dir_is_an_error_where_the_config_knows_version_2_clients(here: Place) -> None:
    here.client("alice")
    lines_of_a_start(here)
    for path in here.state.iterdir():
        path.unlink()
    log = lines_of_a_start(here)
    assert "error: the ratchet file is gone: made a new one, and every version 2 client needs a new file" in log
    assert "error: the replay memory may be incomplete" in log
    without = "no client file with the current epoch keys has been made for alice: openme renew NAME"
    assert without in lines_of_a_start(here)
    here.ok("renew", "alice")
    assert "has been made for" not in lines_of_a_start(here)


def test_what_init_and_add_have_made_is_no_loss(tmp_path: Path) -> None:
    here = place(tmp_path)
    here.init()
    made = {path.name: stat.S_IMODE(path.stat().st_mode) for path in here.state.iterdir()}
    assert made == {FILE_NAME: 0o600, DATABASE: 0o600, "state.mark": 0o600}
    here.client("alice")
    log = lines_of_a_start(here)
    assert "error" not in log
    assert "may be incomplete" not in log


def test_nothing_of_a_memory_stays_of_an_init_that_failed(tmp_path: Path) -> None:
    here = place(tmp_path)
    here.state.mkdir(0o700)
    (here.state / ".ratchet.new").mkdir()  # in the ratchet's way
    done = here.run("init", "--server", "127.0.0.1", "--firewall", "memory", "--state-dir", str(here.state))
    assert done.code == 1
    assert "the epoch keys cannot be written" in done.error
    assert [path.name for path in here.state.iterdir()] == [".ratchet.new"]


def test_a_clock_beyond_the_year_2262_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def beyond() -> float:
        raise OverflowError("timestamp too large to convert to C _PyTime_t")

    monkeypatch.setattr(time, "time", beyond)
    with pytest.raises(OpenmeError, match="beyond the year 2262"):
        cli_main._need_a_clock()


def test_list_and_epochs_show_the_same_beside_a_server_as_without(here: Place) -> None:
    here.client("alice")
    with here.serving():
        pass
    key = load_server_config(here.config).clients["alice"].public_key.raw
    with closing(sqlite3.connect(here.state / DATABASE, isolation_level=None)) as database:
        database.execute("INSERT INTO delivered VALUES (?, ?)", (key, ratchet(here).index + 52))
        database.execute(
            "INSERT INTO seen VALUES (?, 'alice', 1700000000.0, ?)", (key, bytes(10) + b"\xff\xff\1\2\3\4")
        )
    without = [here.ok(*words).out for words in (["list"], ["epochs"])]
    assert "2023-11-14T22:13:20Z from 1.2.3.4" in without[0]
    with here.serving():
        assert [here.ok(*words).out for words in (["list"], ["epochs"])] == without
