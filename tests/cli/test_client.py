"""knock, status and profiles, and the voice that all commands share."""

import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from openme import __version__
from openme.config.server import load_server_config
from openme.wire import v1
from support.command import OPENME, Done, Place


@pytest.fixture
def alice(here: Place) -> Path:
    """A client of version 1, whose door is open when TCP says so; test_client_v2.py has the other kind."""
    return here.client("alice", "--v1")


@pytest.fixture
def udp(here: Place) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", here.port))
        sock.settimeout(10)
        yield sock


@pytest.fixture
def tcp(here: Place) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("127.0.0.1", here.port))
        sock.listen()
        yield sock


def client(here: Place, file: Path, *words: str) -> Done:
    return here.run("--client-config", str(file), *words)


def test_a_knock_is_one_datagram_that_the_server_can_open(here: Place, alice: Path, udp: socket.socket) -> None:
    done = client(here, alice, "knock")
    assert (done.code, done.out) == (0, "")
    assert "knocked at 127.0.0.1" in done.err
    packet = udp.recv(1000)
    config = load_server_config(here.config)
    knock = v1.open_untrusted(packet, v1.aead_key_untrusted(packet, config.private_key.raw))
    assert v1.signed_by(packet, config.clients["alice"].public_key)
    assert knock.target is None
    udp.setblocking(False)  # noqa: FBT003  # the standard library's signature
    with pytest.raises(BlockingIOError):
        udp.recv(1000)


def test_a_knock_names_the_address_asked_for(here: Place, alice: Path, udp: socket.socket) -> None:
    assert client(here, alice, "knock", "--ip", "::ffff:203.0.113.5").code == 0
    packet = udp.recv(1000)
    key = v1.aead_key_untrusted(packet, load_server_config(here.config).private_key.raw)
    assert str(v1.open_untrusted(packet, key).target) == "203.0.113.5"


@pytest.mark.usefixtures("udp")
@pytest.mark.parametrize("command", [("knock", "--check"), ("status",)])
def test_a_shut_door_is_closed_and_exit_code_3(here: Place, alice: Path, command: tuple[str, ...]) -> None:
    done = client(here, alice, *command)
    assert (done.code, done.out) == (3, "closed\n")


def hints(done: Done) -> list[str]:
    return [line.removeprefix("openme: hint: ") for line in done.err.splitlines() if line.startswith("openme: hint: ")]


NOT_OURS, OURS = "203.0.113.9", "127.0.0.1"


@pytest.mark.usefixtures("udp")
@pytest.mark.parametrize(
    ("words", "ip", "says"),
    [
        (("knock", "--check"), None, None),
        (("knock", "--check"), NOT_OURS, f"the knock named {NOT_OURS}: from here the door is shut, unless"),
        (("status", "--knock"), NOT_OURS, f"the knock named {NOT_OURS}: from here the door is shut, unless"),
        (("knock", "--check", "--ip", NOT_OURS), None, f"the knock named {NOT_OURS}: from here the door is shut"),
        (("knock", "--check", "--ip", "0.0.0.0"), NOT_OURS, None),
        (
            ("knock", "--check", "--ip", OURS),
            NOT_OURS,
            "this machine's own address; if a router on the way changes it: --ip source",
        ),
        (("status", "--knock"), OURS, "a router on the way changes it: ip: source in profile default"),
    ],
)
def test_what_is_said_under_closed_is_of_the_knock_that_was_sent(
    here: Place, alice: Path, words: tuple[str, ...], ip: str | None, says: str | None
) -> None:
    if ip is not None:
        alice.write_text(alice.read_text().rstrip("\n") + f"\n    ip: {ip}\n")
    done = client(here, alice, *words)
    assert (done.code, done.out) == (3, "closed\n")
    *of_address, of_server = hints(done)
    assert len(of_address) == (says is not None)
    assert says is None or says in of_address[0]
    assert of_server.startswith(f"nothing answered on 127.0.0.1 port {here.port}/tcp; on the server, the log says")
    assert ("own address" in done.err) == (says is not None and "router" in says)


def test_closed_before_a_knock_names_the_knock_and_no_reason_for_a_refusal(here: Place, alice: Path) -> None:
    done = client(here, alice, "status")
    assert (done.code, done.out) == (3, "closed\n")
    nothing = f"nothing answers on 127.0.0.1 port {here.port}/tcp, as before a knock; to knock: openme knock --check"
    assert hints(done) == [nothing]
    assert hints(client(here, alice, "status", "default")) == [f"{nothing} default"]
    assert hints(client(here, alice, "status", "--json")) == []


