"""Profiles merged into a client's file: which one is meant, what it gets and keeps, and that no other byte changes."""

from pathlib import Path

import pytest

from openme.config.faults import ConfigError
from openme.config.offered import Offered, offered_untrusted
from openme.config.profile import parse_client_config
from openme.config.profile_merge import Merged, Step, merged
from openme.config.profile_model import EpochKeys
from openme.config.profile_text import render_profile
from openme.keys.ed25519 import ClientPrivateKey, ClientPublicKey, encode_base64
from openme.keys.x25519 import ServerPrivateKey

PATH = Path("c.yaml")
KEY, OTHER = ClientPrivateKey(b"\x05" * 32), ClientPrivateKey(b"\x06" * 32)
SERVER, ANOTHER = (ServerPrivateKey(bytes([n]) * 32).public for n in (7, 8))


def epochs(first: int, count: int = 3, seed: int = 1, length: float = 604800) -> EpochKeys:
    """Keys of one ratchet for one seed: an epoch's key is the same in all of them."""
    keys = tuple(
        ServerPrivateKey(bytes([8 * seed]) + n.to_bytes(31, "big")).public for n in range(first, first + count)
    )
    return EpochKeys(length, first, keys)


def text_of(
    name: str = "home",
    *,
    host: str = "h.example",
    server: bytes = SERVER,
    public: ClientPublicKey = KEY.public,
    private: ClientPrivateKey | None = None,
    keys: EpochKeys | None = None,
    port: int = 54154,
    health: int | None = None,
    more: str = "",
) -> str:
    return (
        render_profile(
            name,
            server_host=host,
            server_pubkey=server,
            public_key=public,
            private_key=private,
            epoch_keys=keys,
            server_udp_port=port,
            server_health_port=health,
        )
        + more
    )


def offers(text: str) -> tuple[Offered, ...]:
    return offered_untrusted(text.encode(), PATH)


def merge(there: str, given: str, *, by_name: bool = False, replace: bool = False) -> Merged:
    return merged(there, PATH, offers(given), by_name=by_name, replace=replace)


def changed(there: str, given: str) -> tuple[str, Step]:
    result = merge(there, given)
    (step,) = result.steps
    return result.text, step


WAITING = f"""\
# mine
profiles:
  office:   # at work
    # made on Monday
    private_key: {KEY.to_base64()}  # never travels
    public_key: {KEY.public}

# the end
"""
MINE = (
    text_of(private=KEY, keys=epochs(2951), more="    ip: source  # behind NAT\n    post_knock: ssh h.example\n")
    .replace("server_host: h.example", "server_host: h.example  # since 2024")
    .replace("      first: 2951", "      first: 2951  # a year")
)


def test_into_nothing_it_is_as_it_was_offered() -> None:
    for there in ("", "# mine\n", "profiles: {}\n", "profiles:\n"):
        text, step = changed(there, text_of(private=KEY, keys=epochs(2951)))
        assert parse_client_config(text, PATH).profiles["home"]._replace(line=0) == parse_client_config(
            text_of(private=KEY, keys=epochs(2951)), PATH
        ).profiles["home"]._replace(line=0)
        assert text.startswith(there[:6])
        assert step.kind == "added"


def test_what_keygen_made_is_completed_whatever_it_is_called() -> None:
    text, step = changed(WAITING, text_of("default", keys=epochs(2951)))
    assert (step.kind, step.name) == ("completed", "office")
    profile = parse_client_config(text, PATH).profiles["office"]
    assert (profile.private_key, profile.server_host, profile.epoch_keys) == (KEY, "h.example", epochs(2951))
    lines = text.splitlines()
    assert [line for line in lines if line in WAITING.splitlines()] == WAITING.splitlines()
    assert "default" not in text


def test_a_newer_file_of_the_same_server_refreshes_only_what_the_server_says() -> None:
    given = text_of(host="new.example", server=SERVER, keys=epochs(2960), port=6000)
    text, step = changed(MINE, given)
    assert (step.kind, set(step.taken)) == ("refreshed", {"server_host", "server_udp_port", "epoch_keys"})
    assert text == (
        MINE.replace("h.example  #", "new.example  #")
        .replace("54154", "6000")
        .replace("first: 2951", "first: 2960")
        .replace(encode_base64(b"".join(epochs(2951).keys)), encode_base64(b"".join(epochs(2960).keys)))
    )


def test_what_the_client_has_settled_stays() -> None:
    given = text_of(more="    ip: auto\n    post_knock: rm -rf /\n    protocol: v1\n")
    text, step = changed(MINE, given)
    assert text == MINE
    assert (step.kind, set(step.kept)) == ("unchanged", {"ip", "post_knock", "protocol", "epoch_keys"})


