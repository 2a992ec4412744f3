"""The row `revocation` of the security model: `revoke` stops the next knock and closes what is open, without a restart.

Real: everything. Established connections outlive their door unless `--cut` is asked for (which has tests of its own):
the firewall lets established connections pass, so that a door that closes on time does not end a session.
"""

import itertools
import re
import secrets
import subprocess
import threading
import time
from pathlib import Path

import pytest

from openme.config.edit import add_client, remove_client
from openme.config.locked import locked_directory
from openme.config.server import load_server_config
from openme.keys.ed25519 import ClientPrivateKey
from support.claims import SSH, ClaimsWorld, noted
from support.netns import until
from support.server import OPENME, echoes

pytestmark = pytest.mark.root


def _without(world: ClaimsWorld, name: str) -> str:
    """The config's text without a client."""
    lines = world.config.read_text().splitlines(keepends=True)
    start = lines.index(f"  {name}:\n")
    end = next((i for i in range(start + 1, len(lines)) if not lines[i].startswith("    ")), len(lines))
    return "".join(lines[:start] + lines[end:])


def _knock_in_a_loop(world: ClaimsWorld, packets: list[bytes], stop: threading.Event) -> threading.Thread:
    def loop() -> None:
        for packet in packets:
            if stop.is_set():
                return
            world.send(packet)
            time.sleep(0.005)

    thread = threading.Thread(target=loop)
    thread.start()
    return thread


def test_knocking_in_a_tight_loop_while_revoking(world: ClaimsWorld) -> None:
    packets = [world.signed(world.alice) for _ in range(250)]
    stop = threading.Event()
    thread = _knock_in_a_loop(world, packets, stop)
    try:
        until(lambda: world.opened("alice") > 5)
        assert world.tcp(world.client, SSH) == "open"
        world.revoke("alice")
        opened = world.opened("alice")
        assert world.tcp(world.client, SSH) == "filtered"
    finally:
        stop.set()
        thread.join()
    world.assert_refuses(*[world.signed(world.alice) for _ in range(50)])
    assert world.opened("alice") == opened
    assert not world.is_in("alice")
    world.assert_opens(world.bob, "bob")


def test_edited_by_hand(world: ClaimsWorld) -> None:
    """Nobody tells the server: the next knock is refused, however soon it comes; the door closes within a second."""
    for _ in range(5):
        world.assert_opens(world.alice)
        whole = world.config.read_text()
        packets = [world.signed(world.alice) for _ in range(5)]
        opened = world.opened("alice")
        world.write_config(_without(world, "alice"))
        world.judged(*packets)
        assert world.opened("alice") == opened
        assert world.tcp(world.client, SSH) == "filtered"
        world.write_config(whole)
    world.assert_opens(world.alice)
    closed = world.log().count("(revoked)")
    world.write_config(_without(world, "alice"))
    until(lambda: world.tcp(world.client, SSH) == "filtered")
    assert world.log().count("(revoked)") == closed + 1  # its own time would be over much later


def test_edited_in_place(world: ClaimsWorld) -> None:
    """An editor that writes into the file itself, within the same clock tick and to the same length."""
    world.assert_opens(world.alice)
    text = world.config.read_text()
    world.config.write_text(text.replace("  alice:\n", "  alicf:\n"))
    world.judged(world.signed(world.alice))
    assert "alicf: opened" in world.log()
    with world.config.open("r+") as file:
        file.write(_without_key(text))
        file.truncate()
    world.assert_refuses(world.signed(world.alice))


def _without_key(text: str) -> str:
    """Another key where alice's stood: what was hers is somebody else's."""
    start = text.index("ed25519_pubkey: ", text.index("  alice:\n")) + len("ed25519_pubkey: ")
    other = str(ClientPrivateKey(secrets.token_bytes(32)).public)
    quoted = text[start] in "\"'"
    return text[: start + quoted] + other + text[start + quoted + len(other) :]