@pytest.mark.usefixtures("tcp")
@pytest.mark.parametrize("command", [("knock", "--check"), ("status", "--knock"), ("status",)])
def test_an_open_door_is_open_and_exit_code_0(here: Place, alice: Path, command: tuple[str, ...]) -> None:
    done = client(here, alice, *command)
    assert (done.code, done.out) == (0, "open\n")


@pytest.mark.usefixtures("tcp")
def test_status_for_programs(here: Place, alice: Path) -> None:
    value = client(here, alice, "status", "--json").json()
    assert value == {
        "profile": "default",
        "answer": "unproven",
        "open": True,
        "addresses": [{"address": "127.0.0.1", "open": True}],
        "receipts": [],
    }


@pytest.mark.usefixtures("tcp")
def test_an_answer_without_a_receipt_is_said_to_be_unproven(here: Place, alice: Path) -> None:
    assert any(hint.startswith("unproven: ") for hint in hints(client(here, alice, "status")))
    assert client(here, alice, "knock", "--check", "--json").json()["answer"] == "unproven"


def test_no_answer_for_programs_is_none_and_exit_code_3(here: Place, alice: Path) -> None:
    sent = {"address": "127.0.0.1", "target": None, "target_is_own": False, "target_told_by": None}
    done = client(here, alice, "knock", "--check", "--json")
    assert done.code == 3
    assert done.json() == {
        "profile": "default",
        "answer": "none",
        "open": False,
        "addresses": [{"address": "127.0.0.1", "open": False}],
        "receipts": [],
        "knocks": [sent],
        "not_sent": [],
    }
    done = client(here, alice, "knock", "--json")
    assert done.code == 0
    assert done.json() == {"profile": "default", "answer": None, "open": None, "knocks": [sent], "not_sent": []}


def test_with_json_too_a_door_that_stays_shut_runs_no_post_knock(here: Place, alice: Path) -> None:
    alice.write_text(alice.read_text() + '    post_knock: "touch \\"$HOME/done\\""\n')
    assert client(here, alice, "knock", "--check", "--json").code == 3
    assert not (here.root / "done").exists()


def test_with_json_a_post_knock_prints_to_stderr(here: Place, alice: Path) -> None:
    alice.write_text(alice.read_text() + '    post_knock: "echo by the command"\n')
    done = client(here, alice, "knock", "--json")
    assert done.json()["answer"] is None
    assert "by the command" in done.err


def test_post_knock_runs_after_the_knock_and_its_failure_is_ours(here: Place, alice: Path) -> None:
    alice.write_text(alice.read_text() + '    post_knock: "touch \\"$HOME/done\\"; exit 7"\n')
    done = client(here, alice, "knock")
    assert (here.root / "done").exists()
    assert done.code == 1
    assert "status 7" in done.err


def test_continuous_knocks_again_and_again_until_ctrl_c(here: Place, alice: Path, udp: socket.socket) -> None:
    arguments = here.command("--client-config", str(alice), "knock", "--continuous", "--interval", "1s")
    process = subprocess.Popen(arguments, env=here.environment, stderr=subprocess.PIPE)
    try:
        packets = {udp.recv(1000) for _ in range(2)}
        assert len(packets) == 2
        process.send_signal(2)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["knock", "nope"], 1, "no profile nope"),
        (["status", "defalt"], 1, "no profile defalt"),
        (["profiles", "nope"], 1, "no profile nope"),
        (["knock", "--ip", "here"], 2, "--ip: here is no IP address"),
        (["knock", "--interval", "never"], 2, "--interval"),
        (["knock", "--interval", "10ms"], 2, "at least 1s"),
        (["knock", "--chekc"], 2, "unknown option --chekc"),
        (["knock", "a", "b"], 2, "unknown argument b"),
        (["status", "--log-level", "loud"], 2, "loud"),
    ],
)
def test_a_mistake_is_one_line(here: Place, alice: Path, words: list[str], code: int, says: str) -> None:
    done = client(here, alice, *words)
    assert (done.code, done.out) == (code, "")
    assert says in done.error


def test_the_nearest_name_is_suggested(here: Place, alice: Path) -> None:
    for words, near in (
        (["knock", "--chekc"], "did you mean --check?"),
        (["knok"], "did you mean knock?"),
        (["chekc-config"], "did you mean check-config?"),
        (["status", "defalt"], "did you mean default?"),
    ):
        assert f"openme: hint: {near}" in client(here, alice, *words).err


