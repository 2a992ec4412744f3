"""`stays_hidden`: what is hidden shows only when the operator takes it off by name, or stops the service.

A stranger tries to connect every 20 ms while something is done to the server, its config, its state or its network, and
must not get a single answer from a hidden port; a knock opens all the while.
"""

import errno
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from typing import Self

import pytest

from support.claims import SSH, ClaimsWorld
from support.netns import connect, namespace, until
from support.server import OPENME, SERVER

pytestmark = pytest.mark.root

WEB = 8080  # a port that bob alone names
STEP = 0.02  # seconds between two tries
PATIENCE = 0.5  # seconds after which a try is given up, so that TCP does not repeat its first packet
SEEING = 10  # tries that are made before and after


class Prober:
    """A thread on the stranger's host. `seen`: the ports that have answered; `tries`: rounds over all ports so far."""

    def __init__(self, world: ClaimsWorld, ports: tuple[int, ...]) -> None:
        self.seen: list[int] = []
        self.tries = 0
        self._world = world
        self._ports = ports
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        waiting: list[tuple[float, socket.socket, int]] = []
        with self._world.stranger.entered():
            while not self._stop.wait(STEP):
                now = time.monotonic()
                for port, version in product(self._ports, SERVER):
                    attempt = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6)
                    attempt.setblocking(False)  # noqa: FBT003  # the standard library's signature
                    attempt.connect_ex((SERVER[version], port))
                    waiting.append((now + PATIENCE, attempt, port))
                self.tries += 1
                waiting = [item for item in waiting if self._waits(*item, now)]
        for _, attempt, _ in waiting:
            attempt.close()

    def _waits(self, until_then: float, attempt: socket.socket, port: int, now: float) -> bool:
        error = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        answered = error == errno.ECONNREFUSED
        with suppress(OSError):
            attempt.getpeername()
            answered = True
        if answered:
            self.seen.append(port)
        if answered or now > until_then:
            attempt.close()
            return False
        return True

    def goes_on(self) -> None:
        """Wait until it has tried some more times."""
        reached = self.tries + SEEING
        until(lambda: self.tries >= reached)

    def __enter__(self) -> Self:
        self._thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.goes_on()
        finally:
            self._stop.set()
            self._thread.join()


@contextmanager
def unseen(world: ClaimsWorld, *ports: int) -> Iterator[Prober]:
    """None of these ports answers the stranger, not once, from before to after what is done meanwhile."""
    with Prober(world, ports or (SSH, WEB)) as prober:
        yield prober
    assert prober.seen == [], world.log()


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClaimsWorld]:
    """What is shown here lies below the wire format: one version is enough."""
    with ExitStack() as made:
        world = ClaimsWorld(made, tmp_path_factory.mktemp("world"))
        world.populate(2)
        world.serve(tcp=[WEB])
        yield world


@pytest.fixture
def world(hosts: ClaimsWorld) -> Iterator[ClaimsWorld]:
    """A server whose port 22 is in a group, and 8080 of client bob alone."""
    hosts.reset()
    change(hosts, "    ed25519_pubkey: ", "    allowed_ports: [8080/tcp]\n    ed25519_pubkey: ", after="  bob:\n")
    hosts.start()
    yield hosts
    hosts.kill()


def change(world: ClaimsWorld, old: str, new: str, after: str = "") -> None:
    """Replace the first occurrence behind `after`, as an editor does."""
    text = world.config.read_text()
    head, middle, tail = text.partition(after) if after else ("", "", text)
    assert old in tail, text
    world.write_config(head + middle + tail.replace(old, new, 1))


def in_force(world: ClaimsWorld) -> None:
    """Wait until the server has looked at its config once more."""
    world.ask("reload")


def command(world: ClaimsWorld, *words: object, code: int = 0) -> str:
    done = world.openme(world.server, "--config", world.config, *words, code=code)
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


# -- what must not show anything


def test_the_prober_sees_a_port_that_shows(world: ClaimsWorld) -> None:
    with Prober(world, (SSH, WEB)) as prober:
        world.server.nft("delete table inet openme")
        until(lambda: {SSH, WEB} <= set(prober.seen))


def test_a_revocation_of_the_only_client_that_names_a_port(world: ClaimsWorld) -> None:
    with unseen(world):
        world.revoke("bob")
        in_force(world)
    assert "hide: [8080/tcp]\n" in world.config.read_text()
    world.assert_opens(world.alice)


def without_bob(world: ClaimsWorld) -> None:
    text = world.config.read_text()
    start = text.index("  bob:\n")
    end = text.index("  sentinel:\n")
    world.write_config(text[:start] + text[end:])


def bob_at_fault(world: ClaimsWorld) -> None:
    change(world, "[8080/tcp]", "[8080/tpc]")