def test_the_file_removed(world: ClaimsWorld) -> None:
    """The last good one stays in force, and every minute at least the log says so."""
    whole = world.config.read_text()
    world.assert_opens(world.bob, "bob")
    world.config.unlink()
    world.says("the config on disk is NOT in force, the last good one is")
    assert world.tcp(world.client, SSH) == "open"
    world.close("bob")
    world.assert_opens(world.alice)
    world.close("alice")
    world.write_config(whole)
    world.write_config(_without(world, "alice"))
    world.assert_refuses(world.signed(world.alice))
    world.assert_opens(world.bob, "bob")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("server:\n", "server: [\n"),
        ("clients:\n", "clints:\n"),
        ("udp_port: 54154", "udp_port: 99999"),
        ("private_key: ", "private_key: A"),
        ("server:\n", "\0"),
    ],
)
def test_a_broken_file_gains_nobody_anything(world: ClaimsWorld, old: str, new: str) -> None:
    world.revoke("bob")
    good = world.config.read_text()
    mallory = world.client_file("mallory")
    text = world.config.read_text()
    assert old in text
    world.write_config(good)
    world.judged()
    world.write_config(text.replace(old, new, 1).replace("[22/tcp]", "[22/tcp, 23/tcp]"))
    world.assert_refuses(world.signed(mallory), world.signed(world.bob))
    world.says("NOT in force")
    world.assert_opens(world.alice)
    assert world.opened("mallory") == 0
    assert "23/tcp" not in world.log()
    world.write_config(text)
    world.judged(world.signed(mallory))
    assert world.opened("mallory") == 1


def test_a_file_that_others_can_write_is_not_in_force(world: ClaimsWorld) -> None:
    good = world.config.read_text()
    mallory = world.client_file("mallory")
    text = world.config.read_text()
    world.write_config(good)
    world.judged()
    beside = world.config.with_suffix(".new")
    beside.touch()
    beside.chmod(0o666)
    beside.write_text(text)
    beside.replace(world.config)
    world.assert_refuses(world.signed(mallory))
    world.says("NOT in force")
    world.assert_opens(world.alice)


def test_revoke_in_a_file_that_is_broken_elsewhere(world: ClaimsWorld) -> None:
    """Taking a right away does not wait until somebody has mended the rest: the last good config loses the client."""
    world.assert_opens(world.alice)
    world.write_config(world.config.read_text().replace("udp_port: 54154", "udp_port: 99999"))
    world.says("NOT in force")
    done = world.openme(world.server, "--config", world.config, "revoke", "alice")
    assert done.returncode == 0, done.stderr
    assert "last good config" in done.stderr
    assert world.tcp(world.client, SSH) == "filtered"
    world.assert_refuses(world.signed(world.alice))
    world.assert_opens(world.bob, "bob")
    world.close("bob")
    world.write_config(world.config.read_text().replace("udp_port: 99999", "udp_port: 54154"))
    world.assert_refuses(world.signed(world.alice))


def test_a_revoked_client_stays_out_over_a_restart(world: ClaimsWorld) -> None:
    world.assert_opens(world.alice)
    world.kill()
    done = world.openme(world.server, "--config", world.config, "revoke", "alice", code=0)
    assert "no further knock opens" in done.stderr
    assert world.tcp(world.client, SSH) == "open"  # nobody is there to close it before its time
    world.start()
    assert world.tcp(world.client, SSH) == "filtered"
    world.assert_refuses(world.signed(world.alice))


def test_a_connection_lives_on_without_cut(world: ClaimsWorld) -> None:
    world.assert_opens(world.alice)
    held = world.connection(world.client, SSH)
    world.revoke("alice")
    assert world.tcp(world.client, SSH) == "filtered"
    assert echoes(held)


def test_close_on_demand(world: ClaimsWorld) -> None:
    world.assert_opens(world.alice)
    done = world.openme(world.server, "--config", world.config, "close", "alice", code=0)
    assert "192.0.2.2" in done.stderr
    assert world.tcp(world.client, SSH) == "filtered"
    assert not world.is_in("alice")
    assert world.openme(world.server, "--config", world.config, "close", "alicf").returncode == 1
    world.assert_opens(world.alice)


