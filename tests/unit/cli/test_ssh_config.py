"""The stanzas of `openme ssh-config`; what ssh makes of them is in tests/cli."""

import sys

import pytest

from openme.cli.ssh_config import own_command, quoted, stanzas
from openme.config.profile_model import Profile
from support.knocks import ALICE, SERVER

BASE = Profile("x", "host.example", SERVER.public, 9, 10, ALICE, ALICE.public)
OPENME = ["/usr/local/bin/openme"]


def profiles(**hosts: str) -> list[Profile]:
    return [BASE._replace(name=name, server_host=host) for name, host in hosts.items()]


def test_a_stanza_names_profile_and_host_and_knocks_with_that_profile() -> None:
    text, left_out = stanzas(profiles(office="office.example"), OPENME)
    assert text == (
        "Host office office.example\n"
        "    HostName office.example\n"
        "    ProxyCommand /usr/local/bin/openme connect --profile office %h %p"
    )
    assert left_out == []


def test_nobody_writes_ssh_default() -> None:
    text, _ = stanzas(profiles(default="office.example"), OPENME)
    assert text.startswith("Host office.example\n")


def test_two_profiles_for_one_host_are_told_apart_by_their_names() -> None:
    text, left_out = stanzas(profiles(one="h.example", two="h.example"), OPENME)
    assert [line for line in text.splitlines() if line.startswith("Host ")] == ["Host one h.example", "Host two"]
    assert left_out == []
    assert stanzas(profiles(one="h.example", default="h.example"), OPENME)[1] == ["default"]


def test_a_name_that_is_no_host_for_ssh_leaves_the_server_host_alone() -> None:
    for name in ("my office", "*", "a*", "!a", 'a"b', "a,b", "-o", "#x", "it's"):
        text, left_out = stanzas(profiles(**{name: "h.example"}), OPENME)
        assert text.startswith("Host h.example\n"), name
        assert left_out == []


@pytest.mark.parametrize("host", ["*", "a;b", "$(x)", "-oProxyCommand=x", "a|b", '"', "#", "a?", "!a", "a,b"])
def test_a_server_host_that_ssh_would_read_otherwise_has_no_stanza(host: str) -> None:
    assert stanzas(profiles(a=host, b="b.example"), OPENME)[1] == ["a"]
    assert host not in stanzas(profiles(a=host, b="b.example"), OPENME)[0].splitlines()[0].split()


def test_an_address_with_a_zone_keeps_its_percent_sign() -> None:
    assert "    HostName fe80::1%%eth0\n" in stanzas(profiles(a="fe80::1%eth0"), OPENME)[0]


def test_a_word_is_plain_or_has_a_backslash_for_each_odd_character() -> None:
    assert quoted("/usr/local/bin/openme-3.11_x@y") == "/usr/local/bin/openme-3.11_x@y"
    assert quoted("a b'c\"d$e\\f%g~h#ü") == "a\\ b\\'c\\\"d\\$e\\\\f%%g\\~h\\#\\ü"


def test_the_program_is_named_by_the_path_that_it_was_found_under() -> None:
    assert own_command("/usr/local/bin/openme") == ["/usr/local/bin/openme"]
    assert own_command("/opt/openme/venv/lib/openme/__main__.py") == [sys.executable, "-m", "openme"]
    (relative,) = own_command("venv/bin/openme")
    assert relative.startswith("/")
    assert relative.endswith("/venv/bin/openme")
