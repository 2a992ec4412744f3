"""`openme demo`."""

import argparse

from openme.cli.commands import Action
from openme.demo.demo import demo


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "needs root, nmap, nftables, iproute2; under a minute; nothing of this machine's network is touched"


def _run(_args: argparse.Namespace) -> int:
    return demo()


DEMO = Action(_arguments, _run)