def test_close_leaves_what_another_client_holds(world: ClaimsWorld) -> None:
    """Behind one address: alice's end does not shut bob out."""
    world.assert_opens(world.alice)
    world.assert_opens(world.bob, "bob")
    world.close("alice")
    assert world.tcp(world.client, SSH) == "open"
    world.revoke("bob")
    assert world.tcp(world.client, SSH) == "filtered"


def test_groups_change_live_without_closing_unrelated_doors(world: ClaimsWorld) -> None:
    world.set_ports(default="[22/tcp]", web="[8080/tcp, 8081/tcp]", rest="[8080/tcp, 8081/tcp]")
    carol = world.client_file("carol", allowed_ports=["web"])
    world.serve(tcp=[8080, 8081])
    world.assert_opens(world.alice)
    world.judged(world.signed(carol))
    assert [world.tcp(world.client, port) for port in (SSH, 8080, 8081)] == ["open"] * 3

    seen: set[str] = set()
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            seen.add(world.tcp(world.client, SSH))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        world.set_ports(default="[22/tcp]", web="[8081/tcp, 23/tcp]", rest="[8080/tcp, 8081/tcp]")
        until(lambda: world.tcp(world.client, 8080) == "filtered")
        assert world.tcp(world.client, 8081) == "open"

        world.set_ports(
            default="[22/tcp]", rest="[8080/tcp, 8081/tcp]"
        )  # carol's group is gone, and with it her entry is in force no more
        until(lambda: not world.is_in("carol"))
        assert world.tcp(world.client, 8081) == "filtered"
        world.says("client disabled")
    finally:
        stop.set()
        watcher.join()
    assert seen == {"open"}, "alice's door was shut for a moment"
    opened = world.opened("carol")
    world.judged(world.signed(carol))
    assert world.opened("carol") == opened


def _many(text: str, count: int) -> str:
    """A config with that many clients more."""
    lines = "".join(
        f"  many{i}:\n    ed25519_pubkey: {ClientPrivateKey(secrets.token_bytes(32)).public}\n" for i in range(count)
    )
    return text + lines


def test_with_1500_clients_a_revocation_does_not_wait_for_the_file(world: ClaimsWorld) -> None:
    world.write_config(_many(world.config.read_text(), 1500))
    world.judged()  # from here on the server knows them all, so that changes are read by a process of its own
    until(lambda: "1503 clients" in world.log())
    for _ in range(2):
        carol = world.client_file("carol")
        until(lambda: world.ask("reload")["reading"] is False)
        # With so many keys to try, a stranger's knock may be judged after the sentinel's.
        opened = world.opened("carol")
        world.judged(world.signed(carol))
        until(lambda before=opened: world.opened("carol") > before)  # type: ignore[misc]
        packets = [world.signed(carol) for _ in range(20)]
        reads = world.log().count("reading its")
        remove_client(world.config, "carol")
        world.ask("revoke", name="carol")
        opened = world.opened("carol")
        # While it is read and when it has been read.
        with noted("while the file is read"):
            assert world.tcp(world.client, SSH) == "filtered"
            world.judged(*packets[:10])
            assert world.opened("carol") == opened
        assert world.log().count("reading its") > reads
        until(lambda: world.ask("reload")["reading"] is False)
        with noted("when it has been read"):
            world.judged(*packets[10:])
            assert world.opened("carol") == opened
        assert not world.is_in("carol")


def test_with_1500_clients_a_second_revocation_while_the_first_is_read(world: ClaimsWorld) -> None:
    world.write_config(_many(world.config.read_text(), 1500))
    until(lambda: "1503 clients" in world.log())
    world.assert_opens(world.alice)
    remove_client(world.config, "bob")
    world.ask("revoke", name="bob")
    remove_client(world.config, "alice")  # what is being read still has her
    world.ask("revoke", name="alice")
    assert world.tcp(world.client, SSH) == "filtered"
    until(lambda: world.ask("reload")["reading"] is False)
    for _ in range(3):
        world.assert_refuses(world.signed(world.alice), world.signed(world.bob))