def test_what_the_client_has_not_settled_is_taken_but_for_a_way_back_to_version_1() -> None:
    given = text_of(
        keys=epochs(2951), more="    ip: auto\n    post_knock: |\n      echo 'a: b' #\n      true\n    protocol: v1\n"
    )
    text, step = changed(text_of(private=KEY, keys=epochs(2951)), given)
    profile = parse_client_config(text, PATH).profiles["home"]
    assert (profile.ip, profile.post_knock, profile.protocol) == ("auto", "echo 'a: b' #\ntrue\n", None)
    assert (step.taken, step.kept) == (("post_knock", "ip"), ("protocol",))


def test_the_same_again_changes_nothing_whatever_its_notation() -> None:
    spread = MINE.replace("      length: 7d", "      length: 168h").replace("54154", "54154  ")
    for there in (MINE, spread, MINE.replace("\n", "\r\n"), f"\ufeff{MINE}"):
        assert merge(there, MINE).text == there
        assert merge(there, MINE).steps[0].kind == "unchanged"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (epochs(2952), True),
        (epochs(2950), False),
        (epochs(2940), False),
        (epochs(2951, 2), False),
        (epochs(2951, 4), True),
        (epochs(2951, 2, seed=2), True),
        (epochs(2900, length=86400), True),
    ],
    ids=["later", "earlier", "long ago", "fewer", "more", "another ratchet", "another length"],
)
def test_an_older_file_takes_no_epoch_key_away(given: EpochKeys, *, taken: bool) -> None:
    text, step = changed(MINE, text_of(keys=given))
    profile = parse_client_config(text, PATH).profiles["home"]
    assert profile.epoch_keys == (given if taken else epochs(2951))
    assert ("epoch_keys" in step.taken, "epoch_keys" in step.kept) == (taken, not taken)


def test_a_server_that_moved_is_known_by_any_of_its_keys_or_by_its_name() -> None:
    for given in (
        text_of("x", host="new.example", keys=epochs(2951)),
        text_of("x", host="new.example", server=ANOTHER, keys=epochs(2952)),
        text_of("x", host="H.example.", server=ANOTHER, keys=epochs(2951, seed=2)),
    ):
        assert changed(MINE, given)[1].kind == "refreshed"
    apart = merge(MINE, text_of("x", host="new.example", server=ANOTHER, keys=epochs(2951, seed=2)))
    assert (apart.steps[0].kind, apart.steps[0].name) == ("added", "x")


def test_a_health_port_that_is_no_more_written_is_the_usual_one() -> None:
    there = text_of(private=KEY, port=6000, health=7000)
    text, _ = changed(there, text_of(port=6001))
    assert parse_client_config(text, PATH).profiles["home"].server_health_port == 6001
    text, _ = changed(text_of(private=KEY), text_of(health=7000))
    assert parse_client_config(text, PATH).profiles["home"].server_health_port == 7000


def test_another_profile_of_that_name_is_refused_and_nothing_else_is_taken() -> None:
    given = text_of(public=OTHER.public, private=OTHER, host="other.example", server=ANOTHER)
    with pytest.raises(ConfigError, match=r"c\.yaml:2: profiles\.home: is another profile") as caught:
        merge(MINE, given + f"  new:\n    public_key: {OTHER.public}\n")
    assert caught.value.hint is not None
    assert "--as NAME" in caught.value.hint
    assert "--replace" in caught.value.hint


def test_replacing_leaves_comments_and_nothing_of_the_old_profile() -> None:
    given = text_of(public=OTHER.public, private=OTHER, host="other.example", server=ANOTHER, keys=epochs(2960, seed=3))
    there = f"{MINE}  # behind it\n  last: {{public_key: {KEY.public}}}\n"
    result = merge(there, given, replace=True)
    config = parse_client_config(result.text, PATH)
    assert config.profiles["home"]._replace(line=0) == offers(given)[0].held._replace(line=0)
    assert (result.steps[0].kind, set(result.steps[0].gone)) == ("replaced", {"ip", "post_knock"})
    assert list(config.waiting) == ["last"]
    for comment in ("# since 2024", "# a year", "# behind it"):
        assert comment in result.text
    assert KEY.to_base64() not in result.text


def test_a_replaced_profile_keeps_its_own_key_where_the_new_one_has_none() -> None:
    """There may be no other copy of it."""
    result = merge(MINE, text_of(host="other.example", server=ANOTHER), replace=True)
    profile = parse_client_config(result.text, PATH).profiles["home"]
    assert (profile.private_key, profile.epoch_keys, profile.post_knock) == (KEY, None, None)
    back = merge(text_of(private=KEY, keys=epochs(1)), text_of(public=OTHER.public, private=OTHER), replace=True)
    assert parse_client_config(back.text, PATH).profiles["home"].epoch_keys is None


