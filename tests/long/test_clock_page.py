"""docs/clock.md, typed as it stands by a user with sudo on a fresh Debian 12, against NTS servers of our own.

Nothing in there may set a clock: systemd-nspawn gives no process the right. Debian's unit does not start chrony without
it, so both machines have an exception from that, and an option by which chrony does all but set the clock. What was
typed and shown is left in .cache/clock-page.txt.
"""

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.clock import Clock
from support.fresh_debian import FreshDebian, Terminal
from support.guest_image import CHECKOUT
from support.netns import add_addresses, connect, until, v4
from support.web import Authority, Certificate

pytestmark = [pytest.mark.root, pytest.mark.timeout(1500)]

CAP_SYS_TIME = 25  # linux/capability.h
BLOCK = re.compile(r"^```(sh|text|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\| `((?:sudo )?chrony[^`]+)` \|", re.MULTILINE)
OURS = "/etc/chrony/our-ca.pem"
PLAIN = "plain.example.net"
MONTH = 30 * 86400  # seconds
NOT_YET_VALID = "The certificate chain uses not yet valid certificate"
SERVER_CONFIG = """\
ntsserverkey /etc/chrony/ntp.key
ntsservercert /etc/chrony/ntp.crt
driftfile /var/lib/chrony/chrony.drift
local stratum 1
allow
"""


def section() -> str:
    page = (CHECKOUT / "docs/clock.md").read_text(encoding="utf-8")
    _, _, rest = page.partition("\n## Authenticated time on Debian: chrony with NTS\n")
    return rest.partition("\n## ")[0]


def block(kind: str) -> str:
    """The first block of this kind on the page."""
    return next(found[2] for found in BLOCK.finditer(section()) if found[1] == kind)


SOURCES = block("text")
NAMES = re.findall(r"^server (\S+) iburst nts$", SOURCES, re.MULTILINE)


