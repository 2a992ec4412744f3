"""`openme doctor` as one runs it: which side it looks at, what it prints, how it ends."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.command import Done, Place
from support.ssh_agents import fake_agent

TARGET = "203.0.113.7"


@pytest.fixture
def alice(here: Place) -> Path:
    directory = here.root / "client"
    directory.mkdir(mode=0o700)
    return here.client("alice").rename(directory / "config.yaml")


def doctor(here: Place, *words: str) -> Done:
    return here.run("doctor", "--ntp", "none", *words)


def of_client(here: Place, alice: Path, *words: str) -> Done:
    return doctor(here, "--client-config", str(alice), "--side", "client", *words)


def test_one_finding_is_one_line_with_its_cure_and_exit_code_1(here: Place, alice: Path) -> None:
    done = of_client(here, alice)
    (line,) = done.out.splitlines()
    assert done.code == 1
    assert line.startswith("client: udp_refused: 127.0.0.1 says that nothing listens")
    assert "; cure: " in line
    assert "openme: client: not looked at: clock: no NTP server is to be asked" in done.err.splitlines()


def test_for_programs(here: Place, alice: Path) -> None:
    done = of_client(here, alice, "--json", "--no-knock")
    (finding,) = done.json()["findings"]
    assert finding.keys() == {"side", "cause", "text", "cure"}
    assert (done.code, finding["side"], finding["cause"]) == (1, "client", "udp_refused")
    assert {"side": "client", "look": "name"} in done.json()["looked_at"]
    assert {"side": "client", "look": "clock", "why": "no NTP server is to be asked"} in done.json()["not_looked_at"]


def test_where_nothing_is_wrong_it_says_what_it_has_looked_at(here: Place, alice: Path) -> None:
    with here.serving():
        done = of_client(here, alice, "--ip", TARGET)
    assert done.code == 0, done.out
    assert done.out.startswith("nothing found (client: epoch keys, ")


def test_without_a_knock_none_is_sent(here: Place, alice: Path) -> None:
    with here.serving() as server:
        done = of_client(here, alice, "--no-knock")
        assert done.code == 0, done.out
        assert "opened" not in server.log
    assert not alice.with_name("config.yaml.known").exists()


def test_it_looks_at_each_side_whose_file_is_there(here: Place, alice: Path) -> None:
    with here.serving():
        both = doctor(here, "--client-config", str(alice), "--ip", TARGET, "--json").json()
        server = doctor(here, "--json").json()
    assert {item["side"] for item in both["looked_at"]} == {"client", "server"}
    assert {item["side"] for item in server["looked_at"]} == {"server"}
    assert "dry_run" in [item["cause"] for item in server["findings"]]


def test_where_neither_is_there_it_says_so(here: Place) -> None:
    here.config.unlink()
    done = doctor(here)
    assert done.code == 1
    assert done.error.startswith("there is neither a server's file here")


def test_a_profile_that_is_not_there_is_a_finding(here: Place, alice: Path) -> None:
    done = of_client(here, alice, "office")
    assert done.code == 1
    assert done.out.startswith("client: client_file: there is no profile office; cure: ")


@pytest.mark.parametrize("words", [("--side", "left"), ("--ip", "here"), ("--nothing",), ("one", "two")])
def test_wrong_usage_is_exit_code_2(here: Place, alice: Path, words: tuple[str, ...]) -> None:
    assert of_client(here, alice, *words).code == 2


@contextmanager
def answering(port: int, says: bytes) -> Iterator[None]:
    """Who hears knocks, and says this again and again to whoever asks for a receipt."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
        socket.create_server(("127.0.0.1", port)) as listening,
    ):
        udp.bind(("127.0.0.1", port))

        def serve() -> None:
            while True:
                try:
                    peer, _ = listening.accept()
                except OSError:
                    return
                with peer:
                    try:
                        while True:
                            peer.sendall(says)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("size", [1, 64 * 1024])
def test_a_receipt_that_never_ends_is_one_line(here: Place, alice: Path, size: int) -> None:
    with answering(here.port, bytes(size)):
        done = of_client(here, alice)
        (line,) = done.out.splitlines()
        assert done.code == 1
        assert line.startswith("client: unproven: something answers on 127.0.0.1")
        checked = here.run("--client-config", str(alice), "knock", "--check", "--json")
    assert (checked.code, checked.json()["answer"]) == (3, "unproven")


def test_a_name_that_leads_to_the_client_itself_is_one_line_and_no_knock_is_sent(here: Place, alice: Path) -> None:
    alice.write_text(alice.read_text().replace("127.0.0.1", "localhost"))
    with here.serving() as server:
        done = of_client(here, alice)
        (line,) = done.out.splitlines()
        assert "opened" not in server.log
    assert done.code == 1
    assert line.startswith("client: name_is_here: localhost leads to this machine itself")


def test_an_agent_that_hangs_is_one_line(here: Place, alice: Path) -> None:
    text = alice.read_text()
    kept = [line for line in text.splitlines() if "private_key" not in line and "    public_key" not in line]
    alice.write_text("\n".join([*kept, f"    identity: ssh-agent:SHA256:{'A' * 43}", ""]))
    with here.serving(), fake_agent(lambda _request: None) as agent:
        words = (f"SSH_AUTH_SOCK={agent.path}", *here.command("--client-config", str(alice), "doctor", "--ntp", "none"))
        done = here.shell(f"env {' '.join(words)} --side client")
    (line,) = done.out.splitlines()
    assert (done.code, line.startswith("client: identity: the SSH agent did not answer within 5 s")) == (1, True)