def test_only_the_profile_of_that_name_is_replaced() -> None:
    """One that is found by its key is refreshed, as without."""
    result = merge(MINE, text_of("x", host="new.example", keys=epochs(2951)), replace=True)
    profile = parse_client_config(result.text, PATH).profiles["home"]
    assert (profile.server_host, profile.ip, result.steps[0].kind) == ("new.example", "source", "refreshed")


def test_by_name_another_of_the_same_key_is_not_looked_for() -> None:
    result = merge(MINE, text_of("x", keys=epochs(2951)), by_name=True)
    assert result.steps[0].kind == "added"
    assert merge(MINE, text_of("x", keys=epochs(2951))).steps[0] == Step("unchanged", "home")


def test_what_would_be_two_or_become_one_is_refused() -> None:
    two = MINE + text_of("b", private=KEY, keys=epochs(2951)).partition("\n")[2]
    with pytest.raises(ConfigError, match="is one profile of home and b"):
        merge(two, text_of("x"))
    with pytest.raises(ConfigError, match="is what two of the offered profiles would become"):
        merge(MINE, text_of("x") + text_of("y").partition("\n")[2])


def test_a_key_that_only_its_signer_knows_is_not_told_by_the_file() -> None:
    """An `identity` says by itself whose it is; a wrong `public_key` beside it would end each knock."""
    there = 'profiles:\n  home:\n    identity: "file:/k"\n'
    text, step = changed(there, text_of(private=None, keys=epochs(2951)))
    assert parse_client_config(text, PATH).profiles["home"].public_key is None
    assert step.kind == "completed"
    text, step = changed(there, text_of(private=KEY))
    assert KEY.to_base64() not in text
    assert step.kept == ("private_key",)


def test_a_profile_without_a_signer_gets_one() -> None:
    text, step = changed(text_of(), text_of(private=KEY))
    assert parse_client_config(text, PATH).profiles["home"].private_key == KEY
    assert step.taken == ("private_key",)


@pytest.mark.parametrize(
    "there",
    [
        WAITING.replace("\n", "\r\n"),
        f"\ufeff{WAITING}",
        f"profiles:\n  office: {{private_key: {KEY.to_base64()}, public_key: {KEY.public}}}\n",
        f"profiles: {{office: {{private_key: {KEY.to_base64()}}}}}",
        f'{{"profiles": {{"office": {{"private_key": "{KEY.to_base64()}"}}}}}}',
        f"profiles:\n  office:\n    server_host:\n    private_key: |\n      {KEY.to_base64()}\n",
        f"profiles:\n  office:\n    private_key:\n      {KEY.to_base64()}\n  b: {{public_key: {OTHER.public}}}\n",
        f"profiles:\n  office:\n    private_key: {KEY.to_base64()}",
        f"profiles:\n      office:\n              private_key: {KEY.to_base64()}\n      # end",
    ],
)
def test_any_notation_that_can_be_edited_is(there: str) -> None:
    if there.strip().endswith(f"|\n      {KEY.to_base64()}"):
        there = there.replace("|\n", "|-\n")
    text, step = changed(there, text_of("office", keys=epochs(2951), health=7000))
    profile = parse_client_config(text, PATH).profiles["office"]
    assert (profile.private_key, profile.epoch_keys, profile.server_health_port) == (KEY, epochs(2951), 7000)
    assert step.kind == "completed"
    assert ("\r" in text) == ("\r" in there)
    assert "\n" not in text.replace("\r\n", "") or "\r" not in text
    newer = merge(text, text_of("office", keys=epochs(2960)))
    assert parse_client_config(newer.text, PATH).profiles["office"].epoch_keys == epochs(2960)


@pytest.mark.parametrize(
    "there",
    [
        f"a: &a\n  private_key: {KEY.to_base64()}\nprofiles:\n  office: *a\n".replace("a: &a", "x: &a"),
        f"profiles:\n  b: &a\n    private_key: {KEY.to_base64()}\n  office: *a\n",
    ],
)
def test_an_unusual_notation_is_refused_and_not_damaged(there: str) -> None:
    with pytest.raises(ConfigError):
        merge(there, text_of("office"))


def test_a_merge_key_is_no_hindrance() -> None:
    there = f"profiles:\n  b: &a\n    ip: source\n    private_key: {OTHER.to_base64()}\n  office:\n    <<: *a\n"
    there += f"    private_key: {KEY.to_base64()}\n"
    text, _ = changed(there, text_of("office"))
    assert text.startswith(there)
    assert parse_client_config(text, PATH).waiting["b"].private_key == OTHER
