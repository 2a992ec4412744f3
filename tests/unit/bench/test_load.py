"""What the benchmark sends and how it counts: frames, shapes, a log that grows, what processes have used."""

import os
import socket
import struct
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from bench import frames
from bench.crowd import Crowd, well_formed
from bench.processes import proportional_set_size, tree, used
from bench.subject import Follower
from bench.world import PEER

from openme.config.server import parse_server_config
from openme.wire import v1, v2
from support.knocks import EPOCH, SERVER, listener, packet, ratchet


def test_a_frame_is_a_datagram_to_the_server_from_the_forged_address() -> None:
    payloads = frames.noise(3, 165)
    made = frames.built(b"\x02" * 6, b"\x04" * 6, payloads, frames.forged(5, 4), 54154)
    assert made.shape == (5, 14 + 20 + 8 + 165)
    for number, frame in enumerate(bytes(row) for row in made):
        assert frame[:14] == b"\x02" * 6 + b"\x04" * 6 + b"\x08\x00"
        total = sum(struct.unpack("!10H", frame[14:34]))
        assert (total & 0xFFFF) + (total >> 16) == 0xFFFF, "the checksum of RFC 791"
        assert struct.unpack("!H", frame[16:18]) == (193,)
        assert frame[26:30] == (0xC6120000 + number % 4).to_bytes(4, "big")
        assert frame[30:34] == socket.inet_aton(PEER)
        assert struct.unpack("!HHH", frame[34:40]) == (1024 + number, 54154, 173)
        assert frame[42:] == bytes(payloads[number % 3])


def test_frames_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        frames.built(bytes(6), bytes(6), frames.noise(0), frames.forged(1), 1)


def test_noise_shaped_like_version_1_has_what_never_changes_in_it() -> None:
    shaped = frames.shaped_like_v1(2_000)
    real = np.frombuffer(packet(), np.uint8)
    for byte, mask in ((0, 0xFF), (32, 0x80), (164, 0xF0)):
        assert set(shaped[:, byte] & mask) == {real[byte] & mask} == {v1.VERSION if byte == 0 else 0}
    free = shaped[:, 1:32]
    assert free.min() == 0
    assert free.max() == 255


def test_well_formed_packets_pass_the_listener_and_are_all_different() -> None:
    made = well_formed(50, ratchet().public_keys(EPOCH, 1)[0], 3)
    assert len(set(made)) == len({one[: v2.CIPHERTEXT_OFFSET] for one in made}) == 50
    ears = listener()
    for one in made:
        assert ears.version_untrusted(one) == v2.VERSION


def test_the_entries_of_a_crowd_are_clients_with_the_keys_that_knock() -> None:
    text = f"server:\n  private_key: {SERVER.to_base64()}\nports: {{default: [22/tcp]}}\nclients:\n{Crowd(3).text()}"
    clients = parse_server_config(text, Path("config.yaml")).clients
    assert {name: client.public_key for name, client in clients.items()} == {
        Crowd.name(number): Crowd.key(number).public for number in range(3)
    }


def test_a_log_is_followed_line_by_line_from_where_it_is(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"user1: opened for 192.0.2.9 for 1h\n")
    with log.open("ab", buffering=0) as server, closing(Follower(log, rb": opened for ([0-9.]+)")) as follower:
        assert follower.look() == []
        server.write(b"user1: opened for 192.0.2.1 for 1h\nuser2: opened for 192.0.")
        assert follower.look() == ["192.0.2.1"]
        server.write(b"2.200 for")
        assert follower.look() == []
        server.write(b" 1h\nanything else\nuser3: opened for 192.0.2.3 for 1h\n")
        assert follower.look() == ["192.0.2.200", "192.0.2.3"]
        assert follower.count == 3


def test_what_a_process_has_used_grows_and_is_never_negative() -> None:
    before = used(os.getpid())
    while (after := used(os.getpid())).seconds == before.seconds:
        pass
    assert (after - before).seconds > 0
    assert (after - before).wakings >= 0
    assert os.getpid() in tree(os.getpid())
    assert proportional_set_size([os.getpid()]) > 1 << 20


def test_a_process_that_is_gone_has_no_tree() -> None:
    assert tree(2**22 + 1) == []
