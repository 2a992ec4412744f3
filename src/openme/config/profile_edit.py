"""Changing the client's file: a profile more, or a key that has moved. Every other byte stays as it was written."""

import errno
import os
from collections.abc import Callable
from collections.abc import Mapping as Map
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from openme.config.faults import ConfigError, ConfigFault
from openme.config.files import check_client_file, file_error, open_regular, read_text
from openme.config.nodes import Mapping, Node, compose
from openme.config.profile import parse_client_config
from openme.config.profile_lines import PROFILES, appended, checked, meaning, unusual
from openme.config.profile_model import ClientConfig
from openme.config.scalars import quote
from openme.config.section import shown
from openme.config.text_places import column_of, newline_of, without_bom
from openme.files import replace_file, sync_directory, write_new
from openme.interrupts import held_back


def add_profile(path: Path, name: str, fields: Map[str, str]) -> None:
    """Add a profile to the client's file, which is made with its directory where there is none. ConfigError.

    `fields`: its keys and their values as text. The file is 0600 afterwards and is replaced in one step; on any failure
    it is as it was.
    """
    change_profiles(path, lambda text: with_profile(text, path, name, fields))


def change_profiles(path: Path, change: Callable[[str], str]) -> None:
    """Have `change` make the file's new text of its old one, which is empty where there is no file. ConfigError.

    The file is 0600 afterwards and is replaced in one step, or made with its directory; nobody else's change gets lost,
    and on any failure of ours or of `change` the file is as it was. A text that stays the same is not written.
    """
    if not os.path.lexists(path):
        change("")  # what it refuses leaves no empty directory behind
        with held_back():
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise _failed(path, error) from None
            with _alone(path.parent, path):
                if not os.path.lexists(path):  # two at once are one after the other
                    _make(path, change(""))
                    return
    _edit(path, change)


def move_key(path: Path, name: str, identity: str) -> None:
    """Have a profile name where its private key is now, in place of the key itself. ConfigError as for add_profile."""
    _edit(path, lambda text: with_identity(text, path, name, identity))


def with_profile(text: str, path: Path, name: str, fields: Map[str, str]) -> str:
    """The file's text with a profile more, behind the others. Pure; ConfigError, as where the name is taken."""
    bom, body = without_bom(text)
    root = compose(body, path)
    before = ClientConfig(path, {}) if root is None else parse_client_config(text, path)
    if (held := before.profiles.get(name) or before.waiting.get(name)) is not None:
        raise ConfigError(ConfigFault(path, held.line, f"{PROFILES}.{shown(name)}", "this name is taken"))
    wanted = meaning(root) or {}
    wanted[PROFILES] = {**(wanted.get(PROFILES) or {}), name: dict(fields)}
    return checked(bom + appended(body, [(name, fields)], path), path, wanted)


def with_identity(text: str, path: Path, name: str, identity: str) -> str:
    """The file's text with `identity` in the place of a profile's `private_key`. Pure; ConfigError.

    Where the profile has no `public_key` it gets that, too.
    """
    before = parse_client_config(text, path)
    held = before.profiles.get(name) or before.waiting.get(name)
    if held is None or held.private_key is None:
        raise file_error(path, f"profile {shown(name)} has no private_key")
    bom, body = without_bom(text)
    root = compose(body, path)
    wanted = meaning(root)
    profile = _inside(_inside(root, PROFILES), name)
    if not isinstance(profile, Mapping) or profile.flow or "private_key" not in wanted[PROFILES][name]:
        raise unusual(path)
    key, value = profile.entries["private_key"]
    if "\n" in body[key.start : value.end]:
        raise unusual(path)
    fields = {"identity": identity}
    if "public_key" not in profile.entries:
        fields["public_key"] = str(held.private_key.public)
    lines = [f"{field}: {quote(content)}" for field, content in fields.items()]
    indented = (newline_of(body) + " " * column_of(body, key.start)).join(lines)
    del wanted[PROFILES][name]["private_key"]
    wanted[PROFILES][name] |= fields
    return checked(bom + body[: key.start] + indented + body[value.end :], path, wanted)


def _inside(node: Node | None, name: str) -> Node | None:
    return node.entries[name][1] if isinstance(node, Mapping) else None


def _make(path: Path, text: str) -> None:
    try:
        write_new(path, text.encode())
        sync_directory(path.parent)
    except OSError as error:
        raise _failed(path, error) from None


def profiles_text(path: Path) -> str:
    """What the client's file says, nothing where there is none; ConfigError as for an edit of it."""
    return _opened(Path(os.path.realpath(path)), path)[0] if os.path.lexists(path) else ""


def _opened(target: Path, path: Path) -> tuple[str, os.stat_result]:
    """The text of a file that may be edited, and whose it is."""
    descriptor = open_regular(target, "make it: openme keygen")
    try:
        status = os.fstat(descriptor)
        if os.name == "posix":
            check_client_file(status, path, private_key=True, commands=False)
        return read_text(descriptor, path), status
    finally:
        os.close(descriptor)


def _edit(path: Path, change: Callable[[str], str]) -> None:
    target = Path(os.path.realpath(path))
    with _alone(target.parent, path):
        old, status = _opened(target, path)
        new = change(old)
        if new == old:
            return
        try:
            replace_file(target, new.encode(), owner=status if os.name == "posix" else None)
        except OSError as error:
            raise _failed(path, error) from None


def _alone(directory: Path, path: Path) -> AbstractContextManager[None]:
    """No other command of ours changes the file meanwhile, where the system can see to that."""
    try:
        from openme.config.locked import locked_directory  # noqa: PLC0415  # not on Windows
    except ImportError:
        return nullcontext()
    return locked_directory(directory, path)


def _failed(path: Path, error: OSError) -> ConfigError:
    return file_error(path, f"cannot be written: {os.strerror(error.errno or errno.EIO).lower()}")
