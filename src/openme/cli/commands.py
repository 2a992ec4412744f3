"""The commands: the one list, from which the overview, the help, the parser and the tests follow (decision 0020).

A new command is an object here, and an `Action` in the module that it names. Both classes are tuples, since every start
makes them (decision 0027).
"""

import argparse
import importlib
from collections.abc import Callable
from typing import Literal, NamedTuple, cast

Group = Literal["server", "client", "both"]


class Action(NamedTuple):
    """What a command does. `arguments` gives the parser its arguments; `run` does it and returns the exit code.

    OpenmeError from `run` is for the user to read.
    """

    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class Command(NamedTuple):
    """A command as the overview has it.

    `group`: whose file it reads. `place`: the module under `openme.cli` and the name of the action in it, as
    `module:NAME`; nothing of it is imported before `load`. `answers`: what it prints is all that it is for. Any other
    prints beside its work, or only with `--json`.
    """

    name: str
    group: Group
    place: str
    help: str
    answers: bool = False

    def load(self) -> Action:
        """Import the command's module."""
        module, _, name = self.place.partition(":")
        return cast("Action", getattr(importlib.import_module(f"openme.cli.{module}"), name))


COMMANDS = (
    Command("init", "server", "init:INIT", "make a server's keys and config"),
    Command("add", "server", "clients:ADD", "register a client and print its profile"),
    Command("renew", "server", "clients:RENEW", "print a client's file again, with the current keys"),
    Command("list", "server", "clients:LIST", "the registered clients", answers=True),
    Command("revoke", "server", "clients:REVOKE", "take a client's access away"),
    Command("close", "server", "clients:CLOSE", "end a client's open doors now"),
    Command("unhide", "server", "unhide:UNHIDE", "stop hiding a port that the config no longer names"),
    Command(
        "reset",
        "server",
        "clients:RESET",
        "accept a client's, or everybody's, knocks again after a clock was far ahead",
    ),
    Command(
        "check-config",
        "server",
        "check_config:CHECK_CONFIG",
        "say what is wrong with a config, and with this host for it",
    ),
    Command("serve", "server", "serve:SERVE", "run the server"),
    Command("try", "server", "serve:TRY", "hide the ports, and undo it unless somebody knocks in time"),
    Command("sessions", "server", "sessions:SESSIONS", "who is in, and everybody's last knock", answers=True),
    Command(
        "epochs",
        "server",
        "keys:EPOCHS",
        "where the key ratchet stands, and how far each client's keys reach",
        answers=True,
    ),
    Command("rotate", "server", "keys:ROTATE", "change the server's keys"),
    Command("knock", "client", "knock:KNOCK", "open the door"),
    Command("status", "client", "knock:STATUS", "is the door open?"),
    Command(
        "connect", "client", "connect:CONNECT", "carry a connection through the door: ssh's ProxyCommand", answers=True
    ),
    Command(
        "ssh-config", "client", "ssh_config:SSH_CONFIG", "what makes ssh use connect, for ~/.ssh/config", answers=True
    ),
    Command("keygen", "client", "keygen:KEYGEN", "make a client's key, or take one that is there"),
    Command("import", "client", "import_profiles:IMPORT", "take profiles from a file, stdin or a QR code"),
    Command("profiles", "client", "profiles:PROFILES", "the servers that this client knows", answers=True),
    Command("doctor", "both", "doctor:DOCTOR", "what is wrong, on either side, and what to do about it", answers=True),
    Command(
        "completion",
        "both",
        "completion:COMPLETION",
        "what makes a shell complete openme's words when you press Tab",
        answers=True,
    ),
    Command(
        "demo",
        "both",
        "demo:DEMO",
        "the whole story on this machine, in network namespaces of its own",
        answers=True,
    ),
)
"""In the order of the overview, those of a group together."""
