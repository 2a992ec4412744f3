"""What `revoke` and `unhide` do to `hide:`: the list changes, and every other byte stays."""

from pathlib import Path

import pytest

from openme.config.edit import delete_client_hiding, delete_hidden
from openme.config.faults import ConfigError
from openme.config.server import parse_server_config
from openme.ports import PortRange, merged, parse_port_spec

PATH = Path("config.yaml")
HEAD = """\
server:
  private_key: AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=
ports:
  default: [22/tcp]  # ssh
  web: [80, 443/tcp]
"""
CLIENTS = """\

# Who may knock.
clients:
  alice:
    ed25519_pubkey: A
    allowed_ports: [web, 8080-8090/tcp, 22/tcp]
  # bob's line
  bob:
    ed25519_pubkey: B
    allowed_ports: [8085/tcp, 9]
"""


def ports(*specs: str) -> tuple[PortRange, ...]:
    return merged(r for spec in specs for r in parse_port_spec(spec))


def revoked(hide: str, name: str = "bob") -> str:
    """The text between the groups and the clients after a revocation; all else is as it was."""
    edited = delete_client_hiding(HEAD + hide + CLIENTS, PATH, name)
    assert edited.startswith(HEAD)
    return edited[len(HEAD) : edited.index("# Who may knock.")].removesuffix("\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "\nhide: [9/tcp, 9/udp]\n"),
        ("hide:\n", "hide: [9/tcp, 9/udp]\n"),
        ("hide:  # what we had\n", "hide: [9/tcp, 9/udp]  # what we had\n"),
        ("hide: ~\n", "hide: [9/tcp, 9/udp]\n"),
        ("hide: []\n", "hide: [9/tcp, 9/udp]\n"),
        ("hide: [1/tcp]  # old\n", "hide: [1/tcp, 9/tcp, 9/udp]  # old\n"),
        ('hide: ["1/tcp",]\n', 'hide: ["1/tcp", 9/tcp, 9/udp,]\n'),
        ("hide: [1/tcp,\n       2/tcp]  # two\n", "hide: [1/tcp,\n       2/tcp, 9/tcp, 9/udp]  # two\n"),
        ("hide:\n  - 1/tcp  # one\n", "hide:\n  - 1/tcp  # one\n  - 9/tcp\n  - 9/udp\n"),
        ("hide:\n- 1/tcp\n# end\n", "hide:\n- 1/tcp\n- 9/tcp\n- 9/udp\n# end\n"),
        ("hide: [9]\n", "hide: [9]\n"),
        ("hide: [9/udp]\n", "hide: [9/udp, 9/tcp]\n"),
    ],
)
def test_what_only_the_revoked_client_named_is_listed(before: str, after: str) -> None:
    assert revoked(before) == after


@pytest.mark.parametrize("hide", ["hide: &x [1/tcp]\n", "hide: nonsense\n", "hide: {a: b}\n", "hide:\n  - [1]\n"])
def test_an_unusual_list_does_not_keep_the_client_in(hide: str) -> None:
    assert revoked(hide) == hide


def test_what_groups_and_others_name_is_not_listed() -> None:
    edited = delete_client_hiding(HEAD + CLIENTS, PATH, "alice")
    assert "hide: [8080-8084/tcp, 8086-8090/tcp]\n" in edited, "22 and web are groups', 8085 is bob's"
    assert "# bob's line\n" in edited


def test_a_client_with_groups_alone_leaves_nothing_to_list() -> None:
    text = HEAD + CLIENTS.replace("[8085/tcp, 9]", "[web]")
    assert "hide" not in delete_client_hiding(text, PATH, "bob")


def test_a_group_that_is_called_like_a_port_is_a_group() -> None:
    text = (HEAD + CLIENTS).replace("  web:", "  9:").replace("[web, ", "[")
    assert "hide" not in delete_client_hiding(text.replace("[8085/tcp, 9]", "[9]"), PATH, "bob")


def test_an_alias_in_the_list_is_left_as_it_is() -> None:
    head = HEAD.replace("[22/tcp]", "[&ssh 22/tcp]")
    edited = delete_client_hiding(head + "hide: [1/tcp, *ssh]\n" + CLIENTS, PATH, "bob")
    assert edited.startswith(head + "hide: [1/tcp, *ssh]\n")
    assert "bob:" not in edited


