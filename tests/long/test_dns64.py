"""The look-up of this network's NAT64 prefix, with this system's own resolver library and Debian's unbound as DNS64.

    +--------------------------------+             +----------------------------------+
    |  client                        |             |  network                         |
    |  openme knock                  |    veth     |  unbound, DNS64, port 53         |
    |  /etc/resolv.conf: fd00:64::1  +-------------+    forwards to                   |
    |  fd00:64::2, 2606:4700:64::2   |             |  unbound that knows ipv4only.arpa |
    |                                |             |  fd00:64::1, 2001:db8:64::…      |
    +--------------------------------+             +----------------------------------+

`tools/unpacked unbound` has put the resolver under .cache; `make test-long` runs both.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from openme.client.nat64 import PATIENCE
from support.command import OPENME, place
from support.netns import Namespace, namespace, until

UNBOUND = Path(__file__).parents[2] / ".cache" / "unpacked" / "unbound" / "run"
RESOLVER = "fd00:64::1"
OURS = "2606:4700:64::2"
TRANSLATED, NATIVE = "2001:db8:64::c000:201", "2001:db8:65::1"  # where the server is
NETWORK = "2606:4700:64::/64"

LOOK_UP = "from openme.client.nat64 import look_up; print(look_up())"

pytestmark = pytest.mark.root

COMMON = """
server:
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  do-not-query-localhost: no
"""
KNOWS = """
  interface: 127.0.0.1@5300
  module-config: "iterator"
  local-zone: "ipv4only.arpa." static
  local-data: "ipv4only.arpa. A 192.0.0.170"
  local-data: "ipv4only.arpa. A 192.0.0.171"
"""
TRANSLATES = """
  interface: fd00:64::1
  access-control: ::/0 allow
  module-config: "{modules}"
  {dns64}
forward-zone:
  name: "."
  forward-addr: 127.0.0.1@5300
remote-control:
  control-enable: no
"""


class Net:
    """A client and the network that it is in."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.folder = folder
        self.network, self.client = namespace(stack), namespace(stack)
        self.network.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.client.name)
        for host, number in ((self.network, 1), (self.client, 2)):
            host.run("ip", "link", "set", "eth0", "up")
            for prefix in ("fd00:64::", "2606:4700:64::"):
                host.run("ip", "address", "add", f"{prefix}{number}/64", "dev", "eth0", "nodad")
        for server in (TRANSLATED, NATIVE):
            self.network.run("ip", "address", "add", f"{server}/128", "dev", "lo")
        self.client.run("ip", "route", "add", "default", "via", RESOLVER)
        (folder / "resolv.conf").write_text(f"nameserver {RESOLVER}\noptions timeout:1 attempts:1\n")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A program on the client, with the client's own /etc/resolv.conf and nothing cached in between."""
        bind = f'mount --bind {self.folder / "resolv.conf"} "$(readlink -f /etc/resolv.conf)" && exec "$@"'
        return subprocess.run(
            self.client.command("env", f"HOME={self.folder}", "sh", "-c", bind, "sh", *words),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def look_up(self) -> str:
        """What `nat64.look_up` says in there."""
        done = self.run(sys.executable, "-c", LOOK_UP)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def resolves(self, dns64: str | None) -> None:
        """Start the resolver, with a prefix for IPv4 hosts or without; it answers when this returns."""
        modules, line = ("iterator", "") if dns64 is None else ("dns64 iterator", f"dns64-prefix: {dns64}")
        self._start("knows", KNOWS)
        self._start("translates", TRANSLATES.format(modules=modules, dns64=line))

    def _start(self, name: str, text: str) -> None:
        config = self.folder / f"{name}.conf"
        config.write_text(COMMON.format(folder=self.folder) + text)
        process = self.network.popen(str(UNBOUND), "unbound", "-d", "-c", str(config))
        port = "5300" if name == "knows" else "53"
        until(lambda: _listens(self.network, port) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]


def _listens(host: Namespace, port: str) -> bool:
    return f":{port} " in host.run("ss", "-Hlun")


@pytest.fixture
def net(tmp_path: Path) -> Iterator[Net]:
    assert UNBOUND.exists(), "tools/unpacked unbound has to run first; make test-long does that"
    with ExitStack() as stack:
        yield Net(stack, tmp_path)


@pytest.mark.parametrize(
    "prefix",
    [
        "64:ff9b::/96",
        "2001:db8:122:344::/96",
        "2001:db8:122:344::/64",
        "2001:db8:122:300::/56",
        "2001:db8:122::/48",
        "2001:db8:100::/40",
        "2001:db8::/32",
    ],
)
def test_the_prefix_is_read_from_a_real_resolvers_answer(net: Net, prefix: str) -> None:
    net.resolves(prefix)
    assert net.look_up() == f"(IPv6Network('{prefix}'),)"


def test_a_resolver_without_dns64_says_that_there_is_none(net: Net) -> None:
    net.resolves(None)
    assert net.look_up() == "()"


def test_no_resolver_is_no_answer_and_not_waited_for(net: Net) -> None:
    net.network.nft("table inet t { chain c { type filter hook input priority 0; udp dport 53 drop; }; }")
    began = time.monotonic()
    took = net.run(
        sys.executable, "-c", f"import time; began = time.monotonic(); {LOOK_UP}; print(time.monotonic() - began)"
    )
    assert took.returncode == 0, took.stderr
    found, seconds = took.stdout.split()
    assert (found, float(seconds) < PATIENCE + 0.5) == ("None", True)
    assert time.monotonic() - began < 10, "the thread that is left behind keeps nothing from ending"


def test_a_knock_names_its_own_address_only_where_nothing_translates_it(net: Net) -> None:
    """To a server whose address the resolver made up, and to one that has IPv6."""
    net.resolves("2001:db8:64::/96")
    here = place(net.folder)
    here.prepare()
    path = here.client("alice")
    written = path.read_text()
    for server, told in (
        (TRANSLATED, "the address it comes from"),
        (NATIVE, f"{OURS}, this machine's own address"),
    ):
        path.write_text(written.replace("127.0.0.1", server))
        done = net.run(OPENME, "--client-config", str(path), "knock")
        assert done.returncode == 0, done.stderr
        assert f"knocked at {server} ({server}, port {here.port}) for {told}\n" in done.stderr
    (kept,) = net.folder.rglob("networks.json")
    assert json.loads(kept.read_text())[NETWORK]["prefixes"] == ["2001:db8:64::/96"]
