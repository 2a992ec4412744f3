"""init, add, list, revoke and check-config, as transcripts of the real command."""

import base64
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
import zxingcpp

from openme.config.server import load_server_config
from openme.keys.ed25519 import ClientPrivateKey, parse_private_key
from openme.processes.own_user import user_at_hand
from support.command import Place, place
from support.png import gray

OWN = ClientPrivateKey(b"\x21" * 32).public
SSH_LINE = (
    "ssh-ed25519 " + base64.b64encode(b"\x00\x00\x00\x0bssh-ed25519\x00\x00\x00\x20" + OWN.raw).decode() + " me@home"
)


@pytest.fixture
def new(tmp_path: Path) -> Place:
    return place(tmp_path)


@pytest.fixture
def here(new: Place) -> Place:
    new.prepare()
    return new


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- init


def test_init_makes_a_config_and_a_state_directory_for_the_owner_alone(new: Place) -> None:
    done = new.init()
    config = load_server_config(new.config)
    assert done.out.strip() == base64.b64encode(config.public_key).decode()
    assert (mode(new.config), mode(new.state)) == (0o600, 0o700)
    assert (config.host, config.udp_port, config.firewall, config.drop_ports) == ("127.0.0.1", new.port, "memory", True)
    assert base64.b64encode(config.private_key.raw).decode() not in done.out + done.err


def test_init_refuses_to_overwrite(here: Place) -> None:
    before = here.config.read_bytes()
    done = here.run("init", "--server", "other", "--state-dir", str(here.state))
    assert done.code == 1
    assert "already there" in done.error
    assert done.out == ""
    assert here.config.read_bytes() == before


def test_init_force_makes_new_keys_and_keeps_every_old_config(here: Place) -> None:
    texts = [here.config.read_bytes()]
    for _round in range(3):
        here.init("--force")
        texts.append(here.config.read_bytes())
    kept = list(here.root.glob("config.yaml.old-*"))
    assert len(set(texts)) == 4
    assert {path.read_bytes() for path in kept} == set(texts[:3])
    assert {mode(path) for path in kept} == {0o600}


def test_init_names_the_known_interfaces_for_an_unknown_one(new: Place) -> None:
    done = new.run("init", "--server", "h", "--interface", "nope0", "--state-dir", str(new.state))
    assert done.code == 1
    assert "nope0" in done.error
    assert "known interfaces: " in done.err
    assert "lo" in done.err
    assert list(new.root.iterdir()) == []


def test_init_takes_an_interface_that_is_there(new: Place) -> None:
    new.init("--interface", "lo")
    assert load_server_config(new.config).interface == "lo"


def test_init_without_a_server_is_wrong_usage(new: Place) -> None:
    done = new.run("init")
    assert done.code == 2
    assert "--server" in done.error


@pytest.mark.parametrize("port", ["0", "65536", "x", "-1", "\u0667"])
def test_init_refuses_what_is_no_port(new: Place, port: str) -> None:
    done = new.run("init", "--server", "h", f"--port={port}", "--state-dir", str(new.state))
    assert done.code == 2
    assert "65535" in done.error


def test_init_leaves_nothing_behind_when_it_cannot_write(new: Place) -> None:
    (new.root / "file").write_text("")
    done = new.run(
        "--config", str(new.root / "file" / "config.yaml"), "init", "--server", "h", "--state-dir", "/dev/null/x"
    )
    assert done.code == 1
    assert done.error
    assert [p.name for p in new.root.iterdir()] == ["file"]


# -- add


def profile(text: str, name: str = "default") -> dict[str, object]:
    value = yaml.safe_load(text)["profiles"][name]
    assert isinstance(value, dict)
    return value


def test_add_prints_a_complete_profile_and_nothing_else(here: Place) -> None:
    done = here.ok("add", "alice", "--v1")
    config, value = load_server_config(here.config), profile(done.out)
    assert value["server_host"] == "127.0.0.1"
    assert value["server_udp_port"] == here.port
    assert value["server_pubkey"] == base64.b64encode(config.public_key).decode()
    private = parse_private_key(str(value["private_key"]))
    assert value["public_key"] == str(private.public)
    assert config.clients["alice"].public_key == private.public
    assert str(value["private_key"]) not in done.err
    assert private.public.fingerprint in done.err
    assert mode(here.config) == 0o600


def test_add_into_a_file_leaves_it_to_its_owner(here: Place) -> None:
    done = here.shell("umask 022; openme add alice > alice.yaml")
    assert done.code == 0
    assert mode(here.root / "alice.yaml") == 0o600
    assert profile((here.root / "alice.yaml").read_text())["private_key"]


