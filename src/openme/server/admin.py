"""What every answer about the config says of its file (control/requests.py, `FileReply`)."""

from typing import TypedDict

from openme.config.content_hash import content_hash
from openme.server.config_watch import ConfigWatch


class AboutFile(TypedDict):
    """The fields of a `FileReply`."""

    file: str
    same: bool | None
    fault: str | None
    reading: bool


def about_file(watch: ConfigWatch, sha256: str | None) -> AboutFile:
    """The fields about the file, for a command that has seen this hash of its own."""
    return {
        "file": str(watch.path),
        "same": None if sha256 is None else content_hash(watch.path) == sha256,
        "fault": watch.fault,
        "reading": watch.is_reading,
    }
