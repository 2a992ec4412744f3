"""The guides, typed as they stand one after the other, on the two machines that the README's first server leaves.

A comment before a block says where it is typed, `<!-- on the server -->`, or which file of the user's it is added to,
`<!-- on the client, in .ssh/config -->`.
"""

import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.fresh_debian import Terminal
from support.guest_image import CHECKOUT
from support.netns import v4
from support.typed_pages import NAME, Block, Hour, install_openme, readme_blocks

pytestmark = [pytest.mark.root, pytest.mark.timeout(1500)]

SUITE = "trixie"
GUIDES = CHECKOUT / "docs" / "guides"
STEP = re.compile(
    r"^<!-- on the (server|client)(?:, in (\S+))? -->\n```(sh|console|text)\n(.*?)^```", re.MULTILINE | re.DOTALL
)
INSIDE = "10.1.0.7"
TUNNEL = "10.66.0"

SERVER_TUNNEL = """[Interface]
Address = {net}.1/24
ListenPort = 51820
PrivateKey = {own}
[Peer]
PublicKey = {peer}
AllowedIPs = {net}.2/32
"""
CLIENT_TUNNEL = """[Interface]
Address = {net}.2/24
PrivateKey = {own}
[Peer]
PublicKey = {peer}
Endpoint = {server}:51820
AllowedIPs = {net}.1/32
PersistentKeepalive = 25
"""
PAGE = (
    "import http.server, ssl; s = http.server.HTTPServer(('', 8443), http.server.SimpleHTTPRequestHandler); "
    "c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); c.load_cert_chain('page.pem'); "
    "s.socket = c.wrap_socket(s.socket, server_side=True); s.serve_forever()"
)


class Machines:
    """The two, where the README's first server is done."""

    def __init__(self, hour: Hour) -> None:
        self.hour = hour
        self.server, self.client = hour.server.terminal(), hour.client.terminal()

    def type_guide(self, name: str, besides: Callable[[str], None] = lambda _: None) -> None:
        """Everything in a guide that is marked. `besides` is given each command before it is typed."""
        for where, file, kind, text in STEP.findall((GUIDES / f"{name}.md").read_text(encoding="utf-8")):
            terminal = self.server if where == "server" else self.client
            if file:
                assert terminal.type(f"cat >> ~/{file} <<'END'\n{text}END")[0] == 0
                continue
            for command, shown in Block(kind, text).commands:
                besides(command)
                code, said = terminal.type(command)
                assert code == 0, f"{name}: {command}: exit code {code}\n{said}"
                assert shown in said

    def run(self, terminal: Terminal, command: str) -> str:
        """Something that a guide takes for granted, or what it promises."""
        code, said = terminal.type(command)
        assert code == 0, f"{command}: {code}\n{said}"
        return said

    def fails(self, command: str) -> None:
        """What must not work on the client."""
        assert self.client.type(command)[0] != 0, command


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    folder = CHECKOUT / ".cache" / f"guides-{SUITE}"
    with ExitStack() as stack:
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)
        folder.mkdir(parents=True)
        stack.callback(lambda: subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True))
        hour = Hour(stack, SUITE, folder, devices=["/dev/net/tun"])
        install, init, add, fetch, trial, _, service, *_ = readme_blocks()
        more = ("curl", "openssl", "wireguard-tools", "wireguard-go")
        install_openme(hour, install, tmp_path_factory.mktemp("sources"), *more)
        made = Machines(hour)
        hour.step("2", hour.server, made.server, init)
        hour.step("3", hour.server, made.server, add)
        hour.step("4", hour.client, made.client, fetch)
        trial.commands = [one for one in trial.commands if " try " not in one[0]]
        hour.step("5", hour.server, made.server, trial)
        hour.step("6", hour.server, made.server, service)
        yield made


def test_a_jump_host(machines: Machines) -> None:
    server, client = machines.server, machines.client
    machines.run(server, f"sudo ip address add {INSIDE}/32 dev lo")
    machines.run(client, f"sed 's/^[^ ]*/{INSIDE}/' /etc/ssh/ssh_known_hosts | sudo tee -a /etc/ssh/ssh_known_hosts")
    machines.fails(f"ssh -o ConnectTimeout=2 {NAME} true")
    machines.type_guide("jump-host")
    machines.run(client, f"ssh -O exit {NAME}; rm ~/.ssh/config")


