"""What the operator's commands ask the running server, and what it replies: types with a version, and `REQUESTS`, the
table of them.

A request is a JSON object with the fields of its type, its command and its version; a reply one with the fields of its
type and the version. What says no version is of an openme before there were any, and means the first. A refusal is an
object with `error`, a line for the operator, in whatever version; with `other_version`, true, where that is why.

Requests and replies of one command change together. A change that the other side could misread, a field that changes
its meaning or must not be overlooked, makes its version one more; a new field of a reply, with a default, does not.

A new request is two types and a row. The server must have a handler for it (`control.handlers`).
"""

import json
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from openme.control.forms import (
    Anything,
    Flag,
    FoundKeys,
    Hash,
    Keys,
    MaybeFlag,
    MaybeMapping,
    MaybeNumber,
    MaybeSeconds,
    MaybeText,
    Name,
    Number,
    Ports,
    Rows,
    Text,
    Texts,
    from_json,
    names,
    to_json,
)
from openme.errors import OpenmeError

ReplyT_co = TypeVar("ReplyT_co", covariant=True)
AnyReply = TypeVar("AnyReply", bound="Reply")


AnyFileReply = TypeVar("AnyFileReply", bound="FileReply")


class RequestError(OpenmeError):
    """A request that the server does not take."""


class OtherVersionError(RequestError):
    """Command and server are of versions that do not understand each other in this."""


class Reply:
    """What the server says to a request."""


class Request(Generic[ReplyT_co]):
    """What a command asks; `ReplyT_co` is the type of the reply."""


@dataclass(frozen=True, kw_only=True)
class FileReply(Reply):
    """A reply that also says which file the server reads, for a command that has seen a file too.

    `file`: its name, which the server fills in. `same`: whether what stands there now has the
    hash that the command sent (None: it could not read its own); `fault`: why that is not in force; `reading`: whether
    it is being read.
    """

    file: Text = ""
    same: MaybeFlag = None
    fault: MaybeText = None
    reading: Flag = False


FileReplyT_co = TypeVar("FileReplyT_co", bound=FileReply, covariant=True)


@dataclass(frozen=True, kw_only=True)
class FileRequest(Request[FileReplyT_co]):
    """A request of a command that reads or writes the config: `sha256` of what it has seen there."""

    sha256: Hash = None


@dataclass(frozen=True, kw_only=True)
class SessionsReply(Reply):
    """Who is in, as the state file has it (server/state_file.py), and what `openme sessions` warns of."""

    updated_at: Anything
    active_sessions: Anything
    last_seen: Anything = field(default_factory=dict)
    hidden_though_unnamed: Anything = field(default_factory=list)
    warnings: Anything = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Sessions(Request[SessionsReply]):
    """Who is in?"""


@dataclass(frozen=True, kw_only=True)
class ReloadReply(FileReply):
    """`lifted`: whether a revocation by word alone was; `ports`: the knock port `udp`, and `tcp`, the health port."""

    lifted: Flag = False
    ports: MaybeMapping = None


@dataclass(frozen=True, kw_only=True)
class Reload(FileRequest[ReloadReply]):
    """Look at the files; take back that these keys are revoked, by word alone."""

    lifted: Keys = frozenset()


@dataclass(frozen=True, kw_only=True)
class ClientReply(FileReply):
    """`keys`: those in force under that name; `revoked`: whether one of all is."""

    keys: FoundKeys = frozenset()
    revoked: Flag = False


@dataclass(frozen=True, kw_only=True)
class Client(FileRequest[ClientReply]):
    """What is known of this name, and of these keys?"""

    name: Name = ""
    keys: Keys = frozenset()


@dataclass(frozen=True, kw_only=True)
class RevokeReply(FileReply):
    """`keys` that are out from now on; why doors may be open still; how many connections were cut, if asked to."""

    keys: FoundKeys = frozenset()
    not_closed: MaybeText = None
    cut: MaybeNumber = None


@dataclass(frozen=True, kw_only=True)
class Revoke(FileRequest[RevokeReply]):
    """Let nobody with the key in force under this name in, nor with one of these."""

    name: Name = ""
    keys: Keys = frozenset()
    cut: Flag = False


@dataclass(frozen=True, kw_only=True)
class CloseReply(FileReply):
    """The places that were `closed`; whether the name is `known`, else whom it is `near`; as for `RevokeReply`."""

    closed: Texts
    known: Flag
    near: MaybeText = None
    not_closed: MaybeText = None
    cut: MaybeNumber = None


@dataclass(frozen=True, kw_only=True)
class Close(FileRequest[CloseReply]):
    """End this client's openings."""

    name: Name = ""
    cut: Flag = False


@dataclass(frozen=True, kw_only=True)
class ResetReply(FileReply):
    """Of one client: whether it is `known`, else `near`; whether it `was_ahead`; times that stay `shut` to it.

    Of everybody: how many `clients`; `since` when knocks are accepted; until when the replay memory was lost.
    """

    known: Flag = True
    near: MaybeText = None
    was_ahead: Flag = False
    shut: Rows = field(default_factory=list)
    clients: Number = 0
    since: MaybeText = None
    lost_until: MaybeText = None


@dataclass(frozen=True, kw_only=True)
class Reset(FileRequest[ResetReply]):
    """Begin this client's time anew, or everybody's."""

    name: Name = ""
    everybody: Flag = False


@dataclass(frozen=True, kw_only=True)
class UnhideReply(FileReply):
    """The ports that are `shown`; nothing was done where the file is being read (`reading`)."""

    shown: Texts = ()


@dataclass(frozen=True, kw_only=True)
class Unhide(FileRequest[UnhideReply]):
    """Hide these ports no longer."""

    ports: Ports = ()


