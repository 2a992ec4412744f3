"""How the processes beside the keeper come to be."""

import subprocess
import sys

_FORKS = """
import os, signal
from openme.processes.children import fork_with_lifeline, wait_for

fork, parent = os.fork, os.getpid()

def fork_and_interrupt():
    child = fork()
    if not child:
        os.kill(os.getpid(), signal.SIGINT)
    return child

os.fork = fork_and_interrupt
try:
    child, lifeline = fork_with_lifeline(lambda lifeline: os.read(lifeline, 1))
except KeyboardInterrupt:
    print("in the child" if os.getpid() != parent else "in the parent", flush=True)
    os._exit(1)
os.write(lifeline, b"1")
print(wait_for(child), flush=True)
"""


def test_a_ctrl_c_right_after_the_fork_does_not_let_the_child_run_on_as_its_parent() -> None:
    """A KeyboardInterrupt there would undo, in the child, what the parent has made."""
    done = subprocess.run([sys.executable, "-c", _FORKS], capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout == "0\n", done.stderr
