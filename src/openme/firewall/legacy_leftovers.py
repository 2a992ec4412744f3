"""The same as `leftovers` in the tables of iptables-legacy, which only its own programs show and change."""

import shlex
import subprocess
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

from openme.firewall.base import FirewallError
from openme.firewall.leftovers import CHAIN, TABLE, FoundRule, Leftovers, judged
from openme.firewall.legacy_tables import KERNEL_LISTS, in_use

_SECONDS = 10
_LOCK_SECONDS = "5"


class LegacyLeftovers(NamedTuple):
    """What one of the two programs shows, and the text with which its `-restore` removes it."""

    program: str
    found: Leftovers
    restore: str


def legacy_leftovers(listed: Mapping[str, str] = KERNEL_LISTS) -> tuple[list[LegacyLeftovers], list[str]]:
    """What stands in `filter` of iptables-legacy and ip6tables-legacy, and a line for each that could not be looked at.

    Nothing where the kernel has no such table in use: asking would load it. `listed`: where the kernel lists the tables
    of each program.
    """
    found, unseen = [], []
    for program, path in listed.items():
        if TABLE not in in_use(path):
            continue
        try:
            saved = subprocess.run(
                [f"{program}-save", "-t", TABLE], capture_output=True, text=True, check=True, timeout=_SECONDS
            ).stdout
        except FileNotFoundError:
            unseen.append(f"{program} {TABLE} has rules, which only the program {program}-save shows: it is missing")
            continue
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            unseen.append(f"{program} {TABLE} has rules that could not be looked at: {program}-save: {error}")
            continue
        if (item := read_saved(program, saved)) is not None:
            found.append(item)
    return found, unseen


def read_saved(program: str, saved: str) -> LegacyLeftovers | None:
    """What `program`-save has said of the table `filter`, judged; None if nothing is the existing server's. Pure."""
    rules: list[FoundRule] = []
    exists = False
    for line in saved.splitlines():
        if line.startswith(f":{CHAIN} "):
            exists = True
        if not line.startswith("-A "):
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            words = line.split()
        rules.append(FoundRule(words[1], _after(words, "--comment"), _after(words, "-j", "-g"), line[3:]))
    ours, whole, doubt = judged(rules, chain_exists=exists)
    if not (ours or whole or doubt):
        return None
    changes = [f"-D {rule.name}" for rule in ours] + ([f"-F {CHAIN}", f"-X {CHAIN}"] if whole else [])
    command = " && ".join(f"{program} {change}" for change in changes) or f"{program} -S {CHAIN}"
    text = "".join(f"{line}\n" for line in (f"*{TABLE}", *changes, "COMMIT"))
    return LegacyLeftovers(program, Leftovers(f"{program} {TABLE}", ours, whole, doubt, command), text)


def remove(item: LegacyLeftovers) -> None:
    """Remove it, all or nothing. FirewallError with what the program said."""
    try:
        subprocess.run(
            [f"{item.program}-restore", "--noflush", "-w", _LOCK_SECONDS],
            input=item.restore,
            capture_output=True,
            text=True,
            check=True,
            timeout=_SECONDS,
        )
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().partition("\n")[0]
        raise FirewallError(f"{item.program}-restore: {said or 'failed'}", f"by hand: {item.found.command}") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise FirewallError(f"{item.program}-restore: {error}", f"by hand: {item.found.command}") from None


def _after(words: list[str], *options: str) -> str:
    for option, value in pairwise(words):
        if option in options:
            return value
    return ""