def bob_expired(world: ClaimsWorld) -> None:
    change(world, "    allowed_ports: [8080/tcp]\n", "    expires: 2020-01-01T00:00:00Z\n")


def other_port_for_bob(world: ClaimsWorld) -> None:
    change(world, "[8080/tcp]", "[8081/tcp]")


def group_renamed(world: ClaimsWorld) -> None:
    change(world, "  default: [22/tcp]\n", "  ssh: [2222/tcp]\n")


def no_group(world: ClaimsWorld) -> None:
    world.set_ports(default="[]")


def broken(world: ClaimsWorld) -> None:
    world.write_config("server: [\n")


def gone(world: ClaimsWorld) -> None:
    world.config.unlink()


@pytest.mark.parametrize(
    "edit",
    [without_bob, bob_at_fault, bob_expired, other_port_for_bob, group_renamed, no_group, broken, gone],
    ids=lambda edit: edit.__name__,
)
def test_an_edit_and_the_starts_after_it(world: ClaimsWorld, edit: Callable[[ClaimsWorld], None]) -> None:
    """Killed servers leave their table, so that there is no moment in which the start would have to be quicker."""
    with unseen(world) as prober:
        edit(world)
        in_force(world)
        prober.goes_on()
        if edit in {broken, gone}:
            return
        for _ in range(2):
            world.kill()
            world.start()
            prober.goes_on()


def test_a_stop_shows_and_the_next_start_hides_what_nobody_names_any_more(world: ClaimsWorld) -> None:
    without_bob(world)
    in_force(world)
    assert world.stop() == 0
    assert world.tcp(world.stranger, WEB) == "open"
    world.start()
    world.says("hidden, but no longer in the config: 8080/tcp")
    with unseen(world):
        world.assert_opens(world.alice)


def test_what_is_hidden_though_nobody_names_it_is_listed(world: ClaimsWorld) -> None:
    without_bob(world)
    in_force(world)
    world.says("hidden, but no longer in the config: 8080/tcp")
    assert "8080/tcp" in command(world, "sessions")
    assert "8080/tcp" in command(world, "check-config")
    assert world.ask("sessions")["hidden_though_unnamed"] == ["8080/tcp"]


def test_rules_that_the_firewall_refuses(world: ClaimsWorld) -> None:
    """The last good config decides, whole: also after somebody has flushed the ruleset. Who went is gone at once."""
    with unseen(world) as prober:
        change(world, "server:\n", 'server:\n  interface: "a!b"\n')
        without_bob(world)
        assert "not a usable interface name" in world.ask("reload")["fault"]
        prober.goes_on()
        world.assert_opens(world.alice)
        world.judged(world.signed(world.bob))
        assert world.opened("bob") == 0, "bob is not in the file any more"
    world.server.nft("flush ruleset")
    world.says("putting openme's rules back")
    until(lambda: world.tcp(world.stranger, SSH) == "filtered")
    with unseen(world) as prober:
        assert "could not be put back" not in world.log()
        assert "not a usable interface name" in command(world, "check-config", code=1)
        change(world, '  interface: "a!b"\n', "")
        assert world.ask("reload")["fault"] is None


def test_a_start_that_fails(world: ClaimsWorld) -> None:
    with unseen(world) as prober:
        for fault in ("server: [\n", world.config.read_text().replace("server:\n", 'server:\n  interface: "a!b"\n', 1)):
            world.kill()
            good = world.config.read_text()
            world.write_config(fault)
            world.begin()
            assert world.wait() == 1
            assert "Traceback" not in world.log()
            prober.goes_on()
            world.write_config(good)
            world.start()


def test_an_interface_that_gets_a_new_name(world: ClaimsWorld) -> None:
    change(world, "server:\n", "server:\n  interface: eth0\n")
    in_force(world)
    try:
        with unseen(world) as prober:
            world.server.run("ip", "link", "set", "eth0", "name", "wan0")
            world.says("interface eth0 is called wan0 now")
            prober.goes_on()
            world.assert_opens(world.alice)
            assert "called wan0 now" in command(world, "sessions")
            assert "there is no interface eth0" in command(world, "check-config", code=1)
            # Somebody else's device takes the name over: the first one is hidden on all the same.
            world.server.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
            prober.goes_on()
            world.server.run("ip", "link", "delete", "eth0")
            change(world, "interface: eth0", "interface: wan0")
            in_force(world)
            prober.goes_on()
    finally:
        world.server.run("ip", "link", "set", "wan0", "name", "eth0")


def test_the_set_in_state_dir_that_is_removed_or_damaged(world: ClaimsWorld) -> None:
    without_bob(world)
    in_force(world)
    kept = world.state_dir / "hidden_ports"
    whole = kept.read_bytes()
    with unseen(world) as prober:
        kept.unlink()
        until(kept.exists)
        world.kill()
        kept.write_bytes(whole.replace(b"check", b"chec"))
        world.start()
        world.says("damaged")
        prober.goes_on()
        world.kill()
        world.start()
        assert "damaged" not in world.log()


