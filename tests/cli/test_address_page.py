"""knock and status with a page that tells our address, as a user runs them."""

import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from openme.config.server import load_server_config
from openme.wire import v1
from support.command import OPENME, Done, Place, place
from support.web import Answer, Authority, Certificate, http, page, says

GOOD = http(b"8.8.4.4\n")


@dataclass
class Client:
    """A client of version 1 and what stands in for its server: a socket that gets its knocks."""

    here: Place
    file: Path
    udp: socket.socket
    authority: Authority
    certificate: Certificate

    def run(self, *words: str) -> Done:
        done = subprocess.run(
            [OPENME, "--client-config", str(self.file), *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @property
    def environment(self) -> dict[str, str]:
        """One in which the page's certificate is accepted."""
        return self.here.environment | {"SSL_CERT_FILE": str(self.authority.file)}

    def target(self) -> str:
        """The address that the next knock names."""
        packet = self.udp.recv(1000)
        key = v1.aead_key_untrusted(packet, load_server_config(self.here.config).private_key.raw)
        return str(v1.open_untrusted(packet, key).target)

    def nothing_came(self) -> bool:
        self.udp.setblocking(False)  # noqa: FBT003  # the standard library's signature
        with pytest.raises(BlockingIOError):
            self.udp.recv(1000)
        return True


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    here = place(tmp_path)
    here.prepare()
    folder = tmp_path / "authority"
    folder.mkdir()
    authority = Authority(folder)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", here.port))
        udp.settimeout(10)
        yield Client(here, here.client("alice", "--v1"), udp, authority, authority.certificate())


def test_a_knock_names_what_the_page_of_the_profile_says(client: Client) -> None:
    with page(client.certificate, says(GOOD)) as url:
        client.file.write_text(client.file.read_text() + f'    ip: "{url}"\n')
        done = client.run("knock")
        assert (done.code, done.out) == (0, "")
        assert f"port {client.here.port}) for 8.8.4.4, as {url} says" in done.err
        assert client.target() == "8.8.4.4"
        assert client.run("status", "--knock").code == 3
        assert client.target() == "8.8.4.4"


def test_a_page_on_the_command_line(client: Client) -> None:
    with page(client.certificate, says(GOOD)) as url:
        done = client.run("knock", "--ip", url, "--check")
        assert (done.code, done.out) == (3, "closed\n")
        assert "hint: the knock named the address that the page saw" in done.err
        assert client.target() == "8.8.4.4"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (says(http(b"10.0.0.7")), "expected an address that can be reached from everywhere, it says 10.0.0.7"),
        (says(http(b"\x1b]0;mine\x07")), r"it says \x1b]0;mine\x07"),
        (says(http(b"", "302 Found", "Location: http://127.0.0.1/")), "which is not followed"),
    ],
)
def test_a_page_that_says_anything_else_is_one_line_and_no_knock(client: Client, answer: Answer, reason: str) -> None:
    with page(client.certificate, answer) as url:
        done = client.run("knock", "--ip", url)
    assert (done.code, done.out) == (1, "")
    assert done.error.startswith(f"no knock could be sent: IPv4: profile default: --ip: {url}: ")
    assert reason in done.error
    assert client.nothing_came()


def test_a_page_with_a_certificate_of_nobody_known_is_one_line_and_no_knock(client: Client) -> None:
    with page(client.certificate, says(GOOD)) as url:
        done = client.here.run("--client-config", str(client.file), "knock", "--ip", url)
    assert done.code == 1
    assert "its certificate is not accepted: " in done.error
    assert client.nothing_came()


def test_a_page_without_tls_is_refused_before_anything_is_asked(client: Client) -> None:
    done = client.run("knock", "--ip", "http://127.0.0.1:9/")
    assert (done.code, done.error) == (
        2,
        "--ip: http://127.0.0.1:9/ is not https: whoever sits on the way would choose whose address opens",
    )


def test_every_turn_asks_the_page_and_one_without_an_answer_is_skipped(client: Client) -> None:
    answers = iter([GOOD, http(b"", "503 Service Unavailable"), http(b"1.1.1.1")])

    def answer(connection: object, over: object) -> None:
        says(next(answers, GOOD))(connection, over)  # type: ignore[arg-type]  # passed on as they come

    with page(client.certificate, answer) as url:
        command = [
            OPENME,
            "--client-config",
            str(client.file),
            "knock",
            "--ip",
            url,
            "--continuous",
            "--interval",
            "1s",
        ]
        process = subprocess.Popen(command, env=client.environment, stderr=subprocess.PIPE, text=True)
        try:
            assert [client.target() for _ in range(2)] == ["8.8.4.4", "1.1.1.1"]
            process.send_signal(2)
            _, told = process.communicate(timeout=20)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    assert f"openme: warning: no knock could be sent: IPv4: profile default: --ip: {url}: it answered with" in told
