"""docs/client-library.md: its examples run against a real server, and its table is what is public."""

import ast
import dataclasses
import inspect
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import openme
import openme.client
from support.command import Done, Place, place, until

ROOT = next(folder for folder in Path(__file__).parents if (folder / "pyproject.toml").exists())
PAGE = (ROOT / "docs/client-library.md").read_text(encoding="utf-8")
EXAMPLES: list[str] = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
SOURCE = Path(openme.__file__).parent
PUBLIC = sorted(openme.client.__all__)
TOP = sorted(openme.__all__)


def example(word: str) -> str:
    """The one example with this word."""
    (found,) = (text for text in EXAMPLES if word in text)
    return found


@pytest.fixture
def here(tmp_path: Path) -> Place:
    """A server's config, and a client's file where a user has it."""
    made = place(tmp_path)
    made.prepare()
    home = tmp_path / ".openme"
    home.mkdir(0o700)
    file = made.client("alice")
    # A server opens nothing for its own address, which is where a knock over loopback comes from.
    file.write_text(f"{file.read_text()}    ip: 203.0.113.5\n")
    file.rename(home / "config.yaml")
    return made


def run(here: Place, code: str, *words: str) -> Done:
    """A program of its own that this is all of."""
    environment = {**here.environment, "PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_the_first_example_opens_the_door_and_says_what_for(here: Place) -> None:
    with here.serving():
        done = run(here, example("session.check(session.knock())"))
    assert (done.code, done.out, done.err) == (0, "open\nalice may use 22/tcp\n", "")


def test_one_call_opens_the_door_and_says_what_for(here: Place) -> None:
    with here.serving():
        done = run(here, example("openme.knock()"))
    assert (done.code, done.out, done.err) == (0, "alice may use 22/tcp\n", "")


def test_a_door_is_kept_open_by_a_thread_and_by_a_task(here: Place) -> None:
    with here.serving():
        blocking = run(here, example("def tell"))
        awaited = run(here, example("await aknock"))
    assert (blocking.code, blocking.out, blocking.err) == (0, "open None\n", "")
    assert (awaited.code, awaited.out, awaited.err) == (0, "open\nopen None\n", "")


WITH_A_THREAD = """
import sys
import openme

with openme.keep_open():
    sys.stdin.read()
"""
WITH_A_TASK = """
import asyncio, sys
import openme

async def main():
    async with openme.keep_open():
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.mark.parametrize("code", [WITH_A_THREAD, WITH_A_TASK])
def test_a_kept_door_is_knocked_at_again_and_no_more_after_the_block(here: Place, code: str) -> None:
    here.set("knock_timeout", "2s")
    with here.serving() as server:
        program = subprocess.Popen(
            [sys.executable, "-c", code], env=here.environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            until(lambda: server.log.count("alice: ") >= 3 or program.poll() is not None, "it knocked three times")
            _, said = program.communicate(timeout=20)  # closes its stdin
        finally:
            program.kill()
        assert (program.returncode, said) == (0, b"")
        assert server.log.count("alice: ") >= 3


def test_a_door_that_stays_shut_is_an_error_of_one_call(here: Place) -> None:
    done = run(here, example("def tell"))
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "127.0.0.1: the door stayed shut after the knock (on the server, the log says why (journalctl -u openme))\n"
    )


def test_the_same_under_asyncio(here: Place) -> None:
    with here.serving():
        done = run(here, example("await session.check"))
    assert (done.code, done.out, done.err) == (0, "open\n", "")


def test_without_a_server_the_outcome_is_closed_and_no_error(here: Place) -> None:
    for code in (example("session.check(session.knock())"), example("await session.check")):
        done = run(here, code)
        assert (done.code, done.out, done.err) == (0, "closed\n", "")


def test_errors_are_told_by_their_class(here: Place) -> None:
    code = example("DiskError")
    done = run(here, code)
    assert (done.code, done.out, done.err) == (0, "", "")
    (here.root / ".openme/config.yaml").chmod(0o644)
    done = run(here, code)
    assert done.code == 1
    assert re.fullmatch(r"\S+config\.yaml: .* \(.*chmod.*\)\n", done.err), done.err


@pytest.mark.parametrize("word", ["def dial", "with Dialler"])
def test_a_connection_of_the_callers_is_reached_by_a_knock(here: Place, word: str) -> None:
    """The service listens once the knock was heard: the first dial finds nobody."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    def serve(after_knock: bool) -> Callable[[], None]:  # noqa: FBT001
        def run_service() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
                udp.bind(("127.0.0.1", here.port))
                udp.settimeout(30)
                if after_knock:
                    assert len(udp.recv(1000)) == 165
                listening.listen()
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(b"welcome")

        return run_service

    with listening:
        for after_knock, said in ((True, "knocked welcome\n"), (False, "open already welcome\n")):
            service = threading.Thread(target=serve(after_knock))
            service.start()
            done = run(here, example(word), str(port))
            service.join(30)
            assert (done.code, done.out, done.err) == (0, said, "")


def test_an_identity_signs_in_place_of_the_profiles_key(here: Place) -> None:
    """The file has no private key any more; what signs is a program's own, and the server knows it."""
    config = here.root / ".openme/config.yaml"
    seed = re.search(r"private_key: \"?(\S+?)\"?\n", config.read_text())
    assert seed is not None
    config.write_text(re.sub(r"    private_key: .*\n", "", config.read_text()))
    code = example("def knock_with") + (
        "\nimport base64\nfrom openme.keys.ed25519 import ClientPrivateKey\n\n\n"
        "class Agent:\n"
        f"    key = ClientPrivateKey(base64.b64decode({seed[1]!r})[:32])\n"
        "    public = key.public\n\n"
        "    def sign(self, message: bytes) -> bytes:\n"
        "        return self.key.sign(message)\n\n\n"
        "knock_with(Agent())\n"
    )
    with here.serving() as server:
        done = run(here, code)
        assert (done.code, done.out, done.err) == (0, "knocked at 127.0.0.1\n", "")
        server.logs("alice")


def test_every_example_is_run() -> None:
    words = (
        *("openme.knock()", "def tell", "await aknock", "session.check(session.knock())", "await session.check"),
        *("DiskError", "def dial", "with Dialler", "def knock_with"),
    )
    assert len(EXAMPLES) == len({example(word) for word in words}) == len(words)


# -- what is public


def test_the_page_lists_what_is_public_and_nothing_else() -> None:
    for heading, public in (("name in `openme`", TOP), ("name in `openme.client`", PUBLIC)):
        (table,) = re.findall(rf"^\| {heading} \|.*\n\|---\|---\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE)
        cells = [line.split("|")[1] for line in table.splitlines()]
        assert sorted(name for cell in cells for name in re.findall(r"`(\w+)", cell)) == public


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(openme.client, name)
    assert name in dir(openme.client)
    if name == "WARN_SECONDS":
        assert isinstance(value, int)
        return
    assert inspect.getdoc(value)
    if not inspect.isclass(value):
        return
    if value.__module__.startswith("openme.client"):
        fields = value.__dataclass_fields__ if dataclasses.is_dataclass(value) else getattr(value, "_fields", ())
        assert [field for field in fields if f"`{field}`" not in (value.__doc__ or "")] == []
    for attribute, member in vars(value).items():
        if attribute.startswith("_") or attribute in getattr(value, "_fields", ()):
            continue
        if inspect.isfunction(member) or isinstance(member, property):
            assert inspect.getdoc(member), f"{name}.{attribute}"


@pytest.mark.parametrize("name", TOP)
def test_every_name_at_the_top_is_there_and_documented(name: str) -> None:
    value = getattr(openme, name)
    assert name in dir(openme)
    assert name == "__version__" or inspect.getdoc(value)
    assert name not in PUBLIC or getattr(openme.client, name) is value


def test_a_name_that_is_not_public_is_not_there() -> None:
    for module in (openme, openme.client):
        with pytest.raises(AttributeError, match="Nonsense"):
            module.__getattr__("Nonsense")


def test_what_has_types_says_so_to_type_checkers() -> None:
    assert (SOURCE / "py.typed").is_file()


def test_the_examples_pass_the_strictest_type_checking(tmp_path: Path) -> None:
    for number, text in enumerate(EXAMPLES):
        (tmp_path / f"example_{number}.py").write_text(text)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(tmp_path)]
    done = subprocess.run(mypy, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=100)
    assert done.returncode == 0, done.stdout


def imported_from_client(path: Path) -> set[str]:
    """What a module has of the client, anywhere in it: `openme.client.X` as `X`, a module of it with its dot."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "openme.client":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("openme.client."):
            found.add(f".{node.module}")
        elif isinstance(node, ast.ImportFrom) and node.module == "openme":
            found |= {".client" for alias in node.names if alias.name == "client"}
        elif isinstance(node, ast.Import):
            found |= {f".{alias.name}" for alias in node.names if alias.name.startswith("openme.client")}
    return found


def test_commands_use_public_names_alone() -> None:
    used = {(path.name, name) for path in (SOURCE / "cli").glob("*.py") for name in imported_from_client(path)}
    assert ("knock.py", "Session") in used
    assert [item for item in sorted(used) if item[1] not in PUBLIC] == []


@pytest.mark.parametrize(
    "source",
    [
        "from openme.client.policy import Policy",
        "from openme.client import policy",
        "import openme.client.policy",
        "from openme import client",
        "def f():\n    from openme.client.known import Known",
    ],
)
def test_a_command_that_used_more_would_be_seen(tmp_path: Path, source: str) -> None:
    path = tmp_path / "x.py"
    path.write_text(source)
    assert imported_from_client(path) - set(PUBLIC)


def test_a_plain_import_loads_nothing_and_the_blocking_session_no_event_loop() -> None:
    code = (
        "import sys\nbare = set(sys.modules)\nimport openme\nprint(sorted(set(sys.modules) - bare))\n"
        "import openme.client\n"
        "print(sorted(n for n in sys.modules if n.startswith('openme.')))\n"
        "from openme.client import Session, load_profiles\n"
        "print(sorted({'asyncio', 'ssl', 'http'} & set(sys.modules)))\n"
        "openme.knock, openme.keep_open\n"
        "print(sorted({'asyncio', 'ssl', 'http'} & set(sys.modules)))\n"
        "from openme.client import AsyncSession\n"
        "print('asyncio' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout == "['openme']\n['openme.client']\n[]\n[]\nTrue\n"
