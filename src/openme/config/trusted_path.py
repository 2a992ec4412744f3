"""Whether a name leads where its owner meant it to: nobody else can put another file in its place on the way."""

import os
import stat
from collections import deque
from pathlib import Path

_MAX_LINKS = 40  # path_resolution(7)


def changeable_by_others(path: Path, user: int) -> Path | None:
    """The first directory or link on the way to `path` that another than root and `user` can change; None if none is.

    A sticky directory that everybody may write to, such as /tmp, is as good as its entry: what belongs to root or
    `user` stays there. Also given for a way that has no end or cannot be looked at.
    """
    trusted = {0, user}
    steps = deque(path.absolute().parts)  # links and ".." as they stand: they are what it is about
    here = Path(steps.popleft())
    if _is_changeable(here, trusted):
        return here
    links = 0
    while steps:
        step = steps.popleft()
        if step == "..":  # there are no links in `here`
            here = here.parent
            continue
        entry = here / step
        try:
            status = entry.lstat()
            if status.st_uid not in trusted:
                return entry
            if stat.S_ISLNK(status.st_mode):
                links += 1
                target = Path(os.readlink(entry))  # noqa: PTH115  # its text, whatever it leads to
                if links > _MAX_LINKS:
                    return entry
                steps.extendleft(reversed(target.parts))
                if target.is_absolute():
                    here = Path(steps.popleft())
                continue
        except OSError:
            return entry
        if stat.S_ISDIR(status.st_mode) and _is_changeable(entry, trusted):
            return entry
        here = entry
    return None


def _is_changeable(directory: Path, trusted: set[int]) -> bool:
    try:
        status = directory.stat()
    except OSError:
        return True
    if status.st_uid not in trusted:
        return True
    return bool(status.st_mode & 0o022) and not status.st_mode & stat.S_ISVTX