class Hosts:
    """A board whose clock is to be right, and a machine that has three names and knows the time."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.board = FreshDebian(stack, "bookworm", "board", folder / "board")
        self.ntp = FreshDebian(stack, "bookworm", "ntp", folder / "ntp")
        connect(self.ntp.network, self.board.network)
        add_addresses(self.ntp.network, 3)
        add_addresses(self.ntp.network, 4)
        add_addresses(self.ntp.network, 5)
        for machine in (self.board, self.ntp):
            machine.write("etc/apt/apt.conf.d/90yes", 'APT::Get::Assume-Yes "true";\nDpkg::Use-Pty "false";\n')
            machine.write("etc/systemd/system/chrony.service.d/test.conf", "[Unit]\nConditionCapability=\n")
        named = zip((*NAMES, PLAIN), (1, 3, 4, 5), strict=True)
        lines = "".join(f"{v4(number)} {name}\n" for name, number in named)
        self.board.write("etc/hosts", f"127.0.0.1 localhost board\n{lines}")

    def put(self, certificate: Certificate) -> None:
        """What the NTS servers show."""
        self.ntp.write("etc/chrony/ntp.crt", certificate.certificate.read_text())
        self.ntp.write("etc/chrony/ntp.key", certificate.key.read_text(), 0o640)
        subprocess.run(["chroot", self.ntp.root, "chgrp", "_chrony", "/etc/chrony/ntp.key"], check=True)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    folder = CHECKOUT / ".cache" / "clock-page"
    with ExitStack() as stack:
        subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True)
        folder.mkdir(parents=True)
        stack.callback(lambda: subprocess.run(["rm", "-rf", "--one-file-system", folder], check=True))
        yield Hosts(stack, folder)


def typed(terminal: Terminal, command: str) -> str:
    """What a command that succeeds has shown."""
    code, shown = terminal.type(command)
    if code:
        shown += terminal.type("sudo journalctl --no-pager -n 20 -u chrony")[1]
    assert code == 0, f"{command}: exit code {code}\n{shown}"
    return shown


def rows(shown: str) -> tuple[list[str], dict[str, list[str]]]:
    """The head of a table of chronyc's, and its rows by the source's name, in words, without that."""
    lines = [line.rstrip() for line in shown.strip().splitlines()]
    (ruler,) = (at for at, line in enumerate(lines) if set(line) == {"="})
    found = {}
    for words in map(str.split, lines[ruler + 1 :]):
        (name,) = (word for word in words if word in {*NAMES, PLAIN})
        found[name] = [word for word in words if word != name]
    return lines[: ruler + 1], found


def in_use(terminal: Terminal) -> dict[str, str]:
    """How `chronyc sources` marks each source."""
    return {name: words[0] for name, words in rows(typed(terminal, "sudo chronyc -N sources"))[1].items()}


def until_used(terminal: Terminal) -> None:
    typed(terminal, "chronyc waitsync 120 0 0 1")
    assert "^*" in in_use(terminal).values()


def may_set_the_clock(terminal: Terminal) -> bool:
    shown = typed(terminal, "grep -h CapBnd /proc/1/status /proc/self/status")
    return any(int(word, 16) >> CAP_SYS_TIME & 1 for word in re.findall(r"CapBnd:\s+(\w+)", shown))


def test_the_page_works_as_typed(hosts: Hosts, tmp_path: Path) -> None:
    install, *edits, nano, require, restart = (line.partition("    ")[0] for line in block("sh").splitlines())
    authority = Authority(tmp_path)
    for machine in (hosts.ntp, hosts.board):
        with machine.installing() as terminal:
            typed(terminal, "sudo apt-get update -qq")
            assert "Setting up chrony" in typed(terminal, install)
            typed(terminal, """sudo sed -i 's/^DAEMON_OPTS="-F 1"/DAEMON_OPTS="-F 1 -x"/' /etc/default/chrony""")
    hosts.ntp.write("etc/chrony/chrony.conf", SERVER_CONFIG)
    hosts.put(authority.certificate(*NAMES))
    hosts.ntp.boot()
    hosts.board.boot()
    ntp, board = hosts.ntp.terminal(), hosts.board.terminal()
    try:
        assert not may_set_the_clock(ntp)
        assert not may_set_the_clock(board)
        for edit in edits:
            typed(board, edit)
        assert nano.startswith("sudo nano ")
        hosts.board.write(nano.removeprefix("sudo nano ").strip().removeprefix("/"), SOURCES)
        typed(board, require)
        hosts.board.write(OURS.removeprefix("/"), authority.file.read_text())
        assert f"`ntstrustedcerts {OURS}`" in section().replace("\n", " ")
        typed(board, f"echo 'ntstrustedcerts {OURS}' | sudo tee -a /etc/chrony/conf.d/nts.conf")
        typed(board, restart)
        until_used(board)
        _shows_what_the_page_shows(board)
        _checks_the_configuration(board)
        _never_uses_what_proves_nothing(hosts, board)
        _wants_a_rough_time_to_begin_with(hosts, ntp, board, authority.certificate(*NAMES, clock=later(tmp_path)))
    finally:
        (CHECKOUT / ".cache/clock-page.txt").write_text(board.seen)


def later(folder: Path) -> Clock:
    clock = Clock(folder)
    clock.step(MONTH)
    return clock


def _shows_what_the_page_shows(board: Terminal) -> None:
    """Head for head and column for column; what is counted and measured differs each time."""
    commands = re.split(r"^\$ (.+)\n", block("console"), flags=re.MULTILINE)[1:]
    pages = dict(zip(commands[::2], commands[1::2], strict=True))
    authdata, sources = "sudo chronyc -N authdata", "sudo chronyc -N sources"
    assert list(pages) == [authdata, sources]
    for command, page in pages.items():
        head, found = rows(typed(board, command))
        page_head, page_found = rows(page)
        assert head == page_head
        assert list(found) == list(page_found) == NAMES
        if command == authdata:
            expected = ("NTS", "1", "15", "256", "0", "0", "8", "100")  # Mode, KeyID, Type, KLen, Atmp, NAK, Cook, CLen
            for shown in (found, page_found):
                for name, (*kind, _last, attempts, refused, cookies, size) in shown.items():
                    assert (*kind, attempts, refused, cookies, size) == expected, name
        else:
            for shown in (found, page_found):
                marks = sorted(words[0] for words in shown.values())
                assert marks[0] == "^*"
                assert set(marks[1:]) <= {"^+", "^-"}, "one is in use, the others agree or are further away"
                assert {words[1] for words in shown.values()} == {"1"}, "the stratum"


def _checks_the_configuration(board: Terminal) -> None:
    printed, asked, tracking, waiting = COMMAND.findall(section())
    shown = typed(board, printed)
    assert "authselectmode require" in shown
    assert not re.search(r"^pool ", shown, re.MULTILINE)
    assert "Leap status     : Normal" in typed(board, tracking)
    assert "try: 1" in typed(board, waiting)
    typed(board, "sudo systemctl stop chrony")
    assert "System clock wrong by" in typed(board, asked)
    typed(board, "sudo systemctl start chrony")
    until_used(board)


def _never_uses_what_proves_nothing(hosts: Hosts, board: Terminal) -> None:
    (reload,) = re.findall(r"`(sudo chronyc reload sources)`", section())
    with_plain = f"{SOURCES}server {PLAIN} iburst\n"
    hosts.board.write("etc/chrony/sources.d/nts.sources", with_plain)
    typed(board, reload)
    until(lambda: in_use(board).get(PLAIN) == "^?", 60)
    until(lambda: rows(typed(board, "sudo chronyc -N sources"))[1][PLAIN][3] != "0", 60)  # it answers: Reach
    assert rows(typed(board, "sudo chronyc -N authdata"))[1][PLAIN][0] == "-"
    assert in_use(board)[PLAIN] == "^?"
    hosts.board.write("etc/chrony/sources.d/nts.sources", SOURCES)
    typed(board, reload)
    until(lambda: PLAIN not in in_use(board), 60)


def _wants_a_rough_time_to_begin_with(hosts: Hosts, ntp: Terminal, board: Terminal, ahead: Certificate) -> None:
    """The board's clock stands before the certificate's first day, as one without a battery would."""
    page = (CHECKOUT / "docs/clock.md").read_text(encoding="utf-8")
    assert f"`{NOT_YET_VALID}`" in page
    hosts.put(ahead)
    typed(ntp, "sudo systemctl restart chrony")
    begin_anew = "sudo sh -c 'systemctl stop chrony; rm -f /var/lib/chrony/*; systemctl start chrony'"
    typed(board, begin_anew)
    until(lambda: NOT_YET_VALID in typed(board, "sudo journalctl --no-pager -u chrony"), 60)
    assert set(in_use(board).values()) == {"^?"}
    (way_out,) = re.findall(r"`(nocerttimecheck 1)` in `nts.conf`", page)
    typed(board, f"echo '{way_out}' | sudo tee -a /etc/chrony/conf.d/nts.conf")
    typed(board, begin_anew)
    until_used(board)
