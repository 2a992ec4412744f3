"""Manual pages in man(7): one of openme, one a command, and two of its files, from the rows of their keys."""

import re
from collections.abc import Iterable, Sequence

from tools.reference.words import Option, Words

from openme import __version__
from openme.cli.commands import COMMANDS
from openme.cli.main import DEFAULT_CONFIG, EXIT_CODES, PURPOSE, USAGE
from openme.config.keys import Key
from openme.config.profile_keys import PROFILE_KEYS
from openme.config.server_keys import CLIENT_KEYS, SERVER_KEYS

DATE = "2026-11-26"
"""Of this version's pages: a page that said when it was made would differ each time."""
SERVER_FILE = "openme-config"
CLIENT_FILE = "openme-client-config"
_CHARACTERS = {"\\": r"\e", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"}
_CODE = re.compile(r"`([^`]*)`")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


def pages(common: Sequence[Option], commands: Sequence[Words]) -> dict[str, str]:
    """Each page's text, by its file's name."""
    names = {option.names for option in common}
    found = {"openme.1": _overview(common)}
    for words in commands:
        own = [option for option in words.options if option.names not in names]
        found[f"openme-{words.command.name}.1"] = _command(words, own, common)
    found[f"{SERVER_FILE}.5"] = _file(
        SERVER_FILE,
        "the file of an openme server",
        f"A file in YAML, {DEFAULT_CONFIG} unless --config names another. It is secret, and openme init writes it."
        " Durations are written 30s, 1m30s, 2h or 7d. openme check-config says what is wrong with it.",
        (("Keys under server", SERVER_KEYS), ("Keys of a client", CLIENT_KEYS)),
        ("openme-init", "openme-check-config", "openme-serve"),
    )
    found[f"{CLIENT_FILE}.5"] = _file(
        CLIENT_FILE,
        "the file of an openme client",
        "A file in YAML, ~/.openme/config.yaml unless --client-config names another. It is secret. Each entry under"
        " profiles is a server that this client knows, by the name of the profile.",
        (("Keys of a profile", PROFILE_KEYS),),
        ("openme-knock", "openme-profiles", "openme-add"),
    )
    return found


def _overview(common: Sequence[Option]) -> str:
    lines = [*_head("openme", 1, "hides ports until one signed UDP packet opens them"), ".SH SYNOPSIS"]
    lines += [_bold_first(USAGE), ".SH DESCRIPTION", *_text(PURPOSE), ".SH COMMANDS"]
    for command in COMMANDS:
        lines += [".TP", rf".BR {_escaped(f'openme-{command.name}')} (1)", *_text(f"{command.help} ({command.group})")]
    lines += [".SH OPTIONS", *_options(common), *_ends()]
    return _page(lines, [f"openme-{command.name}(1)" for command in COMMANDS])


def _command(words: Words, own: Sequence[Option], common: Sequence[Option]) -> str:
    name, told = f"openme-{words.command.name}", words.command.help
    lines = [*_head(name, 1, told), ".SH SYNOPSIS", _bold_first(words.usage)]
    lines += [".SH DESCRIPTION", *_text(told[:1].upper() + told[1:].rstrip("?") + ".")]
    if words.epilog:
        lines += [".PP", ".nf", *(line for text in words.epilog.split("\n") for line in _text(text.strip())), ".fi"]
    if words.arguments:
        lines.append(".SH ARGUMENTS")
        for argument in words.arguments:
            lines += [".TP", rf"\fI{_escaped(argument.value.name)}\fR", *_text(argument.help)]
    if own:
        lines += [".SH OPTIONS", *_options(own)]
    lines += [".SH COMMON OPTIONS", *_options(common), *_ends()]
    return _page(lines, ["openme(1)", f"{SERVER_FILE}(5)", f"{CLIENT_FILE}(5)"])


def _file(
    name: str, told: str, description: str, tables: Iterable[tuple[str, Iterable[Key]]], also: Sequence[str]
) -> str:
    lines = [*_head(name, 5, told), ".SH DESCRIPTION", *_text(description)]
    for heading, keys in tables:
        lines.append(f".SH {heading.upper()}")
        for key in keys:
            lines += [".TP", rf"\fB{_escaped(key.name)}\fR", *_text(_plain(key.help) + ".")]
            absent = _plain(key.absent if key.default is None else key.default)
            if absent != "none":
                lines += [".br", *_text(f"{'Without it' if key.default is None else 'Default'}: {absent}.")]
            if key.needs_restart:
                lines += [".br", *_text("Read only at a start.")]
    return _page(lines, [f"{page}(1)" for page in also])


def _head(name: str, section: int, told: str) -> list[str]:
    title = f'.TH {_escaped(name.upper())} {section} {DATE} "openme {__version__}" "openme manual"'
    return [title, ".SH NAME", rf"{_escaped(name)} \- {_escaped(told)}"]


def _ends() -> list[str]:
    lines = [".SH EXIT STATUS"]
    for code in EXIT_CODES:
        number, _, told = code.partition(" ")
        lines += [".TP", number, *_text(told)]
    lines += [".SH FILES", ".TP", rf"\fI{DEFAULT_CONFIG}\fR", "the server\\(aqs config"]
    return [*lines, ".TP", r"\fI\(ti/.openme/config.yaml\fR", "the client\\(aqs profiles"]


def _page(lines: Iterable[str], also: Sequence[str]) -> str:
    seen = [f".BR {_escaped(page[:-3])} {page[-3:]}{',' * (page != also[-1])}" for page in also]
    return "\n".join(
        (r".\" Made by make reference from the commands and keys themselves.", *lines, ".SH SEE ALSO", *seen, "")
    )


def _options(options: Iterable[Option]) -> list[str]:
    lines = []
    for option in options:
        value = "" if option.value is None else rf" \fI{_escaped(option.value.name)}\fR"
        lines += [".TP", ", ".join(rf"\fB{_escaped(name)}\fR{value}" for name in option.names), *_text(option.help)]
    return lines


def _bold_first(usage: str) -> str:
    """A usage with its command in bold: the words before the first that is an option or a value."""
    words = usage.split()
    count = next((at for at, word in enumerate(words) if not re.fullmatch(r"[a-z][a-z-]*", word)), len(words))
    return rf"\fB{_escaped(' '.join(words[:count]))}\fR {_escaped(' '.join(words[count:]))}".rstrip()


def _plain(markdown: str) -> str:
    """Without its links and code marks."""
    return _CODE.sub(r"\1", _LINK.sub(r"\1", markdown))


def _text(text: str) -> list[str]:
    """A paragraph, of which no line is taken for a request."""
    escaped = _escaped(text)
    return [rf"\&{escaped}" if escaped.startswith(".") else escaped]


def _escaped(text: str) -> str:
    """Characters as they are typed, whatever a formatter would make of them; all in ASCII."""
    return "".join(_CHARACTERS.get(c, c if c.isascii() else rf"\[u{ord(c):04X}]") for c in text)
