"""`openme demo`."""

import argparse

from openme.server.demo import demo


def configure(_name: str, parser: argparse.ArgumentParser) -> None:
    """`demo` has no arguments."""
    parser.epilog = "needs root, nmap, nftables, iproute2; under a minute; nothing of this machine's network is touched"


def run(_name: str, _args: argparse.Namespace) -> int:
    """Show the story."""
    return demo()
