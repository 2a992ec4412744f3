"""The entry point of the `openme` command: so small that hardly any time passes before Ctrl-C is heard."""

import sys
from typing import NoReturn


def run() -> NoReturn:
    """Load the command line and run it; Ctrl-C meanwhile ends without a traceback, as it does later."""
    try:
        from openme.cli import main  # noqa: PLC0415  # what is interrupted is this import
    except KeyboardInterrupt:
        sys.exit(130)
    main.run()
