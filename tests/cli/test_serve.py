"""serve and sessions: the real daemon with the memory firewall, on loopback, without privileges."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
from ipaddress import ip_address
from pathlib import Path

import pytest

from openme.client.knock import build
from openme.config.profile import load_client_config
from openme.control.place import SOCKET_NAME
from support.command import Place, Server, place, until


def knock(here: Place, client: Path, target: str = "203.0.113.5") -> bytes:
    """Send a knock of the client in this file for another address than loopback, which no door opens for."""
    (profile,) = load_client_config(client).profiles.values()
    packet = build(profile, ip_address(target) if target else None, time.time_ns()).datagram
    send(here, packet)
    return packet


def send(here: Place, packet: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(packet, ("127.0.0.1", here.port))


def inside(here: Place) -> list[str]:
    return [session["client_name"] for session in here.ok("sessions", "--json").json()["active_sessions"]]


def test_a_knock_opens_and_sessions_and_list_show_it(here: Place) -> None:
    alice = here.client("alice")
    here.client("bob")
    with here.serving() as server:
        knock(here, alice)
        server.logs("alice: opened 22/tcp for 203.0.113.5 for 30s")
        until(lambda: json.loads(here.sessions.read_text())["active_sessions"], "alice in the state file")
        value = here.ok("sessions", "--json").json()
        assert value == json.loads(here.sessions.read_text()) | {"updated_at": value["updated_at"]}
        (session,) = value["active_sessions"]
        assert (session["client_name"], session["ip"]) == ("alice", "203.0.113.5")
        assert session["ports"] == [{"port": 22, "proto": "tcp", "end_port": 22}]
        assert list(value["last_seen"]) == ["alice"]
        out = here.ok("sessions").out
        assert re.search(r"alice +203\.0\.113\.5 +22/tcp +\d+s", out)
        assert here.ok("sessions", "--state-file", str(here.sessions)).out.splitlines()[0] == out.splitlines()[0]
        first, second = here.ok("list", "--json").json()
        assert (first["last_source"], second["last_knock"]) == ("127.0.0.1", None)
        assert stat.S_IMODE(here.sessions.stat().st_mode) == 0o600


def test_a_door_for_a_network_is_shown_with_the_address_and_the_network(here: Place) -> None:
    alice = here.client("alice")
    here.client("bob")
    text = here.config.read_text()
    assert "  prefix_v4: 32\n" in text
    here.config.write_text(
        text.replace("  prefix_v4: 32\n", "  prefix_v4: 24\n").replace("  bob:\n", "  bob:\n    prefix_v4: 32\n")
    )
    with here.serving() as server:
        knock(here, alice)
        server.logs("alice: opened 22/tcp for 203.0.113.5 and its network 203.0.113.0/24 for 30s")
        (session,) = here.ok("sessions", "--json").json()["active_sessions"]
        assert (session["ip"], session["network"]) == ("203.0.113.5", "203.0.113.0/24")
        assert re.search(r"alice +203\.0\.113\.5 \(203\.0\.113\.0/24\) +22/tcp +\d+s", here.ok("sessions").out)
        first, second = here.ok("list", "--json").json()
        assert (first["prefix_v4"], first["prefix_v6"], second["prefix_v4"]) == (24, 128, 32)
        listed = here.ok("list").out
        assert "22/tcp for a IPv4 /24 " not in listed
        assert re.search(r"alice .* 22/tcp for an IPv4 /24 ", listed)
        assert re.search(r"bob .* 22/tcp +never", listed)
        closed = here.ok("close", "alice")
        assert "closed alice: 203.0.113.5 and its network 203.0.113.0/24" in closed.err


def test_the_same_packet_opens_nothing_twice_even_after_kill_9(here: Place) -> None:
    alice = here.client("alice")
    with here.serving() as server:
        packet = knock(here, alice)
        server.logs("alice: opened")
        send(here, packet)
        server.logs("alice: refused: replay")
        server.end(signal.SIGKILL)
    with here.serving("--log-level", "debug") as server:
        send(here, packet)
        server.logs("alice: refused: replay")
        knock(here, alice)
        server.logs("alice: opened")
        assert "may be incomplete" not in server.log


def test_sigterm_ends_it_with_0_soon_and_leaves_no_process_and_no_state_file(here: Place) -> None:
    with here.serving() as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        assert len(children) == 2, "the listener and its guardian"
        assert here.sessions.exists()
        assert server.end() == 0
        until(lambda: not any(Path("/proc", child).exists() for child in children), "both are gone")
        assert not here.sessions.exists()
        assert not (here.state / SOCKET_NAME).exists()
        assert "stopped" in server.log


def test_ctrl_c_ends_it_the_same_way(here: Place) -> None:
    with here.serving() as server:
        assert server.end(signal.SIGINT) == 0


def test_it_ends_by_itself_when_its_listener_is_gone(here: Place) -> None:
    with here.serving() as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGKILL)
        assert server.process.wait(20) == 1
        assert "listener is gone" in server.log


def test_a_second_server_on_the_same_state_is_refused(here: Place) -> None:
    with here.serving() as server:
        done = here.run("serve", "--state-file", "")
        assert done.code == 1
        assert "another server is running" in done.error
        assert inside(here) == []
        assert server.process.poll() is None


def test_a_second_server_on_the_same_port_is_refused(here: Place, tmp_path: Path) -> None:
    other = Place(tmp_path / "other", here.port)
    other.root.mkdir()
    other.prepare()
    with here.serving():
        done = other.run("serve", "--state-file", str(other.sessions))
        assert done.code == 1
        assert f"{here.port}/udp is in use" in done.error
        assert not other.sessions.exists()


def test_a_knock_port_that_another_program_has_is_named(here: Place) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", here.port))
        done = here.run("serve", "--state-file", "")
    assert done.code == 1
    assert f"{here.port}/udp is in use" in done.error
    assert f"(process {os.getpid()} of user " in done.err


def test_a_health_port_that_another_program_has_is_named_and_left_to_it(here: Place) -> None:
    with socket.create_server(("0.0.0.0", here.port)), here.serving() as server:
        assert f"openme does not listen on health_port {here.port}/tcp (it is in use by " in server.log
        assert f"(process {os.getpid()} of user " in server.log


def test_a_loose_config_is_refused(here: Place) -> None:
    here.config.chmod(0o644)
    done = here.run("serve", "--state-file", "")
    assert done.code == 1
    assert "0644" in done.error
    assert not list(here.state.glob("*.db"))


def test_an_unknown_run_as_is_refused_as_root(here: Place) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives up rights")
    here.write(here.config.read_text().replace("  hide_udp_errors:", "  run_as: nosuchuser\n  hide_udp_errors:"))
    done = here.run("serve", "--state-file", "")
    assert done.code == 1
    assert "nosuchuser" in done.error


def test_a_first_start_that_is_refused_is_no_loss_to_the_next(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives up rights")
    here = place(tmp_path)
    here.prepare()
    here.root.chmod(0o777)  # so that the user of run_as could write the config
    here.write(here.config.read_text().replace("  # run_as: openme", "  run_as: daemon"))
    assert "could write" in here.run("serve", "--state-file", "").error
    here.root.chmod(0o700)
    with here.serving() as server:
        assert "may be incomplete" not in server.log


def test_a_config_that_breaks_while_it_runs_changes_nothing_and_is_said(here: Place) -> None:
    alice = here.client("alice")
    good = here.config.read_text()
    with here.serving() as server:
        here.write(good.replace("clients:", "clinets:"))
        server.logs("the config on disk is NOT in force")
        knock(here, alice)
        server.logs("alice: opened")
        here.config.unlink()
        assert here.run("list").code == 1
        knock(here, alice)
        until(lambda: server.log.count("alice: opened") == 2, "a second door")
        here.write(good)
        server.logs("config in force")


def test_add_and_revoke_reach_the_running_server(here: Place) -> None:
    with here.serving() as server:
        alice = here.client("alice")
        knock(here, alice)
        server.logs("alice: opened")
        assert inside(here) == ["alice"]
        assert "open doors are closed" in here.ok("revoke", "alice").err
        assert inside(here) == []
        server.logs("alice: closed for 203.0.113.5 (revoked)")
        packet = knock(here, alice)
        bob = here.client("bob")
        knock(here, bob)
        server.logs("bob: opened")
        assert server.log.count("alice: opened") == 1
        assert len(packet) == 165


def test_doors_close_by_themselves(here: Place) -> None:
    here.set("knock_timeout", "1s")
    alice = here.client("alice")
    with here.serving() as server:
        knock(here, alice)
        server.logs("alice: opened")
        server.logs("alice: closed for 203.0.113.5 (its time is over)")
        assert inside(here) == []


def test_a_knock_for_the_servers_own_address_opens_nothing(here: Place) -> None:
    alice = here.client("alice")
    with here.serving() as server:
        knock(here, alice, "")
        server.logs("alice: refused: loopback")
        assert inside(here) == []


def test_no_secret_is_in_the_log_or_the_process_list(here: Place) -> None:
    alice = here.client("alice")
    secrets = re.findall(r"private_key: \"?([A-Za-z0-9+/=]+)", here.config.read_text() + alice.read_text())
    assert len(secrets) == 2
    with here.serving("--log-level", "debug") as server:
        send(here, knock(here, alice))
        server.logs("refused: replay")
        command_line = Path(f"/proc/{server.process.pid}/cmdline").read_text()
        server.end()
        assert not any(secret in server.log + command_line for secret in secrets)


def test_json_logs_are_one_object_a_line(here: Place) -> None:
    alice = here.client("alice")
    with here.serving("--log-json") as server:
        knock(here, alice)
        server.logs('"event": "accepted"')
        server.end()
        values = [json.loads(line) for line in server.log.splitlines()]
    assert any(value.get("client") == "alice" for value in values)


def test_files_of_the_state_are_the_owners_alone(here: Place) -> None:
    alice = here.client("alice")
    here.state.chmod(0o755)
    with here.serving() as server:
        knock(here, alice)
        server.logs("alice: opened")
        assert stat.S_IMODE(here.state.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in here.state.iterdir()} == {0o600}


def test_sessions_without_a_server_says_so(here: Place) -> None:
    if Path("/run/openme/sessions.json").exists():
        pytest.skip("a server runs on this machine")
    done = here.run("sessions")
    assert done.code == 1
    assert "no server is running" in done.error
    assert "openme serve" in done.err


@pytest.mark.parametrize("content", [None, "", "[]", "{}", "garbage"])
def test_sessions_of_what_is_no_state_file_is_one_line(here: Place, content: str | None) -> None:
    path = here.root / "x.json"
    if content is not None:
        path.write_text(content)
    done = here.run("sessions", "--state-file", str(path))
    assert done.code == 1
    assert "x.json" in done.error


def test_sessions_refreshes_until_ctrl_c(here: Place) -> None:
    with here.serving():
        watching = subprocess.Popen(
            here.command("sessions", "-w", "--json"),
            env=here.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert watching.stdout is not None
        shown = 0
        while shown < 2:
            line = watching.stdout.readline()
            assert line
            shown += "updated_at" in line
        watching.send_signal(signal.SIGINT)
        _, err = watching.communicate(timeout=20)
        assert watching.returncode == 0
        assert err == ""


def test_a_hangup_makes_it_look_at_the_config(here: Place) -> None:
    with here.serving() as server:
        server.process.send_signal(signal.SIGHUP)
        server.logs("asked to look at the config")
        assert alive(server)


def alive(server: Server) -> bool:
    return server.process.poll() is None


def test_a_request_that_makes_no_sense_is_answered_with_an_error(here: Place) -> None:
    with here.serving() as server:
        for request in (b"garbage", b"{}", b"[]", b'{"command": 1}', b'{"command": "nope"}', b"1", b'"x"'):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(10)
                sock.connect(str(here.state / SOCKET_NAME))
                sock.send(request)
                assert "error" in json.loads(sock.recv(1 << 16))
        assert alive(server)
