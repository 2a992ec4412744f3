"""What somebody may have meant by a word that is unknown."""

from collections.abc import Iterable


def closest(word: str, known: Iterable[str], alike: float = 0.6) -> str | None:
    """The known word that is spelt most like this one; None if none is like it: of 1, the same, at least `alike`."""
    import difflib  # noqa: PLC0415  # for whoever erred: a knock that is written right does not wait for it

    return next(iter(difflib.get_close_matches(word[:64], list(known), 1, alike)), None)
