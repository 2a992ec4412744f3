"""What the garbage collector looks through: with tens of thousands of clients in memory that alone takes 50 ms."""

import gc

_NEW_OBJECTS = 20_000  # until a search begins: more than a batch of knocks has under way, a few MiB at most


def search_seldom() -> None:
    """Search when there may be much to find, not in the midst of each batch, whose objects are all still in use.

    What a knock leaves behind is in no cycle, so that it goes without any search.
    """
    gc.set_threshold(_NEW_OBJECTS)


def set_aside() -> None:
    """Take all that there is now from the collector's sight, but what is garbage already, which would stay for good.

    It costs what has been made since the last time, so say it often.
    """
    gc.collect()
    gc.freeze()
