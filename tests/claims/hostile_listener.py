"""`openme serve` whose listener has been taken over; run by test_split.py, never collected by itself.

The listener lives without its sandbox, as on a host that has neither seccomp nor Landlock, and does as it is told by
datagrams to the knock port: a letter, then bytes. It answers over the knock port with what came of it, which no honest
listener ever does.

    F bytes   send the bytes to the keeper as they are; answer: the verdict that comes back, one byte
    D bytes   the same with 200 open descriptors attached
    K         answer: the version 1 key that the keeper gave it
    E         answer: the epoch, 8 bytes, and the private key of it that the keeper gave it last
    S         from now on never read an order again
    R bytes   send the bytes 1,000 times, as far as the keeper takes them; answer: how many it took, 4 bytes
    Q         answer: nothing but that we are here
    P bytes   send the bytes to the keeper as a report, without waiting for anything; answer: whether it took it
    A words   an attack on the other processes, see support/attacks.py; answer: JSON
    I         from now on ignore the end of the channel, and everything else
"""

import array
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from openme.cli.main import main
from openme.kernel_filter.filter import KernelFilter
from openme.listener.listener import Listener
from openme.seam.messages import (
    ORDER_SIZE,
    KnockNotOpened,
    KnockOpened,
    Serve,
    Serving,
    UseEpochKey,
    UseV1Key,
    unpack_order,
)
from openme.server import start
from support.attacks import attack


class HostileListener:
    """Stands in for ListenerProcess."""

    def __init__(
        self,
        listener: Listener,
        knock: socket.socket,
        health: socket.socket,
        keeper: socket.socket,
        kernel_filter: KernelFilter,
    ) -> None:
        del listener, health, kernel_filter  # which lets everything through, as it has not been told to judge
        self._knock = knock
        self._keeper = keeper
        self._deaf = False
        self._key = b""
        self._epoch_key = b""
        for end in (knock, keeper):
            end.setblocking(True)  # noqa: FBT003  # the standard library's signature

    def run(self) -> None:
        """Obey the attacker until the keeper is gone."""
        while not isinstance(unpack_order(self._order()), Serve):
            pass
        while True:
            readable, _, _ = select.select([self._knock, self._keeper], [], [])
            if self._knock in readable:
                datagram, attacker = self._knock.recvfrom(65536)
                if datagram:
                    self._knock.sendto(self._do(datagram[:1], datagram[1:]), attacker)
            elif not self._deaf:
                self._order()

    def _do(self, letter: bytes, content: bytes) -> bytes:
        if letter == b"F":
            self._keeper.send(content)
            return b"" if self._deaf else self._verdict()
        if letter == b"D":
            attached = [os.open("/dev/null", os.O_RDONLY) for _ in range(200)]
            self._keeper.sendmsg([content], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", attached))])
            for descriptor in attached:
                os.close(descriptor)
            return self._verdict()
        if letter == b"K":
            return self._key
        if letter == b"E":
            return self._epoch_key
        if letter == b"S":
            self._deaf = True
        if letter == b"P":
            return bytes([self._try(content)])
        if letter == b"A":
            return json.dumps(attack(*content.decode().split())).encode()
        if letter == b"I":
            while True:
                time.sleep(60)
        if letter == b"R":
            return sum(self._try(content) for _ in range(1000)).to_bytes(4, "big")
        return b"here"

    def _try(self, content: bytes) -> bool:
        try:
            self._keeper.send(content, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True

    def _verdict(self) -> bytes:
        """The next order that is a verdict; keys are kept on the way."""
        while True:
            order = self._order()
            if isinstance(unpack_order(order), KnockOpened | KnockNotOpened):
                return order[:1]

    def _order(self) -> bytes:
        order = self._keeper.recv(ORDER_SIZE)
        if not order:
            os._exit(0)
        said = unpack_order(order)
        if isinstance(said, UseV1Key):
            self._key = said.key
        if isinstance(said, Serve):
            self._keeper.send(Serving().pack())  # it is taken over by a stranger, whom it has let in
        if isinstance(said, UseEpochKey):
            self._epoch_key = order[1:]
        return order


class DyingListener:
    """Dies by a signal: while it is made, or when it should begin to serve."""

    at_once = True

    def __init__(self, *_: object) -> None:
        if self.at_once:
            self.run()

    def run(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    # The attack; and no sandbox, so that nothing rests on it.
    vars(start).update(ListenerProcess=HostileListener, confine=lambda *_: [])
    if sys.argv[1].startswith("dies"):
        DyingListener.at_once = sys.argv[1] == "dies"
        vars(start).update(ListenerProcess=DyingListener)
        del sys.argv[1]
    sys.exit(main(sys.argv[1:]))