def test_a_web_admin_page(machines: Machines) -> None:
    page = f"https://{NAME}:8443/"
    machines.run(
        machines.server,
        "openssl req -x509 -newkey ed25519 -nodes -subj /CN=page -days 2 -keyout key.pem -out cert.pem 2>&1 && "
        f'cat key.pem cert.pem > page.pem && (setsid python3 -c "{PAGE}" >/dev/null 2>&1 &)',
    )

    def before(command: str) -> None:
        if command.startswith("curl"):
            machines.run(machines.client, "openme knock --check default")
            assert machines.client.type(f"curl -skm 2 --interface {v4(3)} {page}")[0] != 0
            machines.run(machines.client, "openme knock --check admin")

    machines.type_guide("web-admin-page", before)


def test_wireguard(machines: Machines) -> None:
    keys = [machines.run(machines.server, "wg genkey").strip() for _ in range(2)]
    publics = [machines.run(machines.server, f"echo {key} | wg pubkey").strip() for key in keys]
    files = (
        (machines.hour.server, SERVER_TUNNEL.format(net=TUNNEL, own=keys[0], peer=publics[1])),
        (machines.hour.client, CLIENT_TUNNEL.format(net=TUNNEL, own=keys[1], peer=publics[0], server=NAME)),
    )
    for machine, text in files:
        machine.write("etc/wireguard/wg0.conf", text, 0o600)
    machines.run(machines.server, "sudo wg-quick up wg0")
    machines.type_guide("wireguard")
    machines.run(machines.client, f"sudo ping -c 1 -W 10 {TUNNEL}.1")
    machines.run(machines.client, "sudo wg-quick down wg0")
    # By itself, as the guide says: the door that was opened by hand is shut, and the exchange forgotten.
    machines.run(machines.server, "sudo openme close laptop")
    (line,) = re.findall(r"With `(PreUp = [^`]+)`", (GUIDES / "wireguard.md").read_text(encoding="utf-8"))
    config = files[1][1].replace("[Peer]", f"{line}\n[Peer]", 1)
    machines.hour.client.write("etc/wireguard/wg0.conf", config, 0o600)
    machines.run(machines.client, "sudo wg-quick up wg0")
    machines.run(machines.client, f"sudo ping -c 1 -W 10 {TUNNEL}.1")


def test_a_phone(machines: Machines) -> None:
    machines.type_guide("phone")
    assert "phone" in machines.run(machines.server, "sudo openme list")


def test_a_way_in_for_the_worst_day(machines: Machines) -> None:
    printed: list[str] = []

    def before(command: str) -> None:
        if command.startswith("rm -f paper"):
            printed.append(machines.run(machines.server, "cat paper.yaml"))
        if command.startswith("chmod"):
            machines.run(machines.client, f"cat > paper.yaml <<'END'\n{printed[0]}END")

    machines.type_guide("break-glass", before)
    machines.run(machines.client, f"ssh {NAME} true")


def test_revoke_rotate_recover(machines: Machines) -> None:
    """What is brought from the one machine to the other is so by hand, as on that day."""

    def before(command: str) -> None:
        if (found := re.fullmatch(r"openme import (?:--replace )?(\S+)", command)) is not None:
            if "--replace" in command:
                machines.fails("openme knock --check")
            text = machines.run(machines.server, f"cat {found[1]}")
            machines.run(machines.client, f"cat > {found[1]} <<'END'\n{text}END")
        if command.startswith("sudo openme renew"):
            machines.fails("openme knock --check")

    machines.type_guide("recover", before)
    machines.run(machines.client, f"ssh {NAME} true")


def test_everything_that_is_typed_in_a_guide_is_marked() -> None:
    """A block of commands without a mark would be one that nobody has tried."""
    for page in GUIDES.glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert text.count("```sh") + text.count("```console") == sum(
            kind != "text" for _, _, kind, _ in STEP.findall(text)
        ), page.name


def test_every_guide_with_commands_is_typed() -> None:
    typed = set(re.findall(r'type_guide\("([^"]+)"', Path(__file__).read_text(encoding="utf-8")))
    assert typed == {page.stem for page in GUIDES.glob("*.md") if STEP.search(page.read_text(encoding="utf-8"))}
