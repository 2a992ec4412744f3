"""This kernel takes the filter from whoever has CAP_BPF alone and the unit's limits, and it judges as it should."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from contract.test_kernel_filter import (  # noqa: F401  # what holds on the kernel at hand, on this one
    judge,
    receiving,
    test_a_familiar_address_finds_a_place_when_strangers_find_none,
    test_a_next_start_with_the_same_socket_has_a_filter_of_its_own,
    test_all_places_together_fit_into_the_socket,
    test_any_number_of_packets_is_remembered_in_bounded_room,
    test_every_flipped_bit_is_refused,
    test_every_other_length_is_refused_whatever_it_holds,
    test_it_goes_on_without_a_descriptor_and_in_every_process_that_has_the_memory,
    test_it_says_what_the_listener_says,
    test_keys_are_renewed_without_losing_a_packet_and_letting_none_in,
    test_of_one_packet_sixteen_a_second_are_let_through,
    test_over_both_families_a_socket_gets_whole_packets_and_no_noise,
    test_the_hash_is_siphash_as_the_independent_implementation_has_it,
)
from support.netns import until
from support.slow_machine import SlowWorld

pytestmark = pytest.mark.root

# What `serve` does under the unit's CapabilityBoundingSet and LimitMEMLOCK, as far as the filter is concerned.
_START = """
import json, secrets, socket
from nacl.bindings import crypto_shorthash_siphash24
from openme.server.knock_filter import filtered
from openme.wire.base import ServerKey

knock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
knock.bind(("127.0.0.1", 0))
knock.settimeout(1)
made, why = filtered(knock)
if made is None:
    print(json.dumps(why))
    raise SystemExit
key = secrets.token_bytes(16)
made.follow({1: {}, 2: {0: ServerKey(0, b"", b"", key)}})
made.judge()
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
content = secrets.token_bytes(157)
right = content[:32] + crypto_shorthash_siphash24(content, key) + content[32:]
for datagram in (secrets.token_bytes(165), b"", right):
    sender.sendto(datagram, knock.getsockname())
assert knock.recv(1000) == right
print(json.dumps(dict(made.dropped())))
"""
# A program of root's has, from its first instruction, what its bounding set has.
_BOUNDED = """
import json, os, resource, sys
from contextlib import suppress
from openme.processes.privileges import _drop_bounding_set

locked = int(sys.argv.pop(1))
with suppress(ValueError):  # a machine that lets nobody raise it has one that is high enough
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (locked, locked))
_drop_bounding_set(keep=json.loads(sys.argv[1]))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
MIB = 1 << 20
CAP_BPF = 39


def started(locked: int, *capabilities: int) -> object:
    """What comes of a start that may lock so many bytes and has these capabilities: counts, or why there is none."""
    words = [sys.executable, "-c", _BOUNDED, str(locked), json.dumps(capabilities), "-c", _START]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_cap_bpf_and_the_units_limit_are_enough() -> None:
    assert started(16 * MIB, CAP_BPF) == {"filter": 1, "length": 1}


def test_without_the_capability_there_is_none_and_a_line_says_so() -> None:
    assert "CAP_BPF is missing" in str(started(16 * MIB))


def test_where_locked_memory_is_counted_its_limit_is_named() -> None:
    """Before Linux 5.11 maps count as locked memory; a limit of 64 KiB was usual then."""
    outcome = started(64 << 10, CAP_BPF)
    version = tuple(map(int, os.uname().release.split(".")[:2]))
    if version >= (5, 11):
        assert outcome == {"filter": 1, "length": 1}
    else:
        assert "16 MiB of locked memory (LimitMEMLOCK=)" in str(outcome)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[SlowWorld]:
    with ExitStack() as stack:
        yield SlowWorld(stack, tmp_path)


@pytest.mark.parametrize("wire", ["v1", "v2"])
def test_a_server_has_it_and_opens(world: SlowWorld, wire: str) -> None:
    alice = world.add("alice", *(["--v1"] if wire == "v1" else []))
    world.start()
    assert "kernel filter" not in world.log()
    world.send(b"\x03" * 165)
    world.knocked(alice)
    until(lambda: "refused: filter" in world.log())
