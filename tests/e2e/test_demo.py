"""`openme demo` shows its story, and leaves nothing behind however it ends."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from openme.demo.demo_hosts import Host
from openme.errors import OpenmeError
from support import interrupting
from support.netns import until

OPENME = Path(sys.executable).with_name("openme")
SECONDS = 60.0
ENDED_EARLY = "openme: ended early; the three hosts are gone, nothing is left\n"
PROMISES = (
    "-> anybody on the network finds port 22",
    "-> config and profile can be read by their owner alone",
    "-> the server serves",
    "-> all ports look alike: filtered",
    "-> the knock port looks like its neighbours",
    "-> the door is shut to alice too",
    "-> one signed packet opened the door",
    "-> alice talks to the service",
    "-> mallory is still shut out",
    "-> the server knows who is in",
    "-> alice finds no open port any more",
    "-> the door is shut again",
    "-> the connection that was open lives on",
    "-> nobody is in, and the last knock is remembered",
    "-> the log says what happened",
    "-> nothing of openme's is left in it",
    "Every step showed what it promised.",
)


class Demo:
    """A running demo; everything it does stays inside `directory`, which is its TMPDIR."""

    def __init__(self, directory: Path, program: Sequence[str | Path] = (OPENME,)) -> None:
        directory.mkdir()
        self.directory = directory
        self.log = directory.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*program, "demo"],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={"PATH": os.environ["PATH"], "TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )

    def output(self) -> str:
        return self.log.read_text()

    def wait_for(self, text: str) -> None:
        def seen() -> bool:
            assert self.process.poll() is None or text in self.output(), self.output()
            return text in self.output()

        until(seen, SECONDS)

    def end(self) -> int:
        return self.process.wait(SECONDS)

    def processes(self) -> list[int]:
        """The processes of the demo's hosts: all live in its directory."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                here = (entry / "cwd").readlink()
            except OSError:
                continue
            if here.is_relative_to(self.directory):
                found.append(int(entry.name))
        return found

    def networks(self) -> set[str]:
        """Their network namespaces."""
        return {found for pid in self.processes() if (found := network_of(Path(f"/proc/{pid}")))}

    def left_nothing(self) -> None:
        assert not list(self.directory.iterdir())
        assert not self.processes()


def network_of(process: Path) -> str | None:
    try:
        return str((process / "ns/net").readlink())
    except OSError:
        return None


def host_state() -> tuple[str, ...]:
    """What of this machine a demo could touch: rules, devices, addresses, routes."""
    commands = (["nft", "--stateless", "list", "ruleset"], ["ip", "-o", "address"], ["ip", "route"], ["ip", "netns"])
    outputs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands]
    # Namespaces and cables of tests that run beside this one come and go.
    return tuple(re.sub(r"^.*(?:fwt|valid_lft).*\n", "", output, flags=re.MULTILINE) for output in outputs)


@pytest.mark.root
def test_shows_every_step_in_order_and_leaves_the_host_as_it_was(tmp_path: Path) -> None:
    before = host_state()
    demo = Demo(tmp_path / "demo")
    assert demo.end() == 0, demo.output()
    output = demo.output()
    places = [output.find(promise) for promise in PROMISES]
    assert -1 not in places, PROMISES[places.index(-1)]
    assert places == sorted(places)
    assert "Traceback" not in output
    assert "\x1b" not in output
    demo.left_nothing()
    assert host_state() == before


@pytest.mark.root
def test_two_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    demos = [Demo(tmp_path / name) for name in ("one", "two")]
    assert [demo.end() for demo in demos] == [0, 0], "\n".join(demo.output() for demo in demos)
    for demo in demos:
        demo.left_nothing()