# -- what the server reads need not be what the command edits


def _bound(world: ClaimsWorld, inside: Path) -> list[str]:
    """A command that runs another one in a mount namespace where the config is mounted by itself, as in a container."""
    script = 'mount --bind "$0" "$1" && shift && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, str(world.config), str(inside)]


def _other_name(world: ClaimsWorld, how: str) -> Path:
    """Start the server anew with another name of the config, or another file like it; that name."""
    world.kill()
    folder = world.folder / f"other-{how}-{secrets.token_hex(4)}"
    folder.mkdir(mode=0o700)
    other = folder / "server.yaml"
    prefix: list[str] = []
    if how == "bind mount":
        other.touch(mode=0o600)
        prefix = _bound(world, other)
    elif how == "hard link":
        other.hardlink_to(world.config)
    elif how == "symbolic link":
        other.symlink_to(world.config)
    else:
        other.touch(mode=0o600)
        other.write_text(world.config.read_text())
    mine, world.config = world.config, other
    try:
        world.start(prefix=prefix)
    finally:
        world.config = mine
    return other


def _fails(world: ClaimsWorld, *words: str) -> str:
    """Run a command that must fail with one error; its stderr."""
    done = world.openme(world.server, "--config", world.config, *words, code=1)
    assert done.stderr.count("openme: error: ") == 1, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


another_name = pytest.mark.parametrize("how", ["bind mount", "hard link", "copy"])


@another_name
def test_revoke_where_the_server_reads_another_file(world: ClaimsWorld, how: str) -> None:
    """It is out at once and for good, and the operator hears that the file that counts was not edited."""
    other = _other_name(world, how)
    world.assert_opens(world.alice)
    said = _fails(world, "revoke", "alice")
    assert world.tcp(world.client, SSH) == "filtered"
    assert str(other) in said
    assert str(world.config) in said
    assert "no further knock opens, open doors are closed" not in said
    world.assert_refuses(world.signed(world.alice))
    world.assert_opens(world.bob, "bob")
    assert not world.is_in("alice")


@another_name
def test_revoke_holds_over_a_restart_with_the_other_file(world: ClaimsWorld, how: str) -> None:
    text = world.config.read_text()
    _other_name(world, how)
    _fails(world, "revoke", "alice")
    world.kill()
    world.write_config(text)
    world.start()
    world.assert_refuses(world.signed(world.alice))
    world.says("openme add alice --pubkey")
    world.assert_opens(world.bob, "bob")


@another_name
def test_other_commands_fail_where_the_server_reads_another_file(world: ClaimsWorld, how: str) -> None:
    """And what they would have changed is as it was."""
    other = _other_name(world, how)
    before = load_server_config(world.config)
    for words in (["add", "mallory"], ["rotate", "v1-key"]):
        said = _fails(world, *words)
        assert str(other) in said
        assert str(world.config) in said
    after = load_server_config(world.config)
    assert set(after.clients) == set(before.clients)
    assert after.private_key.raw == before.private_key.raw
    assert after.previous_private_key is None
    # From here on the two differ for certain.
    world.write_config(world.config.read_text() + "# another file\n")
    world.assert_opens(world.alice)
    for words in (["close", "alice"], ["reset", "alice"], ["renew", "alice"], ["init", "--upgrade"]):
        said = _fails(world, *words)
        assert str(other) in said
    assert world.tcp(world.client, SSH) == "filtered"  # closed all the same


def test_commands_through_a_symbolic_link(world: ClaimsWorld) -> None:
    """Two names of one file that edits do not part: nothing to complain of."""
    _other_name(world, "symbolic link")
    world.assert_opens(world.alice)
    world.openme(world.server, "--config", world.config, "close", "alice", code=0)
    world.add("carol")
    world.revoke("alice")
    world.assert_refuses(world.signed(world.alice))


