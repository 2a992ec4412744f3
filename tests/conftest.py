"""For all tests."""

import contextlib
import signal

# A runner in the background may have SIGINT ignored, and every program that a test starts would inherit that: Ctrl-C,
# which several tests send, would do nothing. A handler of ours is reset to the default in what we start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)