def test_a_missing_client_file_is_one_line(here: Place) -> None:
    for command in ("knock", "status", "profiles"):
        done = here.run(command)
        assert done.code == 1
        assert ".openme/config.yaml" in done.error


def test_the_client_file_lies_in_the_home_directory(here: Place, alice: Path) -> None:
    (here.root / ".openme").mkdir()
    alice.rename(here.root / ".openme" / "config.yaml")
    assert here.ok("profiles").out.splitlines()[1].startswith("default")


def test_a_loose_client_file_is_refused(here: Place, alice: Path) -> None:
    alice.chmod(0o644)
    done = client(here, alice, "knock")
    assert done.code == 1
    assert "chmod 600" in done.err


def test_an_unknown_host_is_one_line(here: Place, alice: Path) -> None:
    alice.write_text(alice.read_text().replace("127.0.0.1", "no-such-host.invalid"))
    done = client(here, alice, "knock")
    assert done.code == 1
    assert "no-such-host.invalid" in done.error


def test_profiles_never_shows_a_secret(here: Place, alice: Path) -> None:
    (secret,) = re.findall(r'private_key: "?([A-Za-z0-9+/=]+)', alice.read_text())
    for words in (["profiles"], ["profiles", "default"], ["profiles", "--json"], ["profiles", "default", "--json"]):
        done = client(here, alice, *words)
        assert done.code == 0
        assert "127.0.0.1" in done.out
        for part in (secret, secret[:43], secret[:20]):
            assert part not in done.out + done.err
    (value,) = client(here, alice, "profiles", "--json").json()
    assert value["private_key"] == "present"


def test_a_profile_that_waits_for_its_server_is_listed_for_programs_too(here: Place, alice: Path) -> None:
    assert client(here, alice, "keygen", "other").code == 0
    (full, waiting) = client(here, alice, "profiles", "--json").json()
    assert full.keys() == waiting.keys()
    assert (waiting["name"], waiting["private_key"], waiting["server_host"]) == ("other", "present", None)


# -- the voice of all commands


def test_the_version_is_told_before_and_after_a_command(here: Place) -> None:
    for words in (["--version"], ["--version", "list"], ["list", "--version"]):
        assert here.ok(*words).out == f"openme {__version__}\n"


def test_options_stand_before_or_after_the_command(here: Place, alice: Path) -> None:
    path, environment = str(here.config), here.environment
    for words in (
        ["--config", path, "list"],
        ["list", "--config", path],
        [f"--config={path}", "list"],
        ["list", f"--config={path}", "--log-level", "error"],
        ["--log-level=error", "--client-config", str(alice), "--config", path, "list"],
    ):
        done = subprocess.run([OPENME, *words], env=environment, capture_output=True, text=True, check=True)
        assert "alice" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "a command is missing"),
        (["nope"], "unknown command nope"),
        (["--nope"], "--nope"),
        (["--nope", "list"], "--nope"),
        (["list", "--jsn"], "--jsn"),
        (["list", "extra"], "extra"),
        (["--config"], "--config"),
        (["revoke"], "name"),
        (["--"], "--"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(here: Place, words: list[str], says: str) -> None:
    done = subprocess.run([OPENME, *words], env=here.environment, capture_output=True, text=True, check=False)
    ended = Done(done.returncode, done.stdout, done.stderr)
    assert (ended.code, ended.out) == (2, "")
    assert says.lower() in ended.error.lower()


def test_help_names_every_command(here: Place) -> None:
    for words in (["--help"], ["-h"], ["help"]):
        out = here.ok(*words).out
        for name in (
            "init",
            "add",
            "list",
            "revoke",
            "check-config",
            "serve",
            "sessions",
            "knock",
            "status",
            "profiles",
        ):
            assert f"  {name}" in out
    assert "--qr-out" in here.ok("add", "--help").out


def test_a_reader_that_has_had_enough_is_no_failure(here: Place) -> None:
    for number in range(5):
        here.client(f"client{number}")
    for script in ("openme list | true", "openme --help | head -n 1", "openme list --json | head -c 1"):
        done = here.shell(f"({script}); echo end $?")
        assert done.out.endswith("end 0\n")
        assert done.err == ""


def test_a_full_disk_behind_stdout_is_one_line(here: Place) -> None:
    here.client("alice")
    for script in ("openme list > /dev/full", "openme list --json > /dev/full", "openme --help > /dev/full"):
        done = here.shell(script)
        assert done.code == 1
        assert "No space left" in done.error
        assert len(done.err.splitlines()) == 1
