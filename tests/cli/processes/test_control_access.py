"""Who can reach the control socket: its mode from the first moment on, and the user id of whoever asks."""

import os
import socket
import stat
from pathlib import Path

import pytest

from openme.control import place, serving

SOMEBODY = 65534


@pytest.mark.parametrize("mask", [0, 0o022, 0o777])
def test_the_socket_is_its_owners_alone_whatever_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with serving.listen(tmp_path):
            assert stat.S_IMODE((tmp_path / place.SOCKET_NAME).stat().st_mode) == 0o600
        assert os.umask(mask) == mask
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")
@pytest.mark.parametrize(("uid", "allowed"), [(0, True), (SOMEBODY, False), (1, False)])
def test_the_user_of_whoever_connected_decides(uid: int, *, allowed: bool) -> None:
    """By the kernel's word, over an abstract address that no file mode guards."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("")  # unix(7) autobind
        listening.listen()
        child = os.fork()
        if child == 0:
            try:
                os.setresuid(uid, uid, uid)
                with socket.socket(socket.AF_UNIX) as peer:
                    peer.connect(listening.getsockname())
                    peer.recv(1)
            finally:
                os._exit(0)
        listening.settimeout(10)
        with listening.accept()[0] as peer:
            assert serving.is_allowed(peer) is allowed
        os.waitpid(child, 0)