def test_a_disk_that_refuses_shows_nothing_and_stops_nobody(world: ClaimsWorld) -> None:
    kept = world.state_dir / "hidden_ports"
    world.server.run("chattr", "+i", str(kept))
    try:
        with unseen(world):
            without_bob(world)
            change(world, "[22/tcp]", "[22/tcp, 9999/tcp]")
            in_force(world)
            world.says("the set of hidden ports cannot be kept")
            world.assert_opens(world.alice)
    finally:
        world.server.run("chattr", "-i", str(kept))
    world.says("the set of hidden ports is on the disk again", seconds=10)
    assert b"9999/tcp" in kept.read_bytes()


# -- what shows it


def test_unhide_with_a_server(world: ClaimsWorld) -> None:
    world.revoke("bob")
    assert "8080/tcp is not hidden any more" in command(world, "unhide", "8080")
    until(lambda: world.tcp(world.stranger, WEB) == "open")
    assert world.tcp(world.stranger, SSH) == "filtered"
    assert "hide: []\n" in world.config.read_text()
    for _ in range(2):
        world.kill()
        world.start()
        assert world.tcp(world.stranger, WEB) == "open"


def test_unhide_without_a_server(world: ClaimsWorld) -> None:
    world.revoke("bob")
    in_force(world)
    assert world.stop() == 0
    assert "no server is running" in command(world, "unhide", "8080/tcp")
    world.start()
    assert world.tcp(world.stranger, WEB) == "open"
    assert world.tcp(world.stranger, SSH) == "filtered"


def test_unhide_refuses_what_is_named(world: ClaimsWorld) -> None:
    with unseen(world):
        assert "still named by client bob" in command(world, "unhide", "8080/tcp", code=1)
        assert "still named by group default" in command(world, "unhide", "22", code=1)


def test_drop_ports_false_shows_and_forgets(world: ClaimsWorld) -> None:
    without_bob(world)
    in_force(world)
    world.edit(drop_ports=False)
    in_force(world)
    assert (world.tcp(world.stranger, SSH), world.tcp(world.stranger, WEB)) == ("open", "open")
    world.edit(drop_ports=True)
    in_force(world)
    assert (world.tcp(world.stranger, SSH), world.tcp(world.stranger, WEB)) == ("filtered", "open")


def test_a_trial_keeps_nothing_until_it_is_confirmed(hosts: ClaimsWorld) -> None:
    hosts.reset()
    kept = hosts.state_dir / "hidden_ports"
    trial = ("--config", str(hosts.config), "try")
    for knocks in (False, True):
        hosts.runs += 1
        words = hosts.server.command(OPENME, *trial, "30s" if knocks else "1s", "--state-file", "")
        with hosts.log_path.open("wb") as log:
            hosts.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        hosts.says("serving:")
        assert hosts.tcp(hosts.stranger, SSH) == "filtered"
        if knocks:
            hosts.opens(hosts.alice, port=SSH)
            until(kept.exists)
            assert hosts.stop() == 0
        else:
            assert hosts.wait() == 1
            assert not kept.exists()
    assert b"22/tcp" in kept.read_bytes()


# -- an interface by which nothing comes


def test_a_member_is_told_with_its_master(stack: ExitStack, hosts: ClaimsWorld) -> None:
    hosts.reset()
    other = namespace(stack)
    connect(hosts.server, other, "member", subnet=1)
    hosts.server.run("ip", "link", "add", "master0", "type", "bridge")
    try:
        hosts.server.run("ip", "link", "set", "member", "down")
        hosts.server.run("ip", "link", "set", "member", "master", "master0")
        change(hosts, "server:\n", "server:\n  interface: member\n")
        told = "interface member is a member of the bridge master0: packets come in by master0"
        assert told in command(hosts, "check-config", code=1)
        refused = hosts.openme(
            hosts.server, "--config", hosts.folder / "new.yaml", "init", "--server", "h", "--interface", "member"
        )
        assert (refused.returncode, told in refused.stderr) == (1, True)
        hosts.start()
        hosts.says(told)
        assert told in command(hosts, "sessions")
        hosts.server.run("ip", "link", "set", "member", "nomaster")
        hosts.says("interface member is there: ports are hidden on it")
        assert hosts.ask("sessions")["warnings"] == []
        hosts.server.run("ip", "link", "set", "member", "master", "master0")
        until(lambda: hosts.log().count(told) == 2)
    finally:
        hosts.kill()
        hosts.server.run("ip", "link", "delete", "master0")
        hosts.server.run("ip", "link", "delete", "member")
