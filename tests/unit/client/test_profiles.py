"""Which profile is meant by the host that somebody wants to reach."""

from pathlib import Path

import pytest

from openme.client.errors import ProfileError
from openme.client.profiles import leads_to, profile_for
from openme.config.profile_model import ClientConfig, Profile
from support.knocks import ALICE, SERVER

BASE = Profile("x", "host.example", SERVER.public, 9, 10, ALICE, ALICE.public)


def config(**hosts: str) -> ClientConfig:
    """Profiles by name, each for a host."""
    return ClientConfig(
        Path("/home/alice/config.yaml"),
        {name: BASE._replace(name=name, server_host=host) for name, host in hosts.items()},
    )


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("office.example", "office"),
        ("OFFICE.Example.", "office"),
        ("office", "office"),
        ("192.0.2.1", "jump"),
        ("2001:db8:0::7", "six"),
        ("six", "six"),
        ("elsewhere.example", "default"),
    ],
)
def test_it_is_the_one_for_that_host_or_of_that_name_and_else_default(host: str, name: str) -> None:
    profiles = config(default="home.example", office="office.example", jump="192.0.2.1", six="2001:db8::7")
    assert profile_for(profiles, host).name == name


def test_the_host_comes_before_the_name() -> None:
    profiles = config(**{"a.example": "b.example", "b.example": "a.example"})
    assert profile_for(profiles, "a.example").name == "b.example"


def test_of_several_for_a_host_it_is_the_one_that_is_called_so_or_default() -> None:
    assert profile_for(config(**{"one": "h.example", "h.example": "h.example"}), "h.example").name == "h.example"
    assert profile_for(config(one="h.example", default="h.example"), "h.example").name == "default"
    both = config(**{"default": "h.example", "h.example": "h.example"})
    assert profile_for(both, "h.example").name == "h.example"
    with pytest.raises(ProfileError, match=r"several profiles are for h\.example: one, two") as caught:
        profile_for(config(one="h.example", two="h.example"), "h.example")
    assert caught.value.hint == "name one: --profile NAME"


@pytest.mark.parametrize(
    ("profiles", "host", "hint"),
    [
        (config(office="office.example"), "ofice.example", "did you mean office.example?"),
        (config(office="192.0.2.9"), "ofice", "did you mean office?"),
        (config(office="192.0.2.9", b="192.0.2.8"), "zzz", "name one: --profile NAME (profiles: office, b)"),
        (config(), "zzz", "/home/alice/config.yaml holds no profiles"),
    ],
)
def test_a_host_that_no_profile_is_for_is_an_error_with_its_cure(profiles: ClientConfig, host: str, hint: str) -> None:
    """Also where there is only one: a ProxyCommand for all hosts must not knock at it for each of them."""
    with pytest.raises(ProfileError, match=f"no profile is for {host}") as caught:
        profile_for(profiles, host)
    assert caught.value.hint == hint


def test_a_host_leads_to_the_profiles_server_by_either_name() -> None:
    (office,) = config(office="office.example").profiles.values()
    assert leads_to(office, "office")
    assert leads_to(office, "Office.Example")
    assert not leads_to(office, "192.0.2.1")
    assert not leads_to(office, "OFFICE"), "a profile's name is written as it is"
