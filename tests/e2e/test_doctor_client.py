"""What doctor finds on a client: each cause of its page, broken over the real thing, and nothing when all is well."""

import base64
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import NamedTuple

import pytest

from openme.client.nat64 import PATIENCE
from openme.doctor.client.table import LOOKS, PROFILE
from openme.keeper.ratchet_file import read_ratchet
from openme.wire.receipt import Receipt, receipt_text, seal_receipt
from openme.wire.versions import by_name
from support.clock import Clock
from support.doctor import Told, doctor, documented, ntp_server
from support.netns import add_addresses, v4, v6
from support.server import CLIENT, KNOCK_PORT, SERVER, STRANGER, ServerWorld
from support.ssh_agents import LIST, fake_agent

pytestmark = pytest.mark.root

NAME = "server.example"


class Broken(NamedTuple):
    """A client before whom something is to be broken, and a way to run doctor there."""

    world: ServerWorld
    stack: ExitStack
    profile: Path
    monkeypatch: pytest.MonkeyPatch

    def named(self, *addresses: str) -> None:
        """The profile names the server, and /etc/hosts says that these are its addresses."""
        self.edit(r"server_host: .*", f"server_host: {NAME}")
        (self.world.folder / "hosts").write_text("".join(f"{address} {NAME}\n" for address in addresses))

    def edit(self, pattern: str, to: str) -> None:
        """Change what matches in the profile, which must be there."""
        text, count = re.subn(pattern, to, self.profile.read_text())
        assert count, pattern
        self.profile.write_text(text)

    def add(self, *lines: str) -> None:
        """Lines for the profile."""
        self.profile.write_text(self.profile.read_text() + "".join(f"    {line}\n" for line in lines))

    def run(self, *words: str) -> Told:
        """Run doctor, with a clock that is right by the stranger's NTP unless something else is said."""
        binds = [
            f"mount --bind {self.world.folder / name} /etc/{name}"
            for name in ("hosts", "resolv.conf")
            if (self.world.folder / name).exists()
        ]
        ntp = () if "--ntp" in words else ("--ntp", STRANGER[4])
        words = ("--client-config", str(self.profile), *ntp, *words)
        return doctor(self.world.client, "client", *words, prepared="\n".join(binds))


@pytest.fixture
def broken(world: ServerWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broken]:
    """Nothing is, as yet: the server serves."""
    with ExitStack() as stack:
        alice = world.add("alice")
        directory = world.folder / "client"
        directory.mkdir(mode=0o700)
        profile = alice.rename(directory / "config.yaml")
        world.start(log_level="info")
        stack.enter_context(ntp_server(world.stranger, STRANGER[4]))
        yield Broken(world, stack, profile, monkeypatch)


Break = Callable[[Broken], tuple[str, ...] | None]
"""Breaks one thing; the words for doctor, if it takes any."""


def first_epoch(by: int) -> Break:
    """The keys are those of other epochs."""

    def breaks(broken: Broken) -> None:
        (first,) = map(int, re.findall(r"first: (\d+)", broken.profile.read_text()))
        broken.edit(r"first: \d+", f"first: {first + by}")

    return breaks


def keys_that_end_soon(broken: Broken) -> tuple[str, ...]:
    """As of a file that is fifty weeks old, whose client has fetched no receipt since."""
    (text,) = re.findall(r"keys: \"?([A-Za-z0-9+/=]+)", broken.profile.read_text())
    raw = base64.b64decode(text)
    first_epoch(-50)(broken)
    broken.edit(re.escape(text), base64.b64encode(raw[3 * 32 :] + raw[: 3 * 32]).decode())
    return ("--no-knock",)


def other_later_key(broken: Broken) -> None:
    """As if a thief of the server had given out keys of his own."""
    (text,) = re.findall(r"keys: \"?([A-Za-z0-9+/=]+)", broken.profile.read_text())
    raw = bytearray(base64.b64decode(text))
    raw[32 * 5] ^= 1
    broken.edit(re.escape(text), base64.b64encode(raw).decode())


def without_epoch_keys(broken: Broken) -> None:
    text = broken.profile.read_text()
    broken.profile.write_text(re.sub(r"    epoch_keys:.*\n(?:      .*\n)*", "", text))
    broken.add("protocol: v2")


def wrong_clock(broken: Broken) -> tuple[str, ...]:
    add_addresses(broken.world.stranger, 8)
    return "--ntp", broken.stack.enter_context(ntp_server(broken.world.stranger, v4(8), ahead=75))


def clock_of_the_server(broken: Broken) -> None:
    broken.world.stop()
    clock = Clock(broken.world.state_dir)
    clock.step(25)
    broken.world.start(prefix=clock.prefix)


def kept_by_others(broken: Broken) -> None:
    directory = broken.profile.with_name("config.yaml.known")
    directory.mkdir()
    directory.chmod(0o755)


def many_addresses(broken: Broken) -> None:
    numbers = range(101, 118)
    for number in numbers:
        add_addresses(broken.world.server, number)
    broken.named(*map(v4, numbers))


