"""Bad knocks and silence: whatever comes is dropped with a counted reason, and nothing is ever answered."""

import base64
import hashlib
import hmac
import re
import secrets
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_decrypt,
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
)
from nacl.public import PrivateKey
from nacl.signing import SigningKey, VerifyKey

from openme.client.knock import build
from openme.keys.ed25519 import ClientPrivateKey
from openme.wire import v1
from openme.wire.knock import Knock
from support.netns import until, v4, v6
from support.server import KNOCK_PORT, SERVER, STRANGER, UNUSED, ServerWorld
from support.shaped import shaped

pytestmark = pytest.mark.root
both_versions = pytest.mark.parametrize("version", [4, 6])


def stranger_key(world: ServerWorld, profile: Path) -> bytes:
    return v1.seal(
        world.profile(profile).server_pubkey,
        ClientPrivateKey(secrets.token_bytes(32)),
        Knock(time.time_ns(), secrets.token_bytes(16), None),
        ephemeral_private=secrets.token_bytes(32),
        aead_nonce=secrets.token_bytes(12),
    )


def low_order(packet: bytes) -> bytes:
    return packet[:1] + bytes(32) + packet[33:]


def flipped(packet: bytes, place: int) -> bytes:
    return packet[:place] + bytes([packet[place] ^ 1]) + packet[place + 1 :]


@pytest.mark.parametrize(
    ("reason", "forge"),
    [
        ("length", lambda *_: b""),
        ("length", lambda world, alice: world.packet(alice)[:-1]),
        ("length", lambda world, alice: world.packet(alice) + b"\0"),
        ("length", lambda world, alice: world.packet(alice) * 8),
        ("filter", lambda world, alice: b"\2" + world.packet(alice)[1:]),
        ("decrypt", lambda *_: shaped()),
        ("decrypt", lambda world, alice: flipped(world.packet(alice), 50)),
        ("low_order", lambda world, alice: low_order(world.packet(alice))),
        ("unknown_key", stranger_key),
        ("unknown_key", lambda world, alice: flipped(world.packet(alice), 101)),
    ],
)
def test_a_stranger_is_dropped_with_a_reason_on_level_debug(
    world: ServerWorld, reason: str, forge: Callable[[ServerWorld, Path], bytes]
) -> None:
    alice = world.add("alice", "--v1")
    world.start()
    world.send(forge(world, alice), host=world.stranger)
    world.says(f"debug: refused: {reason} (from {STRANGER[4]})")
    assert world.sessions() == []
    world.opens(alice)


