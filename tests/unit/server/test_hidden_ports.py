"""The set of hidden ports: what is written, what is read of a damaged file, what a refusing disk does."""

import logging
import stat
from math import inf
from pathlib import Path

import pytest

from openme.config.model import ServerConfig
from openme.config.server import parse_server_config
from openme.config.template import render_server_config
from openme.errors import OpenmeError
from openme.keys.x25519 import ServerPrivateKey
from openme.ports import PortRange, merged, parse_port_spec
from openme.server import hidden_ports
from openme.server.hidden_ports import (
    FILE_NAME,
    MAX_BYTES,
    RETRY,
    DamagedHiddenPortsError,
    HiddenPorts,
    parse_hidden_ports,
    read_hidden_ports,
    refuse_named,
    render_hidden_ports,
    unnamed,
    write_hidden_ports,
    write_kept_without,
)

TEXT = render_server_config(ServerPrivateKey(b"\x01" * 32))


def ports(*specs: str) -> tuple[PortRange, ...]:
    return merged(r for spec in specs for r in parse_port_spec(spec))


def config(group: str = "[22/tcp]", *, hide: str = "[]", drop_ports: bool = True) -> ServerConfig:
    text = TEXT.replace("default: [22/tcp]", f"default: {group}").replace("clients:", f"hide: {hide}\nclients:")
    return parse_server_config(
        text.replace("drop_ports: true", f"drop_ports: {str(drop_ports).lower()}"), Path("config.yaml")
    )


def test_the_file_is_as_it_is_documented(tmp_path: Path) -> None:
    write_hidden_ports(tmp_path, ports("8080-8090/tcp", "22/tcp", "8091/tcp"))
    assert render_hidden_ports(ports("22/tcp", "8080-8090/tcp")) == b"22/tcp\n8080-8090/tcp\ncheck f34529521616b31d\n"
    assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600
    assert read_hidden_ports(tmp_path) == ports("22/tcp", "8080-8091/tcp")


def test_of_an_empty_set_there_is_no_file(tmp_path: Path) -> None:
    assert read_hidden_ports(tmp_path) is None
    write_hidden_ports(tmp_path, ports("22"))
    write_hidden_ports(tmp_path, ())
    assert list(tmp_path.iterdir()) == []


