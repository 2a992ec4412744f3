"""The looks of a client."""

from openme.doctor.client import answer, kept, keys, names, path, signer
from openme.doctor.client.subject import Client
from openme.doctor.clock import CLOCK, clock_is_wrong
from openme.doctor.looks import Look

PROFILE = "client_file"
"""Found before any look: the client's file, or the profile, cannot be used."""

_BEFORE_A_KNOCK = ("epoch keys", "identity", "name", "route")

LOOKS: tuple[Look[Client], ...] = (
    Look("clock", (CLOCK,), lambda client: clock_is_wrong(client.ntp)),
    Look("epoch keys", (keys.MISSING, keys.ENDED, keys.NOT_BEGUN), keys.epoch_keys),
    Look("kept files", (kept.KEPT,), kept.kept_files),
    Look("place of the file", (kept.CHANGEABLE,), kept.place),
    Look("identity", (signer.IDENTITY,), signer.identity),
    Look("name", (names.UNKNOWN, names.SILENT, names.HERE, names.TOO_MANY), names.name),
    Look("route", (names.NO_ROUTE,), names.route, after=("name",)),
    Look("udp", (path.REFUSED, path.UNREACHABLE), path.udp, after=("name", "route")),
    Look(
        "receipt",
        (answer.NOT_AS_ASKED, answer.KEYS_REFUSED, answer.SILENT_ADDRESS),
        answer.receipts,
        after=_BEFORE_A_KNOCK,
        seconds=16,
    ),
    Look("end of the keys", (keys.END_SOON,), keys.end, after=("epoch keys", "receipt"), seconds=16),
    Look("server's clock", (answer.SERVER_CLOCK,), answer.server_clock, after=("clock", *_BEFORE_A_KNOCK), seconds=16),
    Look(
        "answer",
        (answer.UNPROVEN, answer.NAT64, answer.NAMED, answer.NONE, answer.NOT_SENT),
        answer.answer,
        after=("clock", "udp", *_BEFORE_A_KNOCK),
        seconds=16,
    ),
)
