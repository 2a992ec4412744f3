"""Imports point one way, and the client part runs where nothing of Linux is."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import openme
from openme.cli.commands import COMMANDS

SOURCE = Path(openme.__file__).parent
BASE = {
    "clocks",
    "closest",
    "collector",
    "durations",
    "errors",
    "files",
    "interrupts",
    "max_port",
    "moments",
    "networks",
    "ports",
    "reasons",
    "steps",
    "visible",
    "wire",
    "keys",
}
# What each part may import besides itself; `keys` and `wire` know nobody above them.
ALLOWED = {
    "__main__": {"cli"},
    "clocks": set(),
    "closest": set(),
    "collector": set(),
    "durations": set(),
    "errors": set(),
    "files": {"interrupts"},
    "interrupts": set(),
    "max_port": set(),
    "moments": set(),
    "networks": set(),
    "ports": {"max_port"},
    "knock_size": set(),
    "reasons": {"knock_size"},
    "refusals": {"reasons"},
    "run_dir": set(),
    "steps": set(),
    "visible": set(),
    "keys": set(),
    "wire": {"keys", "knock_size", "reasons"},
    "seam": {"wire", "keys", "knock_size", "reasons"},
    "config": {*BASE, "firewall.registry"},
    "netlink": {"errors", "steps"},
    "firewall": {"errors", "knock_size", "max_port", "netlink", "networks", "ports", "steps"},
    "kernel_filter": {"knock_size", "reasons", "wire"},
    "listener": {"seam", "wire", "keys", "reasons"},
    "store": {"errors", "files", "networks", "ports", "reasons", "wire"},
    "keeper": {*BASE, "config", "firewall.base", "refusals", "seam", "store.base"},
    "control": {*BASE, "run_dir", "store.places"},
    "processes": {
        *("config.section", "errors", "files", "interrupts", "kernel_filter", "keys", "listener", "reasons"),
        *("refusals", "run_dir", "seam", "wire"),
    },
    "client": {
        *BASE,
        "config.faults",
        "config.files",
        "config.profile",
        "config.profile_model",
        "netlink.routes",
        "netlink.sockets",
    },
    "server": {
        *(*BASE, "config", "control", "firewall", "keeper", "kernel_filter", "listener", "netlink", "refusals"),
        *("processes", "run_dir", "seam", "store"),
    },
    "doctor": {"errors"},
    "doctor.client": {
        *(*BASE, "client", "config.faults", "config.profile_model", "config.trusted_path", "knock_size"),
        *("doctor.clock", "doctor.looks"),
    },
    "doctor.server": {
        *(*BASE, "config", "control", "firewall", "keeper", "netlink", "processes.roles", "server"),
        *("doctor.clock", "doctor.looks"),
    },
    "demo": {"errors", "interrupts", "processes.privileges"},
    "cli": {
        *(*BASE, "config", "control", "client", "demo", "doctor", "server", "firewall.registry"),
        *("keeper.provided", "keeper.ratchet_file", "keeper.revoked_keys", "store"),
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


# Ways to reach a module that name none, or not where a reader of imports would look.
DYNAMIC = {
    "__import__",
    "__loader__",
    "__spec__",
    "builtins",
    "compile",
    "eval",
    "exec",
    "importlib",
    "imp",
    "pkgutil",
    "pydoc",
    "runpy",
    "zipimport",
}
DYNAMIC_MODULES = {*DYNAMIC, "code", "codeop", "pickle"}
DYNAMIC_ATTRIBUTES = {"__loader__", "__spec__", "exec_module", "import_module", "load_module", "modules"}
MAY_IMPORT_BY_NAME = "cli.commands"
# And who may know a way to: what a child process has read of the config comes as a pickle of our own.
MAY_HIDE = {MAY_IMPORT_BY_NAME: {"importlib", "import_module", "openme.cli."}, "server.config_handover": {"pickle"}}


class Imports(NamedTuple):
    """What a module reaches: parts of openme (`` for the package itself), other packages, and names that hide both."""

    ours: set[str]
    others: set[str]
    hidden: set[str]


def imports(path: Path) -> Imports:
    """Whatever a module imports, anywhere in it: at the top, in a function, for types alone."""
    found = Imports(set(), set(), set())
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = ".".join([*[""] * node.level, node.module or ""])
            for alias in node.names:
                _note(found, base, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                _note(found, alias.name)
        elif isinstance(node, ast.Name) and node.id in DYNAMIC:
            found.hidden.add(node.id)
        elif isinstance(node, ast.Attribute) and node.attr in DYNAMIC_ATTRIBUTES:
            found.hidden.add(node.attr)
        elif isinstance(node, ast.Constant) and node.value in {"__import__", "__builtins__", *DYNAMIC_ATTRIBUTES}:
            found.hidden.add(str(node.value))
    found.hidden.update(named_in_text(tree))
    return found


def named_in_text(tree: ast.AST) -> set[str]:
    """Our modules that stand in a string, but for the names of logs: who imports by name needs the text."""
    logs = {
        id(argument)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("getLogger")
        for argument in node.args
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in logs
        if node.value.startswith("openme.") and node.value.replace(".", "").isidentifier()
    }


def _note(found: Imports, base: str, name: str | None = None) -> None:
    top, _, rest = base.partition(".")
    if not top:
        found.hidden.add("a relative import")
    elif top == "openme":
        # `from openme.keeper import store` is the module keeper.store; `from openme.keeper.store import Store` is too.
        found.ours.add(rest if name is None or "." in rest else f"{rest}.{name}".lstrip("."))
    else:
        found.others.add(top)
        if top in DYNAMIC_MODULES:
            found.hidden.add(top)
        if (top, name) == ("sys", "modules"):
            found.hidden.add("sys.modules")


def imported(path: Path) -> set[str]:
    """What of openme a module imports, anywhere in it."""
    return imports(path).ours


def test_every_part_has_its_place() -> None:
    assert {name.partition(".")[0] for name in modules()} == {part.partition(".")[0] for part in ALLOWED}


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_one_way(name: str) -> None:
    part = max((part for part in ALLOWED if f"{name}.".startswith(f"{part}.")), key=len)
    allowed = ALLOWED[part] | {part}
    for target in imported(modules()[name]) - {"__version__"}:
        assert any(target == a or target.startswith(f"{a}.") for a in allowed), f"{name} imports {target}"


@pytest.mark.parametrize("name", sorted(modules()))
def test_nothing_is_imported_past_the_reader(name: str) -> None:
    assert imports(modules()[name]).hidden == MAY_HIDE.get(name, set())


SOCKETS = re.compile(r"AF_NETLINK")


@pytest.mark.parametrize("name", sorted(modules()))
def test_only_netlink_speaks_netlink(name: str) -> None:
    """Others may ask whether this system has it, and the sandbox names it."""
    lines = [line for line in modules()[name].read_text(encoding="utf-8").splitlines() if SOCKETS.search(line)]
    if name.startswith("netlink."):
        return
    assert all('hasattr(socket, "AF_NETLINK")' in line or name == "processes.roles" for line in lines), lines


def test_what_is_imported_by_name_is_a_command() -> None:
    """The one place that computes a name computes `openme.cli.` and the word of a command's place before the colon."""
    tree = ast.parse(modules()[MAY_IMPORT_BY_NAME].read_text(encoding="utf-8"))
    (call,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "importlib"
    )
    assert call.attr == "import_module"
    (asked,) = (node.args[0] for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func is call)
    assert ast.unparse(asked) == "f'openme.cli.{module}'"
    (load,) = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "load")
    assert ast.unparse(load.body[1]) == "module, _, name = self.place.partition(':')"
    for command in COMMANDS:
        module, _, name = command.place.partition(":")
        assert "." not in module
        assert module in {m.removeprefix("cli.") for m in modules() if m.startswith("cli.")}
        assert name.isidentifier()


