"""Imports point one way, and the client part runs where nothing of Linux is."""

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import openme
from support.command import Place, place

SOURCE = Path(openme.__file__).parent
BASE = {"durations", "errors", "moments", "ports", "wire", "keys"}
# What each part may import besides itself; `keys` and `wire` know nobody above them.
ALLOWED = {
    "durations": set(),
    "errors": set(),
    "moments": set(),
    "ports": set(),
    "refusals": set(),
    "keys": set(),
    "wire": {"keys"},
    "config": BASE - {"wire"},
    "firewall": {"errors", "ports"},
    "listener": {"wire", "keys"},
    "keeper": {*BASE, "config", "firewall.base", "refusals"},
    "client": {*BASE, "config.model"},
    "server": {*BASE, "config", "firewall", "keeper", "listener", "refusals"},
    "cli": {
        *(*BASE, "config", "client", "server"),
        *("keeper.store", "keeper.provided", "keeper.ratchet_file", "keeper.revoked_keys"),
    },
}


def modules() -> dict[str, Path]:
    """Every module of the package, as `keeper.store`; packages without their `__init__`."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").rstrip(".")
        if name:
            found[name] = path
    return found


def imported(path: Path) -> set[str]:
    """What of openme a module imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module and node.module.startswith("openme."):
                base = node.module.removeprefix("openme.")
                names |= {f"{base}.{alias.name}" for alias in node.names} if "." not in base else {base}
        elif isinstance(node, ast.Import):
            names |= {alias.name.removeprefix("openme.") for alias in node.names if alias.name.startswith("openme.")}
    return names


def test_every_part_has_its_place() -> None:
    assert {name.partition(".")[0] for name in modules()} == set(ALLOWED)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_one_way(name: str) -> None:
    part = name.partition(".")[0]
    allowed = ALLOWED[part] | {part}
    for target in imported(modules()[name]):
        assert any(target == a or target.startswith(f"{a}.") for a in allowed), f"{name} imports {target}"


def test_the_check_sees_an_import_that_points_up(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text("def f():\n    from openme.keeper.store import Store\n    import openme.cli.main\n")
    assert imported(path) == {"keeper.store", "cli.main"}


def test_listener_and_keeper_do_not_know_each_other() -> None:
    for name, path in modules().items():
        if name.startswith("listener"):
            assert not any(target.startswith("keeper") for target in imported(path))
        if name.startswith("keeper"):
            assert not any(target.startswith("listener") for target in imported(path))


def test_only_the_shells_do_input_and_output() -> None:
    forbidden = {"socket", "selectors", "subprocess", "asyncio", "threading"}
    for name, path in modules().items():
        if name.partition(".")[0] in {"wire", "keys", "listener", "keeper", "config", "ports", "durations", "moments"}:
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                assert not forbidden & set(names), name


ELSEWHERE = """
import sys

REFUSED = {"fcntl", "pwd", "grp", "resource", "termios", "nftables", "ctypes", "syslog", "spwd", "pty"}


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"only Linux has {name}", name=name)


sys.meta_path.insert(0, Refuse())
for name in REFUSED:
    sys.modules.pop(name, None)
from openme.cli.main import main

try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code or 0
print("LOADED", *sorted(sys.modules))
sys.exit(code)
"""


def run_elsewhere(here: Place, *words: str) -> set[str]:
    """Run a command where only what every system has can be imported; the modules it has loaded."""
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *words],
        env=here.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.fixture
def here(tmp_path: Path) -> Place:
    made = place(tmp_path)
    made.prepare()
    return made


@pytest.mark.parametrize("words", [["knock", "--help"], ["status", "--help"], ["profiles", "--help"], ["--help"]])
def test_the_client_commands_load_without_linux(here: Place, words: list[str]) -> None:
    assert "openme.cli.main" in run_elsewhere(here, *words)


def test_a_knock_leaves_without_linux_and_loads_no_server(here: Place) -> None:
    alice = here.client("alice")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", here.port))
        udp.settimeout(10)
        loaded = run_elsewhere(here, "--client-config", str(alice), "knock")
        assert len(udp.recv(1000)) == 165
    unwanted = ("openme.server", "openme.firewall", "openme.keeper", "openme.listener", "segno", "sqlite3", "nftables")
    assert [name for name in sorted(loaded) if name.startswith(unwanted)] == []


def test_a_server_command_does_need_linux(here: Place) -> None:
    with pytest.raises(AssertionError, match="only Linux has"):
        run_elsewhere(here, "serve", "--help")
