"""The first moments of a command."""

from pathlib import Path

import pytest
import yaml

from openme.cli.main import main

FIELDS_OF_VERSION_1 = {"server_host", "server_udp_port", "server_pubkey", "private_key", "public_key"}


def test_help_and_a_command_is_that_commands_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["help", "add"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: openme add ")


@pytest.mark.parametrize("words", [["-v"], ["--version"], ["list", "-v"]])
def test_the_version_is_told_before_and_after_a_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("openme ")


@pytest.mark.parametrize("place", ["before", "after"])
def test_warn_is_a_log_level_and_a_version_1_profile_has_no_field_that_existing_clients_lack(
    place: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config, level = tmp_path / "config.yaml", ["--log-level", "warn"]
    words = ["init", "--server", "vpn.example.org", "--state-dir", str(tmp_path / "state"), "--config", str(config)]
    assert main([*level, *words] if place == "before" else [*words, *level]) == 0
    capfd.readouterr()
    assert main(["add", "alice", "--v1", "--config", str(config)]) == 0
    profile = yaml.safe_load(capfd.readouterr().out)
    assert profile.keys() == {"profiles"}
    assert profile["profiles"]["default"].keys() == FIELDS_OF_VERSION_1
