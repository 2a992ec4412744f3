"""The forms of fields in requests and replies, and the one way between such a type and JSON.

A field says its form where it is declared, `name: Name`; a field with a default may be absent in JSON.
"""

import base64
import binascii
import re
from collections.abc import Callable, Hashable, Iterable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from typing import Annotated, Any, TypeVar, cast, get_type_hints

from openme.ports import PortRange, merged, parse_port_spec

KEY_SIZE = 32
_MAX_NAME = 4096  # characters
_MAX_KEYS = 64
_MAX_PORTS = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_IN_JSON = {"everybody": "all", "since": "from"}  # names that Python keeps for itself

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Form:
    """`read` makes a value of what JSON has, ValueError if it has not the form; `write` is its inverse."""

    read: Callable[[Any], Any]
    write: Callable[[Any], Any] = lambda value: value


def key_texts(keys: Iterable[bytes]) -> list[str]:
    """Public keys in the form in which requests and replies carry them."""
    return [base64.b64encode(key).decode("ascii") for key in sorted(keys)]


def _of(kind: type, *, or_none: bool = False) -> Form:
    def read(value: object) -> object:
        # bool is an int to isinstance, and to nobody else.
        if (or_none and value is None) or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
            return value
        raise ValueError

    return Form(read)


def _name(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        raise ValueError
    value.encode()  # half a character of JSON's, \ud800, can be neither looked up nor logged
    return value


def _keys(most: int) -> Form:
    def read(value: object) -> frozenset[bytes]:
        if not isinstance(value, list) or len(value) > most or not all(isinstance(text, str) for text in value):
            raise ValueError
        keys = frozenset(binascii.a2b_base64(text, strict_mode=True) for text in value)  # its Error is a ValueError
        if any(len(key) != KEY_SIZE for key in keys):
            raise ValueError
        return keys

    return Form(read, key_texts)


def _sha256(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and _SHA256.fullmatch(value)):
        raise ValueError
    return value


def _seconds(value: object) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError
    return value


def _ports(specs: object) -> tuple[PortRange, ...]:
    if not isinstance(specs, list) or len(specs) > _MAX_PORTS or not all(isinstance(spec, str) for spec in specs):
        raise ValueError
    return merged(item for spec in specs for item in parse_port_spec(spec))


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError
    return tuple(value)


def _rows(value: object) -> list[tuple[Any, ...]]:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise ValueError
    return [tuple(row) for row in value]


Name = Annotated[str, Form(_name)]
Flag = Annotated[bool, _of(bool)]
Text = Annotated[str, _of(str)]
Number = Annotated[int, _of(int)]
MaybeText = Annotated[str | None, _of(str, or_none=True)]
MaybeFlag = Annotated[bool | None, _of(bool, or_none=True)]
MaybeNumber = Annotated[int | None, _of(int, or_none=True)]
MaybeSeconds = Annotated[float | None, Form(_seconds)]
Hash = Annotated[str | None, Form(_sha256)]
Keys = Annotated[frozenset[bytes], _keys(_MAX_KEYS)]
FoundKeys = Annotated[frozenset[bytes], _keys(10 * _MAX_KEYS)]
"""Those of a reply: what was asked with, and what the server has besides."""
Ports = Annotated[tuple[PortRange, ...], Form(_ports, lambda ports: [str(item) for item in ports])]
Anything = Annotated[Any, Form(lambda value: value)]
Texts = Annotated[tuple[str, ...], Form(_texts, list)]
Rows = Annotated[list[tuple[Any, ...]], Form(_rows)]
Mapping = Annotated[dict[str, Any], _of(dict)]
MaybeMapping = Annotated[dict[str, Any] | None, _of(dict, or_none=True)]


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    in_json: str
    form: Form
    may_be_absent: bool


@cache
def _fields(kind: Hashable) -> tuple[_Field, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        _Field(
            field.name,
            _IN_JSON.get(field.name, field.name),
            hints[field.name].__metadata__[0],
            field.default is not MISSING or field.default_factory is not MISSING,
        )
        for field in fields(cast("Any", kind))
    )


def to_json(value: object) -> dict[str, Any]:
    """What JSON is to say of a request or reply."""
    return {
        field.in_json: field.form.write(getattr(value, field.name)) for field in _fields(cast("Hashable", type(value)))
    }


def names(kind: type) -> frozenset[str]:
    """What the fields of this type are called in JSON."""
    return frozenset(field.in_json for field in _fields(cast("Hashable", kind)))


def from_json(kind: type[T], value: dict[str, Any]) -> T:
    """The request or reply of this type; ValueError if a field is missing or has not its form. Others are ignored."""
    made: dict[str, Any] = {}
    for field in _fields(cast("Hashable", kind)):
        if field.in_json in value:
            made[field.name] = field.form.read(value[field.in_json])
        elif not field.may_be_absent:
            raise ValueError(field.in_json)
    return kind(**made)
