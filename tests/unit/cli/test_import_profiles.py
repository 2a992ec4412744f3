"""What `openme import` takes of a profile: never what was not asked for, whatever the file says by then."""

from argparse import Namespace
from pathlib import Path

import pytest

from openme.cli.import_profiles import _agreed
from openme.config.offered import offered_untrusted
from openme.config.profile_merge import Step

TEXT = b"""profiles:
  home:
    public_key: 11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
    post_knock: evil
"""  # RFC 8032 section 7.1, test 1


def test_a_command_that_the_files_own_kept_out_does_not_come_in_once_that_is_gone() -> None:
    offers = offered_untrusted(TEXT, Path("given"))
    args = Namespace(take=["post_knock"], dry_run=False)
    (kept_out,) = _agreed(args, offers, [Step("unchanged", "home", (), ("post_knock",))])
    assert list(kept_out.fields) == ["public_key"]
    (taken,) = _agreed(args, offers, [Step("added", "home", ("public_key", "post_knock"))])
    assert taken.fields["post_knock"] == "evil"


@pytest.mark.parametrize("ip", ["203.0.113.9", "2001:db8::9", "https://pages.example/ip"])
def test_whose_address_opens_is_nothing_that_a_file_decides(ip: str, capsys: pytest.CaptureFixture[str]) -> None:
    (offer,) = offered_untrusted(TEXT + f"    ip: {ip}\n".encode(), Path("given"))
    steps = [Step("added", "home", ("public_key", "ip"))]
    (kept_out,) = _agreed(Namespace(take=[], dry_run=True), [offer], steps)
    assert "ip" not in kept_out.fields
    assert "would ask: each knock for profile home is to open the door for the address" in capsys.readouterr().out
    (taken,) = _agreed(Namespace(take=["ip"], dry_run=False), [offer], steps)
    assert taken.fields["ip"] == ip


@pytest.mark.parametrize("ip", ["auto", "source"])
def test_a_word_for_our_own_address_is_taken_with_the_rest(ip: str) -> None:
    (offer,) = offered_untrusted(TEXT + f"    ip: {ip}\n".encode(), Path("given"))
    (taken,) = _agreed(Namespace(take=[], dry_run=False), [offer], [Step("added", "home", ("public_key", "ip"))])
    assert taken.fields["ip"] == ip