def a_silent_address(broken: Broken) -> None:
    add_addresses(broken.world.stranger, 9)
    broken.world.stranger.nft(
        f"table ip t {{ chain c {{ type filter hook input priority 0; ip daddr {v4(9)} drop; }}; }}"
    )
    broken.named(SERVER[4], v4(9))


def a_resolver_that_hangs(broken: Broken) -> None:
    with broken.world.stranger.entered():
        resolver = broken.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    resolver.bind((STRANGER[4], 53))
    (broken.world.folder / "resolv.conf").write_text(f"nameserver {STRANGER[4]}\noptions timeout:30\n")
    broken.edit(r"server_host: .*", "server_host: server.example")


def unknown(broken: Broken) -> None:
    (broken.world.folder / "resolv.conf").write_text("")
    broken.edit(r"server_host: .*", "server_host: nowhere.invalid")


def an_agent_that_hangs(broken: Broken) -> None:
    agent = broken.stack.enter_context(fake_agent(lambda _request: None))
    broken.monkeypatch.setenv("SSH_AUTH_SOCK", agent.path)
    broken.edit(r"private_key: .*", f"identity: ssh-agent:SHA256:{'A' * 43}")
    broken.edit(r" *public_key: .*\n", "")


def stopped(broken: Broken) -> None:
    assert broken.world.stop() == 0


def killed(broken: Broken) -> None:
    """The rules stay, and nobody is there."""
    broken.world.kill()


def another_program(broken: Broken) -> None:
    stopped(broken)
    broken.world.serve(tcp=[KNOCK_PORT], udp=[KNOCK_PORT])


def opens_another_address(broken: Broken) -> None:
    """A server that has the right key, and its own mind."""
    stopped(broken)
    ratchet = read_ratchet(broken.world.state_dir)
    assert ratchet is not None
    version = by_name("v2")
    (first,) = map(int, re.findall(r"first: (\d+)", broken.profile.read_text()))
    keys = {epoch: version.key(epoch, ratchet.private_key(epoch)) for epoch in (first, first + 1)}
    with broken.world.server.entered():
        knocks = broken.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        asked = broken.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    knocks.bind((SERVER[4], KNOCK_PORT))
    asked.bind((SERVER[4], KNOCK_PORT))
    asked.listen()
    known: dict[bytes, bytes] = {}

    def take() -> None:
        while True:
            try:
                packet = knocks.recv(1000)
            except OSError:
                return
            for key in version.admitted_untrusted(packet, keys):
                receipt = version.unsealed_untrusted(packet, key).receipt
                assert receipt is not None
                said = Receipt("alice", ip_address("192.0.2.99"), ("22/tcp",), time.time() + 30, time.time())
                known[receipt.id] = seal_receipt(receipt_text(said), receipt)

    def give() -> None:
        while True:
            try:
                peer, _ = asked.accept()
            except OSError:
                return
            with peer:
                peer.settimeout(5)
                peer.sendall(known.get(peer.recv(100), b""))

    for run in (take, give):
        threading.Thread(target=run, daemon=True).start()
    broken.add(f"ip: {CLIENT[4]}")


PREFIX = "2600:64::"
"""Of a NAT64: the server is reached by it, and its resolver says so too late for a knock."""


def translated(broken: Broken) -> None:
    server, own = f"{PREFIX}c000:201", "2600:1::2"
    broken.world.server.run("ip", "address", "add", f"{server}/16", "dev", "eth0", "nodad")
    broken.world.client.run("ip", "address", "add", f"{own}/16", "dev", "eth0", "nodad")
    # What the translator does: the server sees another address than the client sends from.
    seen = v6(2)
    broken.world.client.nft(
        f"table ip6 t {{ chain c {{ type nat hook postrouting priority 100; ip6 saddr {own} snat to {seen}; }}; }}"
    )
    with broken.world.stranger.entered():
        resolver = broken.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    resolver.bind((STRANGER[4], 53))
    prefixed = ip_address(f"{PREFIX}c000:aa").packed

    def serve() -> None:
        while True:
            try:
                question, asker = resolver.recvfrom(1000)
            except OSError:
                return
            is_aaaa = question[-4:-2] == b"\0\x1c" or b"\0\x1c\0\1" in question
            time.sleep(2 * PATIENCE)  # that it is late is what this is about
            answer = b"\xc0\x0c" + struct.pack("!HHIH", 28, 1, 60, 16) + prefixed if is_aaaa else b""
            end = question.index(b"\0", 12) + 5
            head = question[:2] + struct.pack("!HHHHH", 0x8180, 1, int(is_aaaa), 0, 0)
            resolver.sendto(head + question[12:end] + answer, asker)

    threading.Thread(target=serve, daemon=True).start()
    (broken.world.folder / "resolv.conf").write_text(f"nameserver {STRANGER[4]}\n")
    broken.edit(r"server_host: .*", f'server_host: "{server}"')


def no_route(broken: Broken) -> None:
    broken.edit(r"server_host: .*", "server_host: 203.0.113.1")


