"""How long does `openme knock` take, beside a script that imports its libraries and sends one packet?"""

import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass

from bench import fwknop
from bench.figures import Bars, Goal, Report, Table, median, milliseconds, number
from bench.world import PEER, World, world
from support.netns import until
from support.server import KNOCK_PORT, OPENME

TITLE = "`openme knock` from start to exit"
_OURS, _CHECKED = "`openme knock`", "`openme knock --check`"
_BARE = f"""
import socket
import monocypher
import nacl.bindings
import yaml
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(bytes(165), ("{PEER}", {KNOCK_PORT}))
"""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rounds: int = 25


SMALL = Sizes(rounds=2)


def measure(sizes: Sizes) -> Report:
    """The commands in turns."""
    with world(1) as hosts:
        profile = hosts.add("alice", server_host=PEER)
        subject = hosts.serve_openme()
        openme = [OPENME, "--client-config", str(profile), "knock"]
        commands: dict[str, tuple[list[str], dict[str, str]]] = {
            _OURS: (openme, {}),
            _CHECKED: ([*openme, "--check"], {}),
            "bare script": ([sys.executable, "-c", _BARE], {}),
            "an empty Python": ([sys.executable, "-c", ""], {}),
        }
        if fwknop.is_there():
            commands["fwknop 2.6"] = fwknop.command(hosts.folder)
        with closing(subject.follow()) as log:
            taken = _in_turns(hosts, commands, sizes.rounds)
            # Once more than measured: the first round fills the caches.
            until(lambda: log.look() is not None and log.count >= 2 * (sizes.rounds + 1))
    ours, bare = median(taken[_OURS]), median(taken["bare script"])
    rows = [
        (name, milliseconds(median(seconds)), f"{number(median(seconds) / bare)}") for name, seconds in taken.items()
    ]
    return Report(
        [Goal("`openme knock`, start to exit", "below 1.5 bare scripts", f"{number(ours / bare)}", ours / bare < 1.5)],
        [Table(("command", "median", "bare scripts"), rows, "All of its knocks opened a door.")],
        [
            Bars(
                *("command", "openme knock, from start to exit", "milliseconds"),
                {name.strip("`"): median(seconds) * 1000 for name, seconds in taken.items()},
                frozenset(name.strip("`") for name in taken if name not in {_OURS, _CHECKED}),
            )
        ],
    )


def _in_turns(
    hosts: World, commands: dict[str, tuple[list[str], dict[str, str]]], rounds: int
) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {name: [] for name in commands}
    with hosts.client.entered():  # without a program that enters it each time
        for turn in range(rounds + 1):
            for name, (words, variables) in commands.items():
                environment = {"PATH": os.environ["PATH"], "HOME": str(hosts.folder), **variables}
                begin = time.perf_counter()
                done = subprocess.run(
                    words, env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL
                )
                seconds = time.perf_counter() - begin
                if done.returncode != 0:
                    raise SystemExit(f"{name} ended with {done.returncode}: {done.stderr.decode()}")
                if turn:
                    taken[name].append(seconds)
    return taken
