"""Several changes that stand together or not at all, also when Ctrl-C or SIGTERM comes between them."""

from collections.abc import Callable

from openme.interrupts import Interrupted, heard, held_back, ignore


def all_or_nothing(do: Callable[[], None], undo: Callable[[], str]) -> None:
    """Call `do`; if it raises, or a signal asks us to end meanwhile, `undo`, which nothing interrupts.

    `undo` may be called at any point of `do` or right after it. It returns what is so afterwards, in a few words, which
    an Interrupted carries out of here. What else `do` raises comes out as it is. In the main thread.
    """
    with held_back():
        try:
            with heard():
                do()
        except Interrupted as interrupted:
            ignore()  # a second one has nothing to end any more, and the outcome is still to be said
            raise Interrupted(interrupted.number, undo()) from None
        except BaseException:
            undo()
            raise
