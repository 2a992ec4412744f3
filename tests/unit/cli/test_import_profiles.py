"""What `openme import` takes of a profile: never what was not asked for, whatever the file says by then."""

from argparse import Namespace
from pathlib import Path

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