@dataclass(frozen=True, kw_only=True)
class StoredReply(Reply):
    """What the database knows, and why it cannot be written, if so.

    `seen`: key (base64), name, Unix time and source of every client's last knock; `renewals`: key and the last epoch
    whose key it was given.
    """

    seen: Rows
    renewals: Rows
    failing: MaybeText = None


@dataclass(frozen=True, kw_only=True)
class Stored(Request[StoredReply]):
    """What does the database know of clients?"""


@dataclass(frozen=True, kw_only=True)
class RatchetReply(Reply):
    """Whether one was `made`."""

    made: Flag = False


@dataclass(frozen=True, kw_only=True)
class SaveRatchet(Request[RatchetReply]):
    """See that the file of the epoch keys is there."""


@dataclass(frozen=True, kw_only=True)
class NewRatchetReply(Reply):
    """It is done."""


@dataclass(frozen=True, kw_only=True)
class NewRatchet(Request[NewRatchetReply]):
    """Begin new epoch keys, of this length in seconds, if it is that of the running server."""

    epoch_length: MaybeSeconds = None


@dataclass(frozen=True, slots=True)
class Row:
    """One request: the word for it, the version of both forms, their types."""

    command: str
    version: int
    request: type[Request[Any]]
    reply: type[Reply]


REQUESTS = (
    Row("sessions", 1, Sessions, SessionsReply),
    Row("reload", 1, Reload, ReloadReply),
    Row("client", 1, Client, ClientReply),
    Row("revoke", 1, Revoke, RevokeReply),
    Row("close", 1, Close, CloseReply),
    Row("reset", 1, Reset, ResetReply),
    Row("unhide", 1, Unhide, UnhideReply),
    Row("stored", 1, Stored, StoredReply),
    Row("ratchet", 1, SaveRatchet, RatchetReply),
    Row("new_ratchet", 1, NewRatchet, NewRatchetReply),
)

_BY_COMMAND = {row.command: row for row in REQUESTS}
_BY_REQUEST = {row.request: row for row in REQUESTS}
_BY_REPLY = {row.reply: row for row in REQUESTS}
_FIRST = 1
_NOT_UNDERSTOOD = "the server did not understand the request"
_OLDER_SERVER = "the running server is of an older version than this command", "restart it, then repeat"
_OLDER_COMMAND = (
    "this command is of an older version than the running server",
    "run the openme that the server was started from",
)


def row_of(request: Request[Any]) -> Row:
    """The row of a request."""
    return _BY_REQUEST[type(request)]


def with_hash(request: FileRequest[AnyFileReply], sha256: str | None) -> FileRequest[AnyFileReply]:
    """The request of a command that has seen a file with this hash."""
    return replace(request, sha256=sha256)


def request_bytes(request: Request[Any]) -> bytes:
    """The request as it is sent."""
    row = row_of(request)
    return json.dumps({"command": row.command, "version": row.version, **to_json(request)}).encode()


def request_untrusted(raw: bytes) -> Request[Any]:
    """The request in bytes that any local user may have sent. RequestError, OtherVersionError."""
    value = _object(raw)
    if value is None or not isinstance(value.get("command"), str):
        raise RequestError(_NOT_UNDERSTOOD)
    row = _BY_COMMAND.get(value.pop("command"))
    if row is None:
        raise OtherVersionError("the server is of another version than this command: restart it")
    version = value.pop("version", None)
    if version is not None and not _is_version(version):
        raise RequestError(_NOT_UNDERSTOOD)
    _check_version(_FIRST if version is None else version, row.version, older=_OLDER_COMMAND, newer=_OLDER_SERVER)
    if version is not None and not value.keys() <= names(row.request):
        raise RequestError(_NOT_UNDERSTOOD)
    try:
        return from_json(row.request, value)
    except (ValueError, RecursionError):
        raise RequestError(_NOT_UNDERSTOOD) from None


def reply_value(reply: Reply) -> dict[str, Any]:
    """What JSON says of a reply."""
    return {"version": _BY_REPLY[type(reply)].version} | to_json(reply)


def refusal_value(error: OpenmeError) -> dict[str, Any]:
    """What JSON says of a request that is not done."""
    if isinstance(error, OtherVersionError):
        text = error.message if error.hint is None else f"{error.message}: {error.hint}"
        return {"error": text, "other_version": True}
    return {"error": error.message}


def reply_from(raw: bytes, request: Request[AnyReply]) -> AnyReply | None:
    """The reply to this request; None for what is none at all.

    OtherVersionError; OpenmeError in the server's own words if it refuses.
    """
    value = _object(raw)
    if value is None:
        return None
    if "error" in value:
        kind = OtherVersionError if value.get("other_version") is True else OpenmeError
        raise kind(str(value["error"]))
    row = row_of(request)
    version = value.get("version", _FIRST)
    if not _is_version(version):
        return None
    _check_version(version, row.version, older=_OLDER_SERVER, newer=_OLDER_COMMAND)
    if issubclass(row.reply, FileReply) and not value.get("file"):
        raise OtherVersionError(
            "the running server is of an older version and does not say which file it reads", "restart it, then repeat"
        )
    try:
        reply: Any = from_json(row.reply, value)
    except (ValueError, RecursionError):
        return None
    return reply  # type: ignore[no-any-return]  # the row's reply is that of the request's type


def _is_version(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_version(theirs: int, ours: int, *, older: tuple[str, str], newer: tuple[str, str]) -> None:
    if theirs != ours:
        raise OtherVersionError(*(older if theirs < ours else newer))


def _object(raw: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
