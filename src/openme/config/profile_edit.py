"""Changing the client's file: a profile more, or a key that has moved. Every other byte stays as it was written.

Each result is read again and compared with what was there; one that differs in anything but what was wanted is thrown
away, so that a file too unusual for the rules below is refused and never damaged.
"""

import errno
import os
from collections.abc import Callable
from collections.abc import Mapping as Map
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from openme.config.faults import ConfigError, ConfigFault
from openme.config.files import check_client_file, file_error, open_regular, read_text
from openme.config.nodes import Mapping, Node, Scalar, Sequence, compose
from openme.config.profile import parse_client_config
from openme.config.profile_model import ClientConfig
from openme.config.scalars import quote
from openme.config.section import shown
from openme.files import replace_file, write_new
from openme.interrupts import held_back

_PROFILES = "profiles"
_BOM = "\ufeff"
_STEP = 2  # blanks


def add_profile(path: Path, name: str, fields: Map[str, str]) -> None:
    """Add a profile to the client's file, which is made with its directory where there is none. ConfigError.

    `fields`: its keys and their values as text. The file is 0600 afterwards and is replaced in one step; on any failure
    it is as it was.
    """
    if os.path.lexists(path):
        _edit(path, lambda text: with_profile(text, path, name, fields))
        return
    text = with_profile("", path, name, fields)
    try:
        with held_back():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_new(path, text.encode())
    except OSError as error:
        raise _failed(path, error) from None


def move_key(path: Path, name: str, identity: str) -> None:
    """Have a profile name where its private key is now, in place of the key itself. ConfigError as for add_profile."""
    _edit(path, lambda text: with_identity(text, path, name, identity))


def with_profile(text: str, path: Path, name: str, fields: Map[str, str]) -> str:
    """The file's text with a profile more, behind the others. Pure; ConfigError, as where the name is taken."""
    bom, body, newline = _parts(text)
    root = compose(body, path)
    before = ClientConfig(path, {}) if root is None else parse_client_config(text, path)
    if (held := before.profiles.get(name) or before.waiting.get(name)) is not None:
        raise ConfigError(ConfigFault(path, held.line, f"{_PROFILES}.{shown(name)}", "this name is taken"))
    key, value = root.entries.get(_PROFILES, (None, None)) if isinstance(root, Mapping) else (None, None)
    column, lines = _STEP, []
    if key is None or value is None:
        lines.append(f"{_PROFILES}:")
    elif isinstance(value, Mapping) and value.pairs and not value.flow:
        column = _column(body, value.pairs[0][0].start)
    else:  # `profiles:`, with `null`, `{}` or nothing behind it, becomes the head of a block
        body = f"{body[: key.end]}:{body[max(value.end, body.index(':', key.end) + 1) :]}"
    lines.append(f"{' ' * column}{quote(name)}:")
    lines += (f"{' ' * (column + _STEP)}{field}: {quote(content)}" for field, content in fields.items())
    body += "" if not body or body.endswith("\n") else newline
    wanted = _meaning(root) or {}
    wanted[_PROFILES] = {**(wanted.get(_PROFILES) or {}), name: dict(fields)}
    return _checked(bom + body + newline.join(lines) + newline, path, wanted)


def with_identity(text: str, path: Path, name: str, identity: str) -> str:
    """The file's text with `identity` in the place of a profile's `private_key`. Pure; ConfigError.

    Where the profile has no `public_key` it gets that, too.
    """
    before = parse_client_config(text, path)
    held = before.profiles.get(name) or before.waiting.get(name)
    if held is None or held.private_key is None:
        raise file_error(path, f"profile {shown(name)} has no private_key")
    bom, body, newline = _parts(text)
    root = compose(body, path)
    wanted = _meaning(root)
    profile = _inside(_inside(root, _PROFILES), name)
    if not isinstance(profile, Mapping) or profile.flow or "private_key" not in wanted[_PROFILES][name]:
        raise _unusual(path)
    key, value = profile.entries["private_key"]
    if "\n" in body[key.start : value.end]:
        raise _unusual(path)
    fields = {"identity": identity}
    if "public_key" not in profile.entries:
        fields["public_key"] = str(held.private_key.public)
    lines = [f"{field}: {quote(content)}" for field, content in fields.items()]
    indented = (newline + " " * _column(body, key.start)).join(lines)
    del wanted[_PROFILES][name]["private_key"]
    wanted[_PROFILES][name] |= fields
    return _checked(bom + body[: key.start] + indented + body[value.end :], path, wanted)


def _parts(text: str) -> tuple[str, str, str]:
    """A byte order mark or nothing, what follows it, and how the file ends its lines."""
    body = text.removeprefix(_BOM)
    return text[: len(text) - len(body)], body, "\r\n" if "\r\n" in body else "\n"


def _column(body: str, offset: int) -> int:
    return offset - (body.rfind("\n", 0, offset) + 1)


def _inside(node: Node | None, name: str) -> Node | None:
    return node.entries[name][1] if isinstance(node, Mapping) else None


def _meaning(node: Node | None) -> Any:  # noqa: ANN401  # what YAML can hold
    """What a tree says, without how it is written: texts, lists and maps. Its depth is bounded by compose."""
    if isinstance(node, Mapping):
        return {key.text: _meaning(value) for key, value in node.pairs}
    if isinstance(node, Sequence):
        return [_meaning(item) for item in node.items]
    return node.text if isinstance(node, Scalar) and not node.is_null else None


def _checked(text: str, path: Path, wanted: object) -> str:
    """The new text, if it says what is wanted, and can be read."""
    try:
        parse_client_config(text, path)
    except ConfigError:
        raise _unusual(path) from None
    if _meaning(compose(_parts(text)[1], path)) != wanted:
        raise _unusual(path)
    return text


def _unusual(path: Path) -> ConfigError:
    return file_error(
        path, "cannot be edited safely: the notation is unusual; nothing changed", "write each key on a line of its own"
    )


def _edit(path: Path, change: Callable[[str], str]) -> None:
    target = Path(os.path.realpath(path))
    with _alone(target, path):
        descriptor = open_regular(target, "make it: openme keygen")
        try:
            status = os.fstat(descriptor)
            if os.name == "posix":
                check_client_file(status, path, private_key=True, commands=False)
            old = read_text(descriptor, path)
        finally:
            os.close(descriptor)
        content = change(old).encode()
        try:
            replace_file(target, content, owner=status if os.name == "posix" else None)
        except OSError as error:
            raise _failed(path, error) from None


def _alone(target: Path, path: Path) -> AbstractContextManager[None]:
    """No other command of ours changes the file meanwhile, where the system can see to that."""
    if os.name != "posix":
        return nullcontext()
    from openme.config.locked import locked_directory  # noqa: PLC0415  # not on Windows

    return locked_directory(target.parent, path)


def _failed(path: Path, error: OSError) -> ConfigError:
    return file_error(path, f"cannot be written: {os.strerror(error.errno or errno.EIO).lower()}")