def test_every_action_is_a_command_and_every_name_stands_once() -> None:
    """In the list, and nowhere else: no module of a command knows how it is called."""
    found = {
        f"{name.removeprefix('cli.')}:{target.id}"
        for name, path in modules().items()
        if name.startswith("cli.")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("Action(")
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert sorted(command.place for command in COMMANDS) == sorted(found)
    assert len({command.name for command in COMMANDS}) == len(COMMANDS)


@pytest.mark.parametrize(
    ("source", "reached"),
    [
        ("import openme.cli.main", {"cli.main"}),
        ("import openme.cli.main as m, openme.keeper", {"cli.main", "keeper"}),
        ("import openme", {""}),
        ("from openme import keeper", {"keeper"}),
        ("from openme import keeper as k, cli", {"keeper", "cli"}),
        ("from openme import *", {"*"}),
        ("from openme.keeper import store", {"keeper.store"}),
        ("from openme.keeper import store as s", {"keeper.store"}),
        ("from openme.keeper.store import Store", {"keeper.store"}),
        (
            "def f():\n    from openme.keeper.store import Store\n    import openme.cli.main\n",
            {"keeper.store", "cli.main"},
        ),
        ("if TYPE_CHECKING:\n    from openme.server import start", {"server.start"}),
        (
            "class A:\n    try:\n        import openme.server.start\n    except ImportError:\n        pass",
            {"server.start"},
        ),
        ("async def f():\n    with x:\n        from openme.client import knock", {"client.knock"}),
    ],
)
def test_every_form_of_import_is_seen(tmp_path: Path, source: str, reached: set[str]) -> None:
    path = tmp_path / "x.py"
    path.write_text(source)
    assert imports(path) == (reached, set(), set())


@pytest.mark.parametrize(
    "source",
    [
        "from . import store",
        "from ..keeper import store",
        "from .keeper.store import Store",
        "import importlib\nimportlib.import_module('openme.keeper')",
        "from importlib import import_module as f",
        "import importlib.util",
        "__import__('openme.keeper')",
        "f = __import__",
        "getattr(x, '__import__')('socket')",
        "import builtins",
        "__builtins__ = 1; x = '__builtins__'",
        "import runpy",
        "import pkgutil",
        "exec('import openme.keeper')",
        "g = eval",
        "import sys\nsys.modules['openme.keeper']",
        "from sys import modules",
        "getattr(sys, 'modules')",
        "vars(sys)['modules']",
        "__spec__.loader.load_module('openme.keeper')",
        "__loader__",
        "f.__spec__",
        "import pickle",
        "import code",
        "load('openme.keeper.store')",
        "PLACES = {'a': 'openme.server.start'}",
    ],
)
def test_every_way_past_an_import_is_seen(tmp_path: Path, source: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(source)
    assert imports(path).hidden


def test_listener_and_keeper_do_not_know_each_other() -> None:
    for name, path in modules().items():
        if name.startswith("listener"):
            assert not any(target.startswith("keeper") for target in imported(path))
        if name.startswith("keeper"):
            assert not any(target.startswith("listener") for target in imported(path))


def test_the_sides_of_doctor_do_not_know_each_other_nor_what_they_share_either_of_them() -> None:
    for name, path in modules().items():
        other = {"doctor.client": "server", "doctor.server": "client"}.get(".".join(name.split(".")[:2]))
        if name.startswith("doctor"):
            reached = {target for target in imported(path) if target.startswith(("doctor.client", "doctor.server"))}
            assert all(target.startswith(".".join(name.split(".")[:2])) for target in reached), name
            assert other is None or not any(target.partition(".")[0] == other for target in imported(path)), name


# What reaches a network, another process or the machine, by any name that the standard library has for it.
INPUT_AND_OUTPUT = {
    *("_posixsubprocess", "_socket", "asyncio", "asyncore", "concurrent", "ctypes", "ftplib", "http", "mmap"),
    *("multiprocessing", "pty", "select", "selectors", "smtplib", "socket", "socketserver", "ssl", "subprocess"),
    *("telnetlib", "threading", "_thread", "urllib", "xmlrpc"),
}
WITHOUT = {
    "config",
    "durations",
    "errors",
    "keeper",
    "keys",
    "knock_size",
    "listener",
    "moments",
    "networks",
    "ports",
    "reasons",
    "refusals",
    "store",
    "visible",
    "wire",
}


@pytest.mark.parametrize("name", sorted(name for name in modules() if name.partition(".")[0] in WITHOUT))
def test_only_the_shells_do_input_and_output(name: str) -> None:
    assert imports(modules()[name]).others & INPUT_AND_OUTPUT == set()


@pytest.mark.parametrize("name", ["client.plan", "client.policy", "client.renewal", "client.turns"])
def test_what_the_client_goes_by_leaves_time_and_sockets_to_its_driver(name: str) -> None:
    assert imports(modules()[name]).others & {*INPUT_AND_OUTPUT, "os", "random", "secrets", "time"} == set()


@pytest.mark.parametrize(
    "source",
    [
        "import socket",
        "import socket as s",
        "import os, socket",
        "from socket import socket",
        "from socket import socket as s",
        "from socket import *",
        "from _socket import socket",
        "import urllib.request",
        "from concurrent.futures import ThreadPoolExecutor",
        "def f():\n    from socket import socket",
        "if TYPE_CHECKING:\n    from socket import socket",
    ],
)
def test_every_form_of_input_and_output_is_seen(tmp_path: Path, source: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(source)
    assert imports(path).others & INPUT_AND_OUTPUT


# Who may write to a terminal without `visible`: the overview and the clearing of the screen are our own text, a QR code
# is drawn; the demo shows what its own commands print.
PRINTS = {"cli.output", "cli.main", "cli.sessions", "cli.qr", "demo.demo", "demo.demo_hosts"}


@pytest.mark.parametrize("name", sorted(set(modules()) - PRINTS))
def test_what_is_printed_goes_through_one_module(name: str) -> None:
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "print"]
    written = [
        ast.unparse(node.func)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.startswith("write")
    ]
    assert not [call for call in written if "stdout" in call or "stderr" in call]