def test_strangers_fill_no_log_on_the_usual_level(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.start(log_level="info")
    before = len(world.log().splitlines())
    for _ in range(20):
        world.send(*[secrets.token_bytes(165)] * 5, *[stranger_key(world, alice)] * 5, host=world.stranger)
    world.opens(alice)
    said = world.log().splitlines()[before:]
    assert len(said) <= 3, said
    assert any(re.search(r"refused: \d+ \w+", line) for line in said), "counted by reason all the same"


@both_versions
def test_a_known_client_is_refused_by_name(world: ServerWorld, version: int) -> None:
    alice = world.add("alice")
    expired = world.add("expired", "--expires", "2020-01-01T00:00:00Z")
    world.start()
    knock = world.packet(alice)
    cases = {
        "expired: refused: expired": world.packet(expired),
        "alice: refused: time, its clock is 70 s behind ours": world.packet(alice, late=70.5),
        "alice: refused: time, its clock is 69 s ahead of ours": world.packet(alice, late=-70),
        "alice: refused: multicast": world.packet(alice, target=ip_address("224.0.0.1")),
        "alice: refused: loopback": world.packet(alice, target=ip_address("::1")),
    }
    for line, packet in cases.items():
        world.send(packet, version=version)
        world.says(f"warning: {line}")
    assert world.sessions() == []
    world.send(knock, version=version)
    until(world.sessions)
    world.ask("close", name="alice")
    world.send(knock, version=version)
    world.says("warning: alice: refused: replay (from ")
    world.send(knock, version=version, host=world.stranger)
    here, there = (str(ip_address((v4, v6)[version == 6](number))) for number in (2, 3))
    world.says(f"warning: alice: refused: replay, first seen from {here}: somebody is on the path (from {there})")
    assert world.sessions() == []


# -- silence


def test_no_datagram_is_ever_answered(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    mac = re.search(r"link/ether (\S+)", world.server.run("ip", "link", "show", "eth0"))
    assert mac is not None
    capture = world.folder / "capture"
    # Whatever the server sends but what finds neighbours and routers: ARP, and ICMPv6 133-136 and 143.
    neighbours = "arp or (icmp6 and ip6[40] >= 133 and ip6[40] <= 136) or (ip6 and ip6[6] == 0)"
    errors = world.folder / "tcpdump.err"
    with capture.open("wb") as out, errors.open("wb") as err:
        dump = subprocess.Popen(
            world.client.command("tcpdump", "-n", "-l", "-i", "eth0", f"ether src {mac[1]} and not ({neighbours})"),
            stdout=out,
            stderr=err,
        )
    world.stack.callback(dump.wait)
    world.stack.callback(dump.kill)
    until(lambda: "listening on" in errors.read_text())

    knocks = [world.packet(alice) for _ in range(20)]
    late = [world.packet(alice, late=100), world.packet(alice, late=-100), stranger_key(world, alice)]
    noise = [secrets.token_bytes(size) for size in (0, 1, 100, 164, 165, 166, 1000, 1472)]
    for version in (4, 6):
        for host in (world.client, world.stranger):
            world.send(*knocks, *knocks, *late, *noise, host=host, version=version)
    world.send(bytes(20_000))  # arrives in fragments
    until(lambda: len(world.sessions()) >= 1)
    with closing(world.socket_on(world.client, socket.SOCK_DGRAM)) as sender:
        assert world.process is not None
        world.process.terminate()
        while world.process.poll() is None and world.server.ruleset():
            sender.sendto(secrets.token_bytes(165), (SERVER[4], KNOCK_PORT))
    world.wait()
    said = capture.read_text()
    # The table may have gone between our last look and our last datagram: from then on it is a port like any other.
    unreachable = [line for line in said.splitlines() if f"udp port {KNOCK_PORT} unreachable" in line]
    assert said.splitlines() == unreachable
    assert len(unreachable) <= 1
    assert world.udp(world.client, UNUSED) == "closed"  # and now it shows that the capture sees what is sent
    until(lambda: f"udp port {UNUSED} unreachable" in capture.read_text())


# -- a config that changes while the server runs


def test_a_config_edited_by_hand_holds_at_once(world: ServerWorld) -> None:
    alice, bob = world.add("alice"), world.add("bob")
    world.serve(tcp=[22])
    world.start()
    world.opens(alice, port=22)
    text = world.config.read_text()
    world.write_config(re.sub(r"  alice:\n(    .*\n)+", "", text))
    until(lambda: world.tcp(world.client, 22) == "filtered", 5)
    world.says("alice: closed for 192.0.2.2 (revoked)")
    world.send(world.packet(alice))
    world.says("refused: unknown_key")
    world.opens(bob, port=22)


def test_a_new_client_gets_in_without_a_restart(world: ServerWorld) -> None:
    world.serve(tcp=[22, 8080])
    world.start()
    carol = world.add("carol", "--ports", "8080/tcp")
    assert world.tcp(world.client, 8080) == "filtered", "a port of its own is managed from now on"
    world.opens(carol, port=8080)
    assert world.tcp(world.client, 22) == "filtered"


def test_a_broken_file_leaves_the_last_good_one_in_force(world: ServerWorld) -> None:
    alice = world.add("alice")
    world.serve(tcp=[22])
    world.start()
    good = world.config.read_text()
    faults = 0

    def heard() -> bool:
        return world.log().count("NOT in force") > faults

    for broken in (good.replace("udp_port: 54154", "udp_port: many"), "clients: [", "", None):
        faults = world.log().count("NOT in force")
        if broken is None:
            world.config.unlink()
        else:
            world.write_config(broken)
        until(heard)
        world.opens(alice, port=22)
        world.ask("close", name="alice")
    world.write_config(good)
    until(lambda: world.log().count("config in force") == 1)
    world.opens(alice, port=22)


# -- another implementation, written from the wire format alone


def independent_key(shared: bytes) -> bytes:
    extracted = hmac.new(b"", shared, hashlib.sha256).digest()
    return hmac.new(extracted, b"openme-v1-chacha20poly1305\x01", hashlib.sha256).digest()


def independent_knock(profile: dict[str, str], target: bytes) -> bytes:
    ephemeral = PrivateKey.generate()
    shared = crypto_scalarmult(bytes(ephemeral), base64.b64decode(profile["server_pubkey"]))
    plaintext = struct.pack(">q16s16s", time.time_ns(), secrets.token_bytes(16), target)
    nonce = secrets.token_bytes(12)
    sealed = crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, b"", nonce, independent_key(shared))
    signed = b"\x01" + bytes(ephemeral.public_key) + nonce + sealed
    seed = base64.b64decode(profile["private_key"])[:32]
    return signed + SigningKey(seed).sign(signed).signature


MAPPED = bytes(10) + b"\xff\xff"


@both_versions
@pytest.mark.parametrize("target", [bytes(16), MAPPED + bytes(4)], ids=["zero", "mapped zero"])
def test_a_knock_of_another_implementation_opens_the_door(world: ServerWorld, version: int, target: bytes) -> None:
    alice = world.add("alice", "--v1")
    world.serve(tcp=[22])
    world.start()
    world.send(independent_knock(yaml.safe_load(alice.read_text())["profiles"]["default"], target), version=version)
    until(lambda: world.tcp(world.client, 22, version) == "open", 5)
    assert world.tcp(world.stranger, 22, version) == "filtered"


@both_versions
@pytest.mark.parametrize("named", [None, "192.0.2.9", "2001:db8::9"])
def test_another_implementation_reads_our_knock(world: ServerWorld, version: int, named: str | None) -> None:
    alice = world.add("alice", "--v1", server_host=SERVER[version])
    with world.server.entered():
        receiver = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with closing(receiver):
        receiver.bind((SERVER[version], KNOCK_PORT))
        receiver.settimeout(10)
        began = time.time_ns()
        world.knock(alice, *([] if named is None else ["--ip", named]))
        ended = time.time_ns()
        packet = receiver.recv(2000)
    profile = yaml.safe_load(alice.read_text())["profiles"]["default"]
    private = base64.b64decode(yaml.safe_load(world.config.read_text())["server"]["private_key"])
    assert len(packet) == 165
    assert packet[0] == 1
    VerifyKey(base64.b64decode(profile["public_key"])).verify(packet[:101], packet[101:])
    key = independent_key(crypto_scalarmult(private, packet[1:33]))
    plaintext = crypto_aead_chacha20poly1305_ietf_decrypt(packet[45:101], b"", packet[33:45], key)
    timestamp, _, target = struct.unpack(">q16s16s", plaintext)
    assert began <= timestamp <= ended
    if named is None:
        assert target == bytes(16)
    else:
        address = ip_address(named)
        assert target == (MAPPED + address.packed if address.version == 4 else address.packed)


def test_no_two_knocks_are_alike(world: ServerWorld) -> None:
    profile = world.profile(world.add("alice", "--v1"))
    first, second = build(profile, None, 0).datagram, build(profile, None, 0).datagram
    assert not {first[1:33], first[33:45], first[45:101]} & {second[1:33], second[33:45], second[45:101]}