WHOLE = render_hidden_ports(ports("22/tcp", "80", "8080-8090/tcp"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", ()),
        (WHOLE[:-1], ports("22/tcp", "80", "8080-8090/tcp")),
        (WHOLE[: WHOLE.index(b"80/udp")], ports("22/tcp", "80/tcp", "8080-8090/tcp")),
        (WHOLE[:-24], ports("22/tcp", "80", "8080-8090/tcp")),
        (WHOLE.replace(b"22/tcp", b"2\xff/tcp"), ports("80", "8080-8090/tcp")),
        (WHOLE.replace(b"22/tcp", b"23/tcp"), ports("23/tcp", "80", "8080-8090/tcp")),
        (WHOLE + b"9/tcp\n", ports("9/tcp", "22/tcp", "80", "8080-8090/tcp")),
        (b"\0" * 4096, ()),
        (b"22/tcp\n" * (MAX_BYTES // 7 + 2), ports("22/tcp")),
    ],
)
def test_what_can_be_read_of_a_damaged_file_counts(content: bytes, found: tuple[PortRange, ...]) -> None:
    assert parse_hidden_ports(content) == (found, False)


def test_every_flipped_bit_is_noticed() -> None:
    for place in range(len(WHOLE)):
        for bit in range(8):
            changed = bytearray(WHOLE)
            changed[place] ^= 1 << bit
            assert not parse_hidden_ports(bytes(changed))[1]


def test_a_damaged_file_is_told_kept_aside_and_put_right(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"8080/tcp\nrubbish\n")
    kept = HiddenPorts(tmp_path)
    assert kept.ports == ports("8080/tcp")
    assert "damaged" in caplog.text
    assert (tmp_path / FILE_NAME).exists(), "there is no moment without it"
    kept.note(config())
    assert read_hidden_ports(tmp_path) == ports("22/tcp", "8080/tcp")
    (aside,) = tmp_path.glob(f"{FILE_NAME}.damaged-*")
    assert aside.read_bytes() == b"8080/tcp\nrubbish\n"
    assert stat.S_IMODE(aside.stat().st_mode) == 0o600


def test_a_link_or_a_directory_in_its_place_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(WHOLE)
    (tmp_path / FILE_NAME).symlink_to(elsewhere)
    with pytest.raises(OpenmeError):
        read_hidden_ports(tmp_path)
    HiddenPorts(tmp_path).note(config())
    assert elsewhere.read_bytes() == WHOLE
    assert read_hidden_ports(tmp_path) == ports("22/tcp")
    other = tmp_path / "other"
    (other / FILE_NAME).mkdir(parents=True)
    with pytest.raises(OpenmeError):
        read_hidden_ports(other)
    HiddenPorts(other).note(config())


def test_it_only_grows_with_what_configs_name_and_without_the_health_port(tmp_path: Path) -> None:
    kept = HiddenPorts(tmp_path)
    for group in ("[22/tcp]", "[2222/tcp]", "[]"):
        kept.note(config(group, hide="[9/udp]"))
        kept.took(config(group))
    assert kept.ports == read_hidden_ports(tmp_path) == ports("22/tcp", "2222/tcp", "9/udp")
    assert HiddenPorts(tmp_path).ports == kept.ports


def test_rules_that_are_refused_leave_the_set_as_it_was(tmp_path: Path) -> None:
    kept = HiddenPorts(tmp_path)
    kept.note(config())
    before = kept.ports
    kept.note(config("[2222/tcp]"))
    kept.take_back(before)
    assert kept.ports == read_hidden_ports(tmp_path) == ports("22/tcp")


def test_drop_ports_false_empties_it_once_it_is_in_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept = HiddenPorts(tmp_path)
    kept.note(config())
    kept.note(config(drop_ports=False))
    assert kept.ports == ports("22/tcp")
    kept.took(config(drop_ports=False))
    assert (kept.ports, read_hidden_ports(tmp_path)) == ((), None)
    assert "22/tcp not hidden any more" in caplog.text


def test_a_trial_writes_nothing_new_until_it_has_passed(tmp_path: Path) -> None:
    write_hidden_ports(tmp_path, ports("80/tcp", "81/tcp"))
    kept = HiddenPorts(tmp_path, confirmed=False)
    kept.note(config())
    kept.tick(0.0)
    assert kept.ports == ports("22/tcp", "80-81/tcp")
    assert read_hidden_ports(tmp_path) == ports("80-81/tcp")
    kept.remove(ports("81"))
    assert read_hidden_ports(tmp_path) == ports("80/tcp")
    kept.confirm()
    assert read_hidden_ports(tmp_path) == ports("22/tcp", "80/tcp")


def test_a_trial_loses_nothing_of_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"80/tcp\n81/tcp\n")
    kept = HiddenPorts(tmp_path, confirmed=False)
    kept.note(config())
    kept.remove(ports("81"))
    assert read_hidden_ports(tmp_path) == ports("80/tcp")


def test_a_disk_that_refuses_is_told_once_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kept = HiddenPorts(tmp_path)
    kept.note(config())
    with monkeypatch.context() as patched:

        def refuse(*_: object) -> None:
            raise OpenmeError("no space left on device")

        patched.setattr(hidden_ports, "write_hidden_ports", refuse)
        kept.note(config("[2222/tcp]"))
        kept.note(config("[2223/tcp]"))
        with pytest.raises(OpenmeError):
            kept.remove(ports("22/tcp"))
        kept.tick(0.0)
        kept.take_back(ports("22/tcp"))
        assert kept.ports == ports("22/tcp")
        kept.note(config("[2222-2223/tcp]"))
    assert caplog.text.count("cannot be kept") == 1
    kept.tick(RETRY / 2)
    assert read_hidden_ports(tmp_path) == ports("22/tcp")
    kept.tick(RETRY)
    assert read_hidden_ports(tmp_path) == kept.ports
    assert "on the disk again" in caplog.text


def test_a_file_that_has_gone_is_written_again(tmp_path: Path) -> None:
    kept = HiddenPorts(tmp_path)
    kept.note(config())
    (tmp_path / FILE_NAME).unlink()
    kept.tick(0.0)
    assert read_hidden_ports(tmp_path) == ports("22/tcp")


def test_it_wakes_nobody_but_for_what_is_not_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = HiddenPorts(tmp_path)
    kept.note(config())
    assert (kept.next_at, HiddenPorts().next_at) == (inf, inf)
    with monkeypatch.context() as patched:
        patched.setattr(hidden_ports, "replace_file", refuse_to_write)
        kept.note(config("[22/tcp, 80/tcp]"))
        assert kept.next_at < 0, "at once"
        kept.tick(3.0)
        kept.tick(3.0 + RETRY - 0.001)
        assert kept.next_at == 3.0 + RETRY
    kept.tick(kept.next_at)
    assert kept.next_at == inf
    assert read_hidden_ports(tmp_path) == ports("22/tcp", "80/tcp")


def refuse_to_write(*_: object) -> None:
    raise OpenmeError("no room")


def test_a_directory_that_may_not_be_entered_any_more_stops_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = HiddenPorts(tmp_path)
    kept.note(config())

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        for name in ("lstat", "stat", "unlink", "rename"):
            patched.setattr(Path, name, refuse)
        patched.setattr("os.open", refuse)
        kept.tick(0.0)
        kept.tick(RETRY)
    assert caplog.text.count("cannot be kept") == 1
    assert kept.ports == ports("22/tcp")


def test_a_range_is_split(tmp_path: Path) -> None:
    kept = HiddenPorts(tmp_path)
    kept.note(config("[8080-8090/tcp]"))
    kept.remove(ports("8085"))
    assert kept.ports == read_hidden_ports(tmp_path) == ports("8080-8084/tcp", "8086-8090/tcp")
    write_kept_without(tmp_path, ports("8084-8086/tcp"))
    assert read_hidden_ports(tmp_path) == ports("8080-8083/tcp", "8087-8090/tcp")
    (tmp_path / FILE_NAME).write_bytes(b"1/tcp\n2/tcp\nchec")
    write_kept_without(tmp_path, ports("1"))
    assert read_hidden_ports(tmp_path) == ports("2/tcp")


def test_without_a_state_dir_nothing_is_written() -> None:
    kept = HiddenPorts()
    kept.note(config())
    kept.tick(0.0)
    kept.remove(ports("22"))
    assert kept.ports == ()


def test_what_is_hidden_though_nobody_names_it() -> None:
    assert unnamed(config(hide="[9/tcp]"), ports("22/tcp", "80/tcp", "54154/tcp")) == ports("9/tcp", "80/tcp")
    assert unnamed(config(drop_ports=False), ports("80/tcp")) == ()


@pytest.mark.parametrize(("spec", "word"), [("22", "group default"), ("1-100/tcp", "group"), ("54154", "health port")])
def test_what_is_named_is_refused_with_who_names_it(spec: str, word: str) -> None:
    with pytest.raises(OpenmeError, match=word):
        refuse_named(config(), ports(spec))
    refuse_named(config(hide="[9/tcp]"), ports("9", "22/udp"))


def test_the_error_of_a_damaged_file_names_it(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"22/tcp\n")
    with pytest.raises(DamagedHiddenPortsError) as caught:
        read_hidden_ports(tmp_path)
    assert str(tmp_path / FILE_NAME) in caught.value.message
    assert caught.value.ports == ports("22/tcp")
