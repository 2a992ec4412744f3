"""`openme`, and a signal that it gets at one place of its own code: always there, however fast the machine is.

    python interrupting.py SIGNAL FUNCTION COUNT WORD...

The signal comes when a function of this name is called for the COUNT-th time since the entry point began, in whichever
module, and one that is built in too; ANY stands for every function, AT_THE_END for what comes after the last. It comes
from another process, since a server that is confined may not even signal itself.
"""

import os
import sys
from collections.abc import Callable
from types import FrameType

ANY = "ANY"
AT_THE_END = "AT_THE_END"


class Last:
    """Calls a function when the interpreter takes its modules apart, which comes after all else."""

    def __init__(self, called: Callable[[], None]) -> None:
        self._called = called

    def __del__(self) -> None:
        self._called()


def sender(number: int) -> Callable[[], None]:
    """A process that signals this one. The function returns when it has, if we are still there then."""
    asked, ask = os.pipe()
    answered, answer = os.pipe()
    target = os.getpid()
    if os.fork():
        os.close(asked)
        os.close(answer)
        write, read = os.write, os.read  # the interpreter's end takes the name `os` away first

        def send() -> None:
            write(ask, b"1")
            read(answered, 1)

        return send
    for descriptor in (0, 1, 2, ask, answered):
        os.close(descriptor)
    if os.read(asked, 1):
        os.kill(target, number)
        os.write(answer, b"1")
    os._exit(0)


def main() -> None:
    """Run the command line with its signal."""
    number, wanted, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    sys.argv = ["openme", *sys.argv[4:]]
    seen, own = 0, os.getpid()
    send = sender(number)
    if wanted == AT_THE_END:
        vars(sys)["kept"] = Last(send)  # what other modules hold may be lost from the collector's sight: gc.freeze

    def on_call(frame: FrameType, event: str, called: object) -> None:
        nonlocal seen
        if event not in {"call", "c_call"}:
            return
        name = frame.f_code.co_name if event == "call" else getattr(called, "__name__", "")
        if wanted in {name, ANY}:
            seen += 1
            if seen == count and os.getpid() == own:
                sys.setprofile(None)
                send()

    from openme.cli.entry import run  # noqa: PLC0415  # the script of the installed package does it there, too

    sys.setprofile(on_call)
    run()


if __name__ == "__main__":
    main()