def test_a_file_that_somebody_edits_meanwhile_is_the_same_file(world: ClaimsWorld) -> None:
    text = world.config.read_text()
    stop = threading.Event()

    def edit() -> None:
        for number in itertools.count():
            if stop.is_set():
                return
            with locked_directory(world.config.parent, world.config):
                world.write_config(f"{world.config.read_text().partition('#edit')[0]}#edit {number}\n")
            time.sleep(0.05)

    thread = threading.Thread(target=edit)
    thread.start()
    try:
        for name in ("alice", "bob"):
            world.revoke(name)
    finally:
        stop.set()
        thread.join()
    assert text.count("\n") > world.config.read_text().count("\n")
    world.assert_refuses(world.signed(world.alice), world.signed(world.bob))


# -- for good


@pytest.mark.parametrize("running", [True, False], ids=["running", "stopped"])
def test_a_backup_of_the_config_brings_nobody_back(world: ClaimsWorld, *, running: bool) -> None:
    backup = world.config.read_text()
    world.assert_opens(world.alice)
    if not running:
        world.kill()
    world.revoke("alice")
    for _ in range(2):
        world.write_config(backup)
        if world.process is None or world.process.poll() is not None:
            world.start()
        world.assert_refuses(*[world.signed(world.alice) for _ in range(3)])
        world.says("openme add alice --pubkey")
        world.assert_opens(world.bob, "bob")
        world.close("bob")
        world.kill()
    listed = world.openme(world.server, "--config", world.config, "list", code=0)
    assert re.search(r"alice .* revoked 20", listed.stdout)
    assert "openme add alice --pubkey" in listed.stderr


def test_a_revoked_key_under_another_name(world: ClaimsWorld) -> None:
    key = str(load_server_config(world.config).clients["alice"].public_key)
    world.assert_opens(world.alice)
    world.revoke("alice")
    add_client(world.config, "eve", {"ed25519_pubkey": key})
    world.assert_refuses(world.signed(world.alice))
    world.says("openme add eve --pubkey")
    world.restart()
    world.assert_refuses(world.signed(world.alice))


def test_revoke_of_an_entry_that_was_renamed_or_doubled_by_hand(world: ClaimsWorld) -> None:
    """What the server has under the name goes, whatever the file calls it by now."""
    world.write_config(_many(world.config.read_text(), 1100))  # so that a change is read by a process of its own
    until(lambda: "1103 clients" in world.log())
    world.assert_opens(world.alice)
    text = world.config.read_text()
    key = str(load_server_config(world.config).clients["alice"].public_key)
    world.write_config(f"{text.replace('  alice:', '  alicia:')}  zoe:\n    ed25519_pubkey: {key}\n")
    # What the command asks, without the time in which the file would have been read.
    world.ask("revoke", name="alice", keys=[key])
    assert world.tcp(world.client, SSH) == "filtered"
    until(lambda: world.ask("reload")["reading"] is False)
    world.judged(*[world.signed(world.alice) for _ in range(3)])
    assert not any(world.is_in(name) for name in ("alice", "alicia", "zoe"))
    assert "alicia: opened" not in world.log()
    assert "zoe: opened" not in world.log()


def test_only_add_lifts_a_revoked_key(world: ClaimsWorld) -> None:
    entry = load_server_config(world.config).clients["alice"]
    protocols = {"protocols": [f"v{world.wire}"]}
    world.revoke("alice")
    # No entry, then one that was put back by hand.
    for by_hand in (False, True):
        if by_hand:
            world.revoke("alice")
            add_client(world.config, "alice", {"ed25519_pubkey": str(entry.public_key), **protocols})
            world.assert_refuses(world.signed(world.alice))
        words = ["add", "alice", "--pubkey", str(entry.public_key), *([] if world.wire == 2 else ["--v1"])]
        done = world.openme(world.server, "--config", world.config, *words, code=0)
        assert "no longer revoked" in done.stderr
        world.assert_opens(world.alice)
        world.restart()
        world.assert_opens(world.alice)
        world.close("alice")


