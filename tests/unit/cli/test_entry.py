"""The first moments of a command."""

import subprocess
import sys

# An import that is interrupted: what Ctrl-C does to somebody who is quick.
INTERRUPTED = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "openme.cli.main":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from openme.cli.entry import run
run()
"""


def test_ctrl_c_while_the_program_loads_shows_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