@pytest.mark.parametrize("key", [str(OWN), SSH_LINE], ids=["base64", "openssh"])
def test_add_with_a_public_key_makes_no_private_one(here: Place, key: str) -> None:
    value = profile(here.ok("add", "alice", "--pubkey", key).out)
    assert "private_key" not in value
    assert value["public_key"] == str(OWN)
    assert load_server_config(here.config).clients["alice"].public_key == OWN


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--pubkey", base64.b64encode(bytes(32)).decode()], 1, "prime order"),
        (["--pubkey", base64.b64encode(b"\1" + bytes(31)).decode()], 1, "prime order"),
        (["--pubkey", "ssh-rsa AAAA"], 2, "ssh-rsa"),
        (["--pubkey", "c2hvcnQ="], 2, "32 bytes"),
        (["--ports", "22/sctp"], 2, "port"),
        (["--ports", "nogroup"], 1, "there is no group nogroup"),
        (["--ports", "0"], 2, "port"),
        (["--expires", "tomorrow"], 2, "2026-12-31T00:00:00Z"),
        (["--expires", "2026-13-01T00:00:00Z"], 2, "--expires"),
        (["--qr", "--pubkey", str(OWN)], 2, "--pubkey makes none"),
        (["--qr-out", "x.png", "--pubkey", str(OWN)], 2, "--pubkey makes none"),
        (["--qr-out", "x.gif"], 2, ".png or .svg"),
        (["--qr-out", "/nonexistent/x.png"], 1, "/nonexistent/x.png"),
        (["--prots", "22"], 2, "--prots"),
    ],
)
def test_add_refuses_a_bad_value_and_registers_nobody(here: Place, words: list[str], code: int, says: str) -> None:
    before = here.config.read_bytes()
    done = here.run("add", "alice", *words)
    assert done.code == code
    assert says in done.error
    assert done.out == ""
    assert here.config.read_bytes() == before


@pytest.mark.parametrize("name", ["alice", "-x", ".x", "a b", "a/b", "", "x" * 65, "a\nb"])
def test_add_refuses_a_taken_or_unfit_name(here: Place, name: str) -> None:
    here.ok("add", "alice")
    before = here.config.read_bytes()
    done = here.run("add", "--", name)
    assert done.code == (1 if name == "alice" else 2)
    assert done.error
    assert here.config.read_bytes() == before


def test_add_without_a_name_is_wrong_usage(here: Place) -> None:
    assert here.run("add").code == 2


def test_add_writes_ports_and_expiry(here: Place) -> None:
    here.ok("add", "alice", "--ports", "default, 443/tcp,8080-8090", "--expires", "2027-01-01T01:00:00+01:00")
    client = load_server_config(here.config).clients["alice"]
    assert client.allowed_ports == ("default", "443/tcp", "8080-8090")
    assert [str(p) for p in client.ports] == ["22/tcp", "443/tcp", "8080-8090/tcp", "8080-8090/udp"]
    assert str(client.expires) == "2027-01-01 00:00:00+00:00"


def test_add_warns_of_an_expiry_that_is_over(here: Place) -> None:
    assert "lies in the past" in here.ok("add", "alice", "--expires", "2020-01-01T00:00:00Z").err


def test_add_names_the_profile_as_asked(here: Place) -> None:
    assert profile(here.ok("add", "alice", "--profile", "my server").out, "my server")
    here.set("default_profile", "work")
    assert profile(here.ok("add", "bob").out, "work")


def test_the_qr_code_is_what_the_phone_apps_scan(here: Place) -> None:
    path = here.root / "alice.png"
    done = here.ok("add", "alice", "--profile", "phone", "--qr-out", str(path))
    assert mode(path) == 0o600
    (code,) = zxingcpp.read_barcodes(gray(path.read_bytes()))
    value = json.loads(code.text)
    yaml_profile = profile(done.out, "phone")
    assert value == {
        "profile": "phone",
        "host": "127.0.0.1",
        "udp_port": here.port,
        "server_pubkey": yaml_profile["server_pubkey"],
        "client_privkey": yaml_profile["private_key"],
        "client_pubkey": yaml_profile["public_key"],
    }


def test_a_qr_code_on_the_terminal_leaves_stdout_to_the_profile(here: Place) -> None:
    done = here.ok("add", "alice", "--qr")
    assert profile(done.out)["private_key"]
    assert "\u2588" in done.err or "\u2580" in done.err


def test_a_profile_that_could_not_be_written_stays_unregistered(here: Place) -> None:
    done = here.shell("openme add alice > /dev/full")
    assert done.code == 1
    assert "could not be written" in done.error
    assert "alice" not in load_server_config(here.config).clients
    assert "Exception ignored" not in done.err


def test_a_closed_stdout_registers_nobody(here: Place) -> None:
    done = here.shell("openme add alice >&-")
    assert done.code == 1
    assert done.error
    assert "alice" not in load_server_config(here.config).clients


def test_twenty_adds_at_once_lose_nobody(here: Place) -> None:
    names = [f"client{n}" for n in range(20)]
    with ThreadPoolExecutor(8) as pool:
        outs = list(pool.map(lambda name: here.ok("add", name).out, names))
    clients = load_server_config(here.config).clients
    assert sorted(clients) == sorted(names)
    assert [str(clients[n].public_key) for n in names] == [profile(out)["public_key"] for out in outs]