# -- when the disk does not take it


def _revoke_read_only(world: ClaimsWorld, *folders: Path) -> str:
    """`revoke alice` where these folders can only be read; its stderr. It must fail."""
    mounts = "".join(f"mount --bind {f} {f} && mount -o remount,bind,ro {f} && " for f in folders)
    done = subprocess.run(
        world.server.command(
            "sh", "-c", f'{mounts}exec "$@"', "sh", OPENME, "--config", str(world.config), *("revoke", "alice")
        ),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "no further knock opens, open" not in done.stderr
    assert done.stderr.count("openme: error: ") == 1, done.stderr
    return done.stderr


def test_revoke_with_a_state_dir_that_takes_nothing(world: ClaimsWorld) -> None:
    world.assert_opens(world.alice)
    backup = world.config.read_text()
    said = _revoke_read_only(world, world.state_dir)
    assert "alice is out of the running server; a start with an older copy of" in said
    assert world.tcp(world.client, SSH) == "filtered"
    world.write_config(backup)  # the running server knows better
    world.assert_refuses(world.signed(world.alice))
    world.revoke("alice")
    world.write_config(backup)
    world.restart()
    world.assert_refuses(world.signed(world.alice))


def test_revoke_with_a_config_that_cannot_be_written(world: ClaimsWorld) -> None:
    """Its folder is the state directory's too here, so that one is put back."""
    world.assert_opens(world.alice)
    said = _revoke_read_only(world, world.folder)
    assert "alice is out of the running server; the next start of the server lets it in again" in said
    assert world.tcp(world.client, SSH) == "filtered"
    world.assert_refuses(world.signed(world.alice))
    world.write_config(world.config.read_text() + "# read again\n")
    world.assert_refuses(world.signed(world.alice))


# -- the list of revoked keys itself


@pytest.mark.parametrize("harm", ["cut", "flipped", "gone", "a folder", "empty"])
def test_a_damaged_list_lets_nobody_back(world: ClaimsWorld, harm: str) -> None:
    """Under a running server the last known one holds; at a start its copy does."""
    backup = world.config.read_text()
    world.revoke("alice")
    world.write_config(backup)
    path = world.state_dir / "revoked"
    whole = path.read_bytes()
    path.unlink()
    if harm == "a folder":
        path.mkdir()
    elif harm != "gone":
        path.touch(mode=0o600)
        flipped = bytes([*whole[:30], whole[30] ^ 1, *whole[31:]])  # another byte, whatever stands there
        changed = {"cut": whole[:-20], "flipped": flipped, "empty": b""}
        path.write_bytes(changed[harm])
    world.assert_refuses(world.signed(world.alice))
    world.says("the list of revoked keys is damaged")
    world.restart()
    world.assert_refuses(world.signed(world.alice))
    world.says("the list of revoked keys is damaged")
    world.assert_opens(world.bob, "bob")


def test_a_start_without_a_list_that_can_be_read_is_refused(world: ClaimsWorld) -> None:
    world.revoke("alice")
    for name in ("revoked", "revoked.copy"):
        (world.state_dir / name).write_bytes(b"nonsense")
    world.assert_opens(world.bob, "bob")
    world.stop()
    assert world.begin().wait(30) == 1
    assert "who was revoked is not known" in world.log()
    assert "Traceback" not in world.log()


def test_revoke_with_a_config_of_another_state_dir(world: ClaimsWorld) -> None:
    """The command cannot reach the server that serves here, and does not say that there is none."""
    other = world.folder / "elsewhere.yaml"
    other.touch(mode=0o600)
    other.write_text(world.config.read_text().replace(str(world.state_dir), str(world.folder / "elsewhere")))
    done = world.openme(world.server, "--config", other, "revoke", "alice", code=1)
    assert "a server is running on this machine, but not on" in done.stderr
    assert "no server is running" not in done.stderr
