"""A client behind NAT whose server wants an address named: a page tells it, and the door opens.

+------------------+        +---------------------------+   switch   +--------------------------+
|  home            |  veth  |  client, a router         |            |  server                  |
|  10.0.0.2        +--------+  10.0.0.1     192.0.2.2   +------------+  openme serve 192.0.2.1  |
|  fd00::2         |        |  fd00::1      8.8.4.4     |            |  the page    2001:db8::1 |
|                  |        |  all that comes from home |            |                          |
|                  |        |  leaves as 8.8.4.4 or     |            |                          |
|                  |        |  2606:4700:64::2          |            |                          |
+------------------+        +---------------------------+            +--------------------------+
"""

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.entries import restrict
from support.netns import Namespace, namespace, until
from support.server import CLIENT, SERVER, ServerWorld
from support.web import Authority, http, page

pytestmark = pytest.mark.root

PAGE = "page.example"
OUTSIDE = {4: "8.8.4.4", 6: "2606:4700:64::2"}
NAT = """
table inet nat {
  chain leave {
    type nat hook postrouting priority srcnat
    ip saddr 10.0.0.0/24 snat ip to 8.8.4.4
    ip6 saddr fd00::/64 snat ip6 to 2606:4700:64::2
  }
}
"""


@pytest.fixture
def home(world: ServerWorld) -> Namespace:
    """A host behind the router that the world's client is."""
    router = world.client
    made = namespace(world.stack)
    router.run("ip", "link", "add", "home", "type", "veth", "peer", "name", "eth0", "netns", made.name)
    for host, device, number in ((router, "home", 1), (made, "eth0", 2)):
        host.run("ip", "link", "set", device, "up")
        host.run("ip", "address", "add", f"10.0.0.{number}/24", "dev", device)
        host.run("ip", "address", "add", f"fd00::{number}/64", "dev", device, "nodad")
    made.run("ip", "route", "add", "default", "via", "10.0.0.1")
    made.run("ip", "route", "add", "default", "via", "fd00::1")
    router.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    router.nft(NAT)
    for version, address in OUTSIDE.items():
        length = 32 if version == 4 else 128
        router.run("ip", "address", "add", f"{address}/{length}", "dev", "eth0", *(["nodad"] if version == 6 else []))
        world.server.run("ip", "route", "add", f"{address}/{length}", "via", CLIENT[version])
    return made


@pytest.fixture
def pages(world: ServerWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, str]]:
    """A page on the server for each family that says who asks."""

    def who(connection: ssl.SSLSocket, _over: object) -> None:
        connection.sendall(http(f"{connection.getpeername()[0]}\n".encode()))

    folder = tmp_path / "authority"
    folder.mkdir()
    authority = Authority(folder)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    certificate = authority.certificate(SERVER[4], SERVER[6], PAGE)
    with ExitStack() as stack:
        with world.server.entered():
            urls = {version: stack.enter_context(page(certificate, who, SERVER[version])) for version in (4, 6)}
        yield urls


@pytest.mark.parametrize("version", [4, 6])
def test_a_client_behind_nat_that_must_name_its_address_gets_its_door(
    world: ServerWorld, home: Namespace, pages: dict[int, str], version: int
) -> None:
    alice = world.at(world.add("alice"), SERVER[version])
    restrict(world, "alice", "require_target_ip: true")
    world.serve(tcp=[22])
    world.start()
    world.knock(alice, host=home)
    world.says("target_required")
    assert world.tcp(home, 22, version) == "filtered"
    told = world.knock(alice, "--ip", pages[version], "--check", host=home)
    assert f"for {OUTSIDE[version]}, as {pages[version]} says" in told.stderr
    assert told.stdout.startswith(f"open\n22/tcp for {OUTSIDE[version]} until ")
    assert world.tcp(home, 22, version) == "open"
    assert world.tcp(world.stranger, 22, version) == "filtered"


def test_over_a_family_that_the_page_does_not_answer_no_knock_leaves_and_a_warning_says_why(
    world: ServerWorld, home: Namespace, pages: dict[int, str], tmp_path: Path
) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text(f"{SERVER[4]} both.example {PAGE}\n{SERVER[6]} both.example\nfd00::1 {PAGE}\n")
    url = pages[4].replace(SERVER[4], PAGE)
    alice = world.at(world.add("alice", "--v1"), "both.example")
    world.serve(tcp=[22])
    world.start()
    told = world.knock(alice, "--ip", url, host=home, hosts=hosts)
    assert (
        f"openme: warning: no knock over IPv6: profile default: --ip: {url}: no connection: Connection refused\n"
        in told.stderr
    )
    until(lambda: world.tcp(home, 22, 4) == "open")
    assert world.tcp(home, 22, 6) == "filtered"