def test_add_keeps_the_comments_of_the_file(here: Place) -> None:
    before = here.config.read_text()
    here.write(f"# mine\n{before}# end\n")
    here.ok("add", "alice")
    here.ok("add", "bob")
    here.ok("revoke", "alice")
    here.ok("revoke", "bob")
    assert here.config.read_text() == f"# mine\n{before}# end\n"


# -- list and revoke


def test_list_shows_every_client_and_json_the_same_for_programs(here: Place) -> None:
    here.ok("add", "alice")
    here.ok("add", "bob", "--ports", "443/tcp", "--expires", "2020-01-01T00:00:00Z")
    out = here.ok("list").out
    heading, alice, bob = out.splitlines()
    assert heading.split() == ["NAME", "FINGERPRINT", "PORTS", "EXPIRES", "LAST", "KNOCK"]
    assert alice.startswith("alice")
    assert "22/tcp" in alice
    assert "never" in alice
    assert "(expired)" in bob
    first, second = here.ok("list", "--json").json()
    assert (first["name"], first["ports"], first["expires"], first["last_knock"]) == ("alice", ["22/tcp"], None, None)
    assert (second["ports"], second["expires"]) == (["443/tcp"], "2020-01-01T00:00:00Z")
    assert first["fingerprint"] == load_server_config(here.config).clients["alice"].public_key.fingerprint


def test_list_without_clients_hints_at_add(here: Place) -> None:
    done = here.ok("list")
    assert done.out == ""
    assert "openme add" in done.err
    assert here.ok("list", "--json").json() == []


def test_list_says_which_client_a_fault_disables(here: Place) -> None:
    here.ok("add", "alice")
    here.write(here.config.read_text().replace("ed25519_pubkey", "ed25519_pubkee"))
    done = here.ok("list")
    assert "disabled" in done.err
    assert "alice" in done.err


def test_a_revoked_client_is_gone_and_an_unknown_one_is_refused(here: Place) -> None:
    here.ok("add", "alice")
    here.ok("revoke", "alice")
    assert load_server_config(here.config).clients == {}
    done = here.run("revoke", "alice")
    assert done.code == 1
    assert "alice" in done.error


def test_revoke_hints_at_the_nearest_name(here: Place) -> None:
    here.ok("add", "alice")
    done = here.run("revoke", "alicee")
    assert done.code == 1
    assert "alice" in done.err.split("hint:")[1]


# -- check-config


def test_check_config_of_a_fresh_file_is_fine(here: Place) -> None:
    assert "NOBODY CAN OPEN WHAT IS HIDDEN: no client is registered" in here.ok("check-config").err
    here.ok("add", "alice")
    assert here.ok("check-config").out.endswith(": fine (clients: 1, managed port ranges: 2)\n")
    _, not_root = user_at_hand(None)  # a warning, for whoever runs the tests as another user
    warnings = [] if not_root is None else [not_root]
    assert here.ok("check-config", "--json").json() == {"ok": True, "faults": [], "warnings": warnings}


@pytest.mark.parametrize(
    ("old", "new_text", "says"),
    [
        ("knock_timeout:", "knock_timeot:", "knock_timeot"),
        ("22/tcp", "99999/tcp", "port"),
        ("clients: {}", "clients: {alice: {ed25519_pubkey: abc}}", "clients.alice"),
        ("clients: {}", "clients: [", "config.yaml:"),
        ("  hide_udp_errors:", "  interface: nope0\n  hide_udp_errors:", "nope0"),
    ],
)
def test_check_config_names_what_is_wrong(here: Place, old: str, new_text: str, says: str) -> None:
    text = here.config.read_text()
    assert old in text
    here.write(text.replace(old, new_text))
    done = here.run("check-config")
    assert done.code == 1
    assert says in done.err
    assert "fine" not in done.out
    done = here.run("check-config", "--json")
    assert done.code == 1
    assert done.json()["ok"] is False
    assert any(says in fault for fault in done.json()["faults"])


def test_check_config_shows_every_fault_at_once(here: Place) -> None:
    text = here.config.read_text().replace("knock_timeout: 30s", "knock_timeout: never").replace("22/tcp", "0/tcp")
    here.write(text)
    err = here.run("check-config").err
    assert "server.knock_timeout" in err
    assert "ports.default" in err


@pytest.mark.parametrize(("loose", "code"), [(0o644, 1), (0o602, 1), (0o660, 1), (0o640, 0)])
def test_check_config_refuses_a_file_that_others_can_read(here: Place, loose: int, code: int) -> None:
    here.config.chmod(loose)
    done = here.run("check-config")
    assert done.code == code
    assert "chmod 600" in done.err


def test_a_missing_config_is_one_line_and_the_way_out(new: Place) -> None:
    for words in (["list"], ["add", "alice"], ["check-config"], ["sessions"], ["revoke", "x"], ["serve"]):
        done = new.run(*words)
        assert done.code == 1
        assert "config.yaml" in done.error
        assert "openme init" in done.err