@pytest.mark.root
@pytest.mark.parametrize(
    "moment", ["Three hosts", "mallory $ nmap", "-> the server serves", "alice $ exec", "server $ sleep"]
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_nothing(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    demo = Demo(tmp_path / "demo")
    demo.wait_for(moment)
    networks = demo.networks()
    demo.process.send_signal(number)
    demo.process.send_signal(number)  # impatience changes nothing
    assert demo.end() == -number, "by the signal itself, which is what ends a shell's loop"
    assert "ended early" in demo.output()
    assert "Traceback" not in demo.output()
    demo.left_nothing()
    here = network_of(Path("/proc/self"))
    in_use = {network_of(entry) for entry in Path("/proc").glob("[0-9]*")}
    assert not (networks - {here}) & in_use


@pytest.mark.root
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "where",
    [
        *(("_openme_program", 1), ("mkdtemp", 1), ("mkdir", 1), ("write_text", 2)),
        *(("fork_exec", 1), ("fork_exec", 2), ("fork_exec", 3), ("select", 1)),
        *(("connect", 1), ("_inside", 1), ("_inside", 6), ("connect", 2), ("communicate", 3), ("_visible", 1)),
    ],
    ids=str,
)
def test_an_interruption_while_the_hosts_are_built_is_heard_at_once_and_leaves_nothing(
    tmp_path: Path, where: tuple[str, int], number: signal.Signals
) -> None:
    demo = Demo(tmp_path / "demo", [sys.executable, interrupting.__file__, str(int(number)), where[0], str(where[1])])
    assert demo.end() == -number, demo.output()
    assert demo.output() in {"", ENDED_EARLY} or demo.output().endswith(f"\n{ENDED_EARLY}"), demo.output()
    assert "$" not in demo.output().replace("'alice $'", ""), "it is heard before the first command"
    demo.left_nothing()


@pytest.mark.root
def test_a_host_that_is_ended_before_it_is_there_does_not_wait(tmp_path: Path) -> None:
    for _ in range(5):
        host = Host("early", tmp_path, {"PATH": os.environ["PATH"]})
        began = time.monotonic()
        host.end()
        assert time.monotonic() - began < 0.9


@pytest.mark.root
def test_a_host_whose_program_never_makes_its_shell_does_not_keep_us(tmp_path: Path) -> None:
    stuck = tmp_path / "unshare"
    stuck.write_text("#!/bin/sh\nread line\nexec sleep 60\n")
    stuck.chmod(0o700)
    host = Host("stuck", tmp_path, {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    began = time.monotonic()
    host.end()
    assert time.monotonic() - began < 2


@pytest.mark.root
def test_a_demo_whose_ctrl_c_is_ignored_goes_on(tmp_path: Path) -> None:
    demo = Demo(tmp_path / "demo", ["sh", "-c", 'trap "" INT; exec "$@"', "sh", str(OPENME)])
    demo.wait_for("Three hosts")
    demo.process.send_signal(signal.SIGINT)
    demo.wait_for("-> config and profile")
    demo.process.terminate()
    assert demo.end() == -signal.SIGTERM
    demo.left_nothing()


REFUSED = {
    # Root in a container, as most are: it may change the network that it has, and make no other.
    "no right": (
        ["setpriv", "--bounding-set=-sys_admin"],
        "unshare: unshare failed: Operation not permitted",
        "CAP_SYS_ADMIN",
    ),
    "no more": (
        [
            "unshare",
            "--user",
            "--map-root-user",
            "sh",
            "-c",
            'echo 0 >/proc/sys/user/max_net_namespaces; exec "$@"',
            "sh",
        ],
        "unshare: unshare failed: No space left on device",
        "sysctl user.max_net_namespaces",
    ),
}


@pytest.mark.root
@pytest.mark.parametrize(("without", "reason", "cure"), REFUSED.values(), ids=REFUSED)
def test_it_says_why_a_host_cannot_be_made_and_the_cure(
    tmp_path: Path, without: list[str], reason: str, cure: str
) -> None:
    demo = Demo(tmp_path / "demo", [*without, str(OPENME)])
    assert demo.end() == 1, demo.output()
    error, hint = demo.output().splitlines()
    assert error == f"openme: error: the demo's host server has ended: {reason}"
    assert hint.startswith("openme: hint: ")
    assert cure in hint
    demo.left_nothing()


@pytest.mark.root
def test_an_interruption_changes_nothing_once_it_ends(tmp_path: Path) -> None:
    without, reason, _ = REFUSED["no right"]
    demo = Demo(tmp_path / "demo", [*without, sys.executable, interrupting.__file__, "2", "end", "1"])
    assert demo.end() == 1
    assert reason in demo.output()
    demo.left_nothing()


def test_a_host_that_has_hung_up_still_says_why(tmp_path: Path) -> None:
    """What it was told last finds a broken pipe; what it said before is there to be read."""
    refusing = tmp_path / "unshare"
    said = "unshare: unshare failed: Invalid argument"
    refusing.write_text(f"#!/bin/sh\necho '{said}'\nexec <&- >&- 2>&-\nexec sleep 60\n")
    refusing.chmod(0o700)
    host = Host("late", tmp_path, {"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    until(host._has_hung_up, SECONDS)
    with pytest.raises(OpenmeError) as refused:
        host.run("true", show=False)
    assert refused.value.message == f"the demo's host late has ended: {said}"
    assert "CONFIG_NET_NS" in (refused.value.hint or "")
    host.end()


@pytest.mark.root
def test_killed_outright_its_hosts_still_go(tmp_path: Path) -> None:
    """A demo that is killed cannot tidy its directory; its hosts go all the same."""
    demo = Demo(tmp_path / "demo")
    demo.wait_for("-> the server serves")
    assert demo.processes()
    demo.process.kill()
    demo.end()
    until(lambda: not demo.processes(), SECONDS)


def run_without(tmp_path: Path, tool: str) -> subprocess.CompletedProcess[str]:
    """The demo on a machine where `tool` is missing."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("nmap", "nft", "ip", "unshare", "nsenter", "bash", "python3"):
        (programs / name).symlink_to("/bin/true")
    code = (
        "import shutil, sys; from openme.cli.main import run; real = shutil.which\n"
        f"shutil.which = lambda name, *a, **k: None if name == {tool!r} else real(name, *a, **k)\n"
        "sys.argv[1:] = ['demo']; run()"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PATH": str(programs)}
    )


@pytest.mark.root
@pytest.mark.parametrize(("tool", "package"), [("nmap", "nmap"), ("nft", "nftables"), ("ip", "iproute2")])
def test_a_missing_tool_is_one_line_and_the_cure(tmp_path: Path, tool: str, package: str) -> None:
    done = run_without(tmp_path, tool)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"openme: error: the demo needs {tool}\nopenme: hint: install it: apt-get install {package}\n"


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from openme.cli import main  # noqa: PLC0415  # the command line in this process

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "argv", ["openme", "demo"])
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert ended.value.code == 1
    assert "run it as root: sudo openme demo" in capsys.readouterr().err