def test_line_ends_and_marks_stay() -> None:
    text = "\ufeff" + (HEAD + "hide:\n  - 1/tcp\n" + CLIENTS).replace("\n", "\r\n")
    edited = delete_client_hiding(text, PATH, "bob")
    assert edited.startswith("\ufeff")
    assert "  - 1/tcp\r\n  - 9/tcp\r\n  - 9/udp\r\n" in edited
    assert edited.count("\n") == edited.count("\r\n")


def test_the_last_client_and_a_file_without_groups() -> None:
    text = "server: {}\nclients:\n  bob: {allowed_ports: [9/tcp]}\n"
    assert delete_client_hiding(text, PATH, "bob") == "server: {}\nhide: [9/tcp]\n\nclients: {}\n"


def test_a_file_in_one_line_is_edited_as_far_as_it_goes() -> None:
    assert delete_client_hiding("{clients: {bob: {allowed_ports: [9/tcp]}}}\n", PATH, "bob") == "{clients: {}}\n"
    text = "{hide: [1/tcp], clients: {bob: {allowed_ports: [9/tcp]}}}\n"
    assert delete_client_hiding(text, PATH, "bob") == "{hide: [1/tcp, 9/tcp], clients: {}}\n"


@pytest.mark.parametrize(
    ("before", "taken", "after"),
    [
        ("hide: [9/tcp, 80]  # x\n", "9/tcp", "hide: [80]  # x\n"),
        ("hide: [9/tcp, 80]\n", "80/tcp", "hide: [9/tcp, 80/udp]\n"),
        ("hide: [9/tcp]\n", "9", "hide: []\n"),
        ("hide: [8080-8090/tcp]\n", "8085/tcp", "hide: [8080-8084/tcp, 8086-8090/tcp]\n"),
        ("hide:\n  - 9/tcp  # nine\n  - 8080-8090\n", "9/tcp", "hide:\n  - 8080-8090\n"),
        (
            "hide:\n  # first\n  - 8080-8090/tcp  # many\n  - 1/tcp\n",
            "8085",
            "hide:\n  # first\n  - 8080-8084/tcp  # many\n  - 8086-8090/tcp\n  - 1/tcp\n",
        ),
        ("hide:\n  - 9/tcp\n", "9/tcp", "hide:\n"),
        ("hide: [1/tcp]\n", "9/tcp", "hide: [1/tcp]\n"),
        ("", "9/tcp", ""),
    ],
)
def test_unhide_takes_off_what_is_named(before: str, taken: str, after: str) -> None:
    assert delete_hidden(HEAD + before + CLIENTS, PATH, ports(taken)) == HEAD + after + CLIENTS


@pytest.mark.parametrize("hide", ["hide: [9/tcp,\n  1/tcp]\n", "hide: &x [9/tcp]\n", "hide:\n  - 'x'\n  - [9/tcp]\n"])
def test_unhide_refuses_an_unusual_list(hide: str) -> None:
    with pytest.raises(ConfigError, match="cannot be edited safely"):
        delete_hidden(HEAD + hide + CLIENTS, PATH, ports("9/tcp"))


def config(hide: str) -> str:
    return HEAD + hide + "clients: {}\n"


def test_hide_is_read_merged_and_managed() -> None:
    parsed = parse_server_config(config("hide: [8081/tcp, 8080, 53/udp]\n"), PATH)
    assert parsed.hide == ports("8080-8081/tcp", "8080/udp", "53/udp")
    assert set(ports("53/udp")) <= set(parsed.managed_ports)
    assert not set(ports("53/udp")) & set(parsed.named_ports)
    for empty in ("", "hide:\n", "hide: []\n"):
        assert parse_server_config(config(empty), PATH).hide == ()


@pytest.mark.parametrize(
    ("hide", "message"),
    [
        ("hide: [web]\n", "config.yaml:6: hide: expected a port such as"),
        ("hide:\n  - 1/tcp\n  - 0/tcp\n", "config.yaml:8: hide: "),
        ("hide: 22/tcp\n", "config.yaml:6: hide: expected a list such as"),
        ("hidden: [1/tcp]\n", "config.yaml:6: hidden: unknown key"),
    ],
)
def test_a_fault_in_hide_names_its_line(hide: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_server_config(config(hide), PATH)
    assert caught.value.message.startswith(message)