BREAKS: dict[str, Break] = {
    "client_file": lambda broken: broken.profile.chmod(0o644),
    "client_file_place": lambda broken: broken.profile.parent.chmod(0o777),
    "kept_files": kept_by_others,
    "clock": wrong_clock,
    "server_clock": clock_of_the_server,
    "keys_missing": without_epoch_keys,
    "keys_ended": first_epoch(-60),
    "keys_not_begun": first_epoch(+3),
    "keys_end_soon": keys_that_end_soon,
    "keys_refused": other_later_key,
    "identity": an_agent_that_hangs,
    "name_unknown": unknown,
    "resolver_silent": a_resolver_that_hangs,
    "name_is_here": lambda broken: broken.named("127.0.1.1"),
    "too_many_addresses": many_addresses,
    "no_route": no_route,
    "udp_refused": stopped,
    "udp_unreachable": lambda broken: broken.edit(r"server_host: .*", f"server_host: {v4(77)}"),
    "address_silent": a_silent_address,
    "not_as_asked": opens_another_address,
    "unproven": another_program,
    "nat64": translated,
    "no_answer_for_address": lambda broken: broken.add(f"ip: {v4(50)}"),
    "no_answer": killed,
    "not_sent": lambda broken: broken.add(f"ip: https://{SERVER[4]}/ip"),
}


def test_when_all_is_well_nothing_is_found(broken: Broken) -> None:
    told = broken.run()
    assert (told.code, told.causes, told.value["not_looked_at"]) == (0, [], [])
    assert [item["look"] for item in told.value["looked_at"]] == [look.name for look in LOOKS]


@pytest.mark.parametrize("cause", documented("client"))
def test_each_cause_of_the_page_is_found_alone_when_it_is_there(broken: Broken, cause: str) -> None:
    words = BREAKS[cause](broken) or ()
    told = broken.run(*words)
    assert (told.code, told.causes) == (1, [cause]), told.value
    assert all(finding["text"] and finding["cure"] for finding in told.value["findings"])


def without_a_network(broken: Broken) -> None:
    broken.world.client.run("ip", "link", "set", "eth0", "down")


def a_locked_agent(broken: Broken) -> None:
    agent = broken.stack.enter_context(fake_agent(lambda request: b"\x0c\0\0\0\0" if request[0] == LIST else None))
    broken.monkeypatch.setenv("SSH_AUTH_SOCK", agent.path)
    broken.edit(r"private_key: .*", f"identity: ssh-agent:SHA256:{'A' * 43}")
    broken.edit(r" *public_key: .*\n", "")


def an_agent_that_has_ended(broken: Broken) -> None:
    a_locked_agent(broken)
    broken.monkeypatch.setenv("SSH_AUTH_SOCK", str(broken.world.folder / "gone"))


def a_key_file_open_to_others(broken: Broken) -> None:
    path = broken.profile.with_name("id_ed25519")
    broken.world.client.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path))
    path.chmod(0o644)
    broken.edit(r"private_key: .*", "identity: file:id_ed25519")


def a_flood_of_a_receipt(broken: Broken) -> None:
    """64 KiB, and then more, without an end."""
    stopped(broken)
    with broken.world.server.entered():
        listening = broken.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        hearing = broken.stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    hearing.bind((SERVER[4], KNOCK_PORT))
    listening.bind((SERVER[4], KNOCK_PORT))
    listening.listen()

    def give() -> None:
        while True:
            try:
                peer, _ = listening.accept()
                with peer:
                    while True:
                        peer.sendall(bytes(64 * 1024))
            except ConnectionError:
                continue
            except OSError:
                return

    threading.Thread(target=give, daemon=True).start()


def a_known_directory_that_is_a_file(broken: Broken) -> None:
    broken.profile.with_name("config.yaml.known").touch()


def an_unknown_key(broken: Broken) -> None:
    broken.add("server_prot: 54154")


@pytest.mark.parametrize(
    ("breaks", "cause"),
    [
        (without_a_network, "no_route"),
        (a_locked_agent, "identity"),
        (an_agent_that_has_ended, "identity"),
        (a_key_file_open_to_others, "identity"),
        (a_flood_of_a_receipt, "unproven"),
        (a_known_directory_that_is_a_file, "kept_files"),
        (an_unknown_key, "client_file"),
    ],
)
def test_what_else_a_cause_can_come_from(broken: Broken, breaks: Break, cause: str) -> None:
    told = broken.run(*(breaks(broken) or ()))
    assert (told.code, told.causes) == (1, [cause]), told.value


def test_keys_that_a_receipt_renews_are_no_finding(broken: Broken) -> None:
    keys_that_end_soon(broken)
    assert broken.run().causes == []


def test_it_ends_though_the_resolver_and_the_agent_hang_and_nobody_tells_the_time(broken: Broken) -> None:
    a_resolver_that_hangs(broken)
    an_agent_that_hangs(broken)
    told = broken.run("--ntp", "time.example")
    assert (told.code, told.causes) == (1, ["identity", "resolver_silent"])
    assert "clock" in [item["look"] for item in told.value["not_looked_at"]]


def test_the_page_names_what_the_looks_can_find() -> None:
    causes = {PROFILE, *(cause for look in LOOKS for cause in look.causes)}
    assert sorted(documented("client")) == sorted(causes)
