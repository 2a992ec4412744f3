"""The row `revocation` of the security model: `revoke` stops the next knock and closes what is open, without a restart.

Real: everything. Established connections outlive their door unless `--cut` is asked for (which has tests of its own):
the firewall lets established connections pass, so that a door that closes on time does not end a session.
"""

import secrets
import threading
import time

import pytest

from openme.config.edit import remove_client
from openme.keys.ed25519 import ClientPrivateKey
from support.claims import SSH, ClaimsWorld, noted
from support.netns import until
from support.server import echoes

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
