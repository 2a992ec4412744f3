"""Boots another kernel in an emulated machine, runs tests in it, and brings their report back.

    with Guest("5.10", folder, ["tests/long/guest"]) as guest:
        guest.report()    # the outcome of every test, once the machine has switched itself off

The machine is emulated and not virtualised, so that it runs everywhere alike, some twenty times slower than this one.
Its clocks do not notice: they count instructions, so that a second in there is a second of a machine of its own,
however busy this one is, and a guest that only waits for a timer has it at once. Two serial lines lead out of it:
`console`, what pytest prints, and `report`, its JUnit file.
"""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from xml.etree import ElementTree as ET

from support.guest_image import CHECKOUT, MissingError, build_tree, pack, program

CLOCK = "shift=1,sleep=off"
"""2 ns an instruction: a machine that needs some 0.3 s to start a Python."""
MEMORY = "1536"  # MiB
SECONDS = 3600.0
"""The time after which a guest that has not switched itself off is ended."""

_SCRIPT = """\
cd {checkout}
stty -F /dev/ttyS1 raw
echo "kernel $(uname -r)"
export OPENME_GUEST=1
{python} -m pytest --color=no -p no:cacheprovider -o console_output_style=classic --junitxml=/tmp/report.xml {tests}
cat /tmp/report.xml > /dev/ttyS1
"""


@dataclass(frozen=True)
class Outcome:
    """How one test in the guest ended: `passed`, `failed` or `skipped`, and what it said."""

    file: str
    name: str
    kind: str
    said: str


def read_report(text: str) -> list[Outcome]:
    """Pytest's JUnit file. AssertionError if it is none, or ends early."""
    try:
        root = ET.fromstring(text)  # noqa: S314  # pytest's own file
    except ET.ParseError as error:
        raise AssertionError(f"the guest's report cannot be read: {error}") from None
    return [_outcome(case) for case in root.iter("testcase")]


def _outcome(case: ET.Element) -> Outcome:
    kind, said = "passed", ""
    for child in case:
        if child.tag in {"failure", "error"}:
            kind, said = "failed", f"{child.get('message', '')}\n{child.text or ''}"
        elif child.tag == "skipped":
            kind, said = "skipped", child.get("message", "")
    # `tests.long.guest.test_rules`; a file that could not be read at all has its name there and no class
    name = case.get("name", "")
    return Outcome((case.get("classname") or name).rpartition(".")[2], name, kind, said)


class Guest:
    """An emulated machine with the kernel of one release, already booting."""

    def __init__(self, release: str, folder: Path, tests: list[str]) -> None:
        """`tests` are what pytest is given in the guest; `folder` takes the image and what comes out.

        MissingError if this machine lacks what that takes.
        """
        kernel = CHECKOUT / ".cache/kernels" / release
        if not (kernel / "vmlinuz").exists():
            raise MissingError(f"kernel {release} is not under .cache/kernels: run make test-long, which fetches it")
        emulator = program("qemu-system-x86_64")
        folder.mkdir(parents=True, exist_ok=True)
        self.release = release
        self._console = folder / f"console-{release}"
        self._report = folder / f"report-{release}"
        image = folder / f"initramfs-{release}"
        tree = folder / f"tree-{release}"
        script = _SCRIPT.format(
            checkout=shlex.quote(str(CHECKOUT)), python=shlex.quote(sys.executable), tests=shlex.join(tests)
        )
        for old in (self._console, self._report):
            old.unlink(missing_ok=True)
        build_tree(tree, script)
        pack(tree, kernel, image)
        self._process = subprocess.Popen(
            [
                *(str(emulator), "-accel", "tcg", "-cpu", "max", "-m", MEMORY, "-display", "none", "-monitor", "none"),
                *("-icount", CLOCK, "-rtc", "clock=vm"),
                *("-no-reboot", "-nodefaults", "-kernel", str(kernel / "vmlinuz"), "-initrd", str(image)),
                *("-append", "console=ttyS0 quiet panic=-1", "-serial", f"file:{self._console}"),
                *("-serial", f"file:{self._report}"),
            ],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def console(self) -> str:
        """What the guest has printed so far."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def report(self) -> list[Outcome]:
        """Wait until the guest is done. AssertionError with its last lines if it has not come to a report."""
        try:
            _, said = self._process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"kernel {self.release} was not done after {SECONDS:.0f} s: {self._end()}") from None
        assert self._process.returncode == 0, f"qemu ended with {self._process.returncode}: {said}"
        assert f"kernel {self.release}." in self.console(), f"kernel {self.release} did not come up: {self._end()}"
        text = self._report.read_text(errors="replace")
        assert text, f"kernel {self.release} has sent no report: {self._end()}"
        return read_report(text)

    def _end(self) -> str:
        return "\n".join(self.console().splitlines()[-40:])
