"""Rules of openme's in files that the boot loads into the firewall: what `serve` and `check-config` warn of.

A ruleset that was saved while a server ran holds its table, its rule in the host's chains, or the chain of an existing
server. Loaded at a boot it hides ports while nobody serves (docs/operating.md "Saving and restoring the host's rules").
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from glob import glob
from pathlib import Path

from openme.firewall.registry import kind_of

NFT_FILES = (Path("/etc/nftables.conf"), Path("/etc/sysconfig/nftables.conf"))
"""What the service nftables loads, on Debian and on Red Hat's systems."""
IPTABLES_FILES = (
    Path("/etc/iptables/rules.v4"),
    Path("/etc/iptables/rules.v6"),
    Path("/etc/sysconfig/iptables"),
    Path("/etc/sysconfig/ip6tables"),
)
"""What netfilter-persistent and the services iptables and ip6tables load."""
NFT_DIRECTORY = Path("/etc")
"""Where nft looks for an included file that is named without a directory."""
MAX_BYTES = 1 << 20
"""Of one file that are read: a saved ruleset of some 10,000 rules."""
MAX_FILES = 32

_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)

_COMMENT = re.compile(r"""^((?:[^"#\n]|"[^"\n]*")*)#.*$""", re.MULTILINE)
_END = r"(?![\w./\\-])"  # of a name
_STATEMENT = re.compile(
    r"""^[ \t]*include[ \t]+(?:"([^"\n]+)"|'([^'\n]+)')"""
    rf"|(?:\b(delete|destroy)[ \t]+)?\btable[ \t]+inet[ \t]+openme{_END}[ \t]*(\{{)?",
    re.MULTILINE,
)
# `iptables-restore` keeps our rule's comment where nft does not list it, so the bit tells it as well.
_MARK_RULE = re.compile(r"openme-mark-|\bmark & 0x40000000 != 0x0+\b|--mark 0x0/0x40000000\b")
_NFT_CHAIN = re.compile(r"\bchain[ \t]+(?:(?:ip|ip6|inet)[ \t]+filter[ \t]+)?openme" + _END)
_IPTABLES_CHAIN = re.compile(r"^(?::|-N[ \t]+)openme" + _END, re.MULTILINE)
_TELLING = ("include", "openme", "0x40000000")  # one is in whatever these expressions find
_HOW = "docs/operating.md, Saving and restoring the host's rules"


def saved_rule_warnings(
    firewall: str,
    nft_files: Iterable[Path] = NFT_FILES,
    iptables_files: Iterable[Path] = IPTABLES_FILES,
    nft_directory: Path = NFT_DIRECTORY,
) -> tuple[str, ...]:
    """One line for each kind of rule in each file.

    Nothing for a firewall that is not among the host's rules, nor of a file that cannot be read.
    """
    if not kind_of(firewall).abilities.among_host_rules:
        return ()
    lines: list[str] = []
    for path in nft_files:
        lines += _of_nft(path, nft_directory)
    for path in iptables_files:
        text = _read(path)
        lines += _of_text(path, text, has_table=False, has_chain=_IPTABLES_CHAIN.search(text) is not None)
    return tuple(lines)


def _of_nft(path: Path, directory: Path) -> Iterator[str]:
    """Of the file and of what it includes. A table that a later statement deletes again does not stay."""
    reading = _Reading(directory)
    holder: Path | None = None
    for file, statement in reading.statements(path):
        if statement.group(3) is None:
            holder = file
        elif statement.group(4) is None:
            holder = None
    for file, text in reading.texts.items():
        yield from _of_text(file, text, has_table=file == holder, has_chain=_NFT_CHAIN.search(text) is not None)


def _of_text(path: Path, text: str, *, has_table: bool, has_chain: bool) -> Iterator[str]:
    if has_table:
        yield (
            f"{path} holds openme's table: if a boot loads it, it hides ports and lets nobody in until openme serves;"
            f" save without it: {_HOW}"
        )
    if _MARK_RULE.search(text):
        yield (
            f"{path} holds a rule of openme's, which stays in the firewall when openme is gone; save without it: {_HOW}"
        )
    if has_chain:
        yield (
            f"{path} holds a chain openme, as existing servers have it: its rules come back whenever a boot loads it;"
            " remove them with openme serve --clean-up, then save the rules again"
        )


class _Reading:
    """A file and what it includes, as often as it is included, `MAX_FILES` times in all. `texts`: what was read."""

    def __init__(self, directory: Path) -> None:
        self.texts: dict[Path, str] = {}
        self._directory = directory
        self._left = MAX_FILES

    def statements(self, path: Path) -> Iterator[tuple[Path, re.Match[str]]]:
        """What is said of the table `inet openme`, in the order in which nft reads it."""
        if not self._left:
            return
        self._left -= 1
        if path not in self.texts:
            self.texts[path] = _COMMENT.sub(r"\1", _read(path))
        for statement in _STATEMENT.finditer(self.texts[path]):
            name = statement.group(1) or statement.group(2)
            if name is None:
                yield path, statement
                continue
            for included in () if not self._left else _matching(self._directory, name):
                yield from self.statements(included)


def _matching(directory: Path, name: str) -> list[Path]:
    """The files that an `include` names, which may be a pattern; in nft's order, by name."""
    with suppress(OSError, ValueError, RecursionError):
        return sorted(map(Path, glob(str(directory / name))))  # noqa: PTH207  # as for nft `**` is `*`, and `*` no dot file
    return []


def _read(path: Path) -> str:
    """The lines that may say something of us at the beginning of a regular file; empty where there is none for us.

    What we look for never goes over a line's end. Lists of addresses, which may be long, are not looked at closely.
    """
    content = b""
    with suppress(OSError, ValueError), os.fdopen(os.open(path, _READ), "rb") as file:
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            content = file.read(MAX_BYTES) or b""  # None of what has nothing to say now, as /proc/kmsg
    lines = content.decode(errors="replace").split("\n")
    return "\n".join(line for line in lines if any(word in line for word in _TELLING))
