"""For any profile and any client's file: import of an export is the profile, merging keeps all the rest."""

import random
import re
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from openme.config.offered import offered_untrusted
from openme.config.profile import parse_client_config
from openme.config.profile_merge import merged
from openme.config.profile_model import EpochKeys, Profile
from openme.config.profile_text import render_profile
from openme.config.scalars import quote
from openme.keys.ed25519 import ClientPrivateKey
from openme.keys.x25519 import ServerPrivateKey

if TYPE_CHECKING:
    from openme.config.profile_model import KeyPair

PATH = Path("c.yaml")
KEYS = [ClientPrivateKey(bytes([n + 1]) * 32) for n in range(8)]
POINTS = [ServerPrivateKey(bytes([n + 40]) * 32).public for n in range(8)]
NAMES = st.text(st.characters(categories=["L", "Nd", "P", "S"]), min_size=1, max_size=10)
HOSTS = st.sampled_from(["h.example", "192.0.2.1", "2001:db8::1", "x"])
EPOCHS = st.none() | st.builds(
    EpochKeys,
    st.sampled_from([604800, 86400]),
    st.integers(0, 10_000),
    st.lists(st.sampled_from(POINTS), min_size=1, max_size=5).map(tuple),
)
COMMENTS = st.lists(st.sampled_from(["# a", "  # b: {", "      # deep", ""]), max_size=2)


@st.composite
def exports(draw: st.DrawFn, name: str | None = None, number: int | None = None) -> str:
    """A client's file as `add` writes it."""
    private = KEYS[draw(st.integers(0, 7)) if number is None else number]
    return render_profile(
        draw(NAMES) if name is None else name,
        server_host=draw(HOSTS),
        server_pubkey=draw(st.sampled_from(POINTS)),
        public_key=private.public,
        private_key=draw(st.sampled_from([None, private])),
        server_udp_port=draw(st.integers(1, 65535)),
        server_health_port=draw(st.none() | st.integers(1, 65535)),
        epoch_keys=draw(EPOCHS),
    )


@st.composite
def files(draw: st.DrawFn) -> str:
    """A client's file with comments anywhere, keys in any order and notation, and any line ends."""
    chance = random.Random(draw(st.integers()))
    lines = [*draw(COMMENTS), "profiles:  # all of them"]
    for number, name in enumerate(draw(st.lists(NAMES, max_size=4, unique=True))):
        lines += draw(COMMENTS)
        body = draw(exports(name="x", number=number)).splitlines()[2:]
        blocks = re.split(r"\n(?=    \w)", "\n".join(body))
        blocks += draw(
            st.sampled_from([[], ["    post_knock: |\n      # no comment\n      true\n"], ["    ip: source"]])
        )
        chance.shuffle(blocks)
        lines.append(f"  {quote(name)}:  # who")
        for block in blocks:
            lines += [f"{block}{draw(st.sampled_from(['', '  # note', '']))}" if "\n" not in block else block]
            lines += draw(COMMENTS)
    # A text block at the end has another value with a line end behind it, so that nothing is put there (it is refused).
    ends = st.just("\n") if "post_knock: |" in "\n".join(lines[-12:]) else st.sampled_from(["", "\n"])
    return draw(st.sampled_from(["\n", "\r\n"])).join("\n".join(lines).split("\n")) + draw(ends)


def all_of(text: str) -> dict[str, object]:
    config = parse_client_config(text, PATH)
    everyone: dict[str, Profile | KeyPair] = {**config.profiles, **config.waiting}
    return {name: held._replace(line=0) for name, held in everyone.items()}


def comments(text: str) -> list[str]:
    return re.findall(r"#[^\r\n]*", text)


@given(exports(), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_import_of_an_export_is_the_same_profile(text: str, encoding: str) -> None:
    result = merged("", PATH, offered_untrusted(text.encode(encoding), PATH))
    assert all_of(result.text) == all_of(text)
    assert merged(result.text, PATH, offered_untrusted(text.encode(), PATH)).text == result.text


@given(files(), st.data())
@settings(max_examples=200)
def test_merging_keeps_every_comment_and_every_line_that_it_does_not_concern(there: str, data: st.DataObject) -> None:
    before = all_of(there)
    name = data.draw(st.sampled_from([*before, "new one"]))
    number = list(before).index(name) if name in before else 7
    given_text = data.draw(exports(name=name, number=number))
    offers = offered_untrusted(given_text.encode(), PATH)
    held = before.get(name)
    is_same = isinstance(held, Profile) and merged_is_refresh(held, offers[0].held)
    if name in before and not is_same:
        return
    result = merged(there, PATH, offers)
    after = all_of(result.text)
    assert {n: v for n, v in after.items() if n != name} == {n: v for n, v in before.items() if n != name}
    assert comments(result.text) == comments(there)
    kept = [line for line in there.splitlines() if line in set(result.text.splitlines())]
    assert len(there.splitlines()) - len(kept) <= 7  # the lines that a server's word is on
    new = after[name]
    assert isinstance(new, Profile)
    assert (new.server_host, new.server_udp_port) == (offers[0].held.server_host, offers[0].held.server_udp_port)  # type: ignore[union-attr]


def merged_is_refresh(held: Profile, new: object) -> bool:
    """Whether both have the same host, so that they are one server's beyond doubt."""
    return isinstance(new, Profile) and held.server_host == new.server_host
