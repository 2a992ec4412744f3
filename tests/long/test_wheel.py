"""The wheel as a user gets it: installed into a fresh environment, with each Python from 3.11 on that is at hand.

`make test-long` runs this; it installs `requirements/run.txt` from the package index for each of them. Interpreters are
looked for in PATH and where pyenv and uv keep theirs.
"""

import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from support.command import Place
from support.ports import free_port

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
KEPT = (Path.home() / ".pyenv/versions", Path.home() / ".local/share/uv/python", Path("/opt"))
TARGET = "203.0.113.5"


def starts(python: str, version: str) -> bool:
    """Whether this is an interpreter of that version which can make an environment; pyenv's shims may be neither."""
    code = "import sys, ensurepip, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    except OSError:
        return False
    return done.returncode == 0 and done.stdout.strip() == version


def at_hand() -> dict[str, str]:
    """The first interpreter of each version."""
    found: dict[str, str] = {}
    for version in VERSIONS:
        kept = [str(path) for place in KEPT for path in sorted(place.glob(f"*/bin/python{version}"))]
        candidates = [sys.executable, shutil.which(f"python{version}"), *kept]
        for python in candidates:
            if python is not None and starts(python, version):
                found[version] = python
                break
    return found


PYTHONS = at_hand()


@dataclass
class Installed(Place):
    """A place whose `openme` is the one that was installed."""

    environment_dir: Path

    def command(self, *words: str) -> list[str]:
        return [str(self.environment_dir / "bin/openme"), "--config", str(self.config), *words]

    def python(self, code: str) -> str:
        """What a program says that the environment's Python runs, away from the sources."""
        words = [str(self.environment_dir / "bin/python"), "-W", "error", "-c", code]
        return subprocess.run(
            words, env=self.environment, cwd=self.root, capture_output=True, text=True, check=True, timeout=60
        ).stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built by the backend that pyproject.toml names, of the version that is locked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", str(folder), str(ROOT)], check=True, timeout=300)
    (built,) = folder.glob("openme-*.whl")
    return built


@pytest.fixture(params=sorted(PYTHONS))
def here(request: pytest.FixtureRequest, wheel: Path, tmp_path: Path) -> Installed:
    environment = tmp_path / "environment"
    subprocess.run([PYTHONS[request.param], "-m", "venv", environment], check=True, timeout=120)
    pip = [str(environment / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--require-hashes", "-r", str(ROOT / "requirements/run.txt")], check=True, timeout=600)
    subprocess.run([*pip, "--no-deps", str(wheel)], check=True, timeout=120)
    (place := tmp_path / "place").mkdir(0o700)
    made = Installed(place, free_port(), environment)
    said = made.python("import sys, openme; print('%d.%d' % sys.version_info[:2], openme.__file__)")
    version, file = said.split()
    assert version == request.param
    assert Path(file).is_relative_to(environment)
    return made


def test_the_versions_that_no_interpreter_is_at_hand_for_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert "{}.{}".format(*sys.version_info[:2]) in PYTHONS
    with capsys.disabled():
        for version in VERSIONS:
            print(f"\nPython {version}: {PYTHONS.get(version, 'none at hand, not tried')}", end="")  # noqa: T201


def test_the_wheel_brings_completions_and_manual_pages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        shared = {name.partition(".data/data/")[2] for name in packed.namelist() if ".data/data/" in name}
    shells = {"bash-completion/completions/openme", "fish/vendor_completions.d/openme.fish"}
    shells.add("zsh/site-functions/_openme")
    pages = {f"man/man{path.suffix[1:]}/{path.name}" for path in (ROOT / "packaging/man").rglob("*.[15]")}
    assert len(pages) > 20
    assert shared == {f"share/{name}" for name in shells | pages}


@pytest.mark.timeout(900)
def test_the_wheel_works_with_every_python_at_hand(here: Installed) -> None:
    """Its metadata allow that Python, every command tells what it does, and a knock opens, from outside and by API."""
    assert re.fullmatch(r"openme \d+\.\d+\.\d+\n", here.ok("--version").out)
    overview = here.ok("--help").out
    commands = re.findall(r"^  ([a-z][a-z-]*) {2,}\S", overview, re.MULTILINE)
    assert {"init", "serve", "knock", "status", "demo"} <= set(commands)
    for command in commands:
        told = here.ok(command, "--help")
        assert told.out.startswith(f"usage: openme {command} "), command
        assert told.err == "", command

    here.init()
    (home := here.root / ".openme").mkdir(0o700)
    here.client("alice").rename(home / "config.yaml")
    with here.serving() as server:
        done = here.ok("knock", "--check", "--ip", TARGET)
        assert re.fullmatch(rf"open\n22/tcp for {TARGET} until \S+Z, proven by the server\n", done.out)
        for session, wait in (("Session", "{}"), ("AsyncSession", "asyncio.run({})")):
            code = (
                f"import asyncio\nfrom openme.client import {session}, load_profiles\n"
                f"session = {session}(load_profiles())\n"
                f"attempt = {wait.format(f'session.knock({TARGET!r})')}\n"
                f"print({wait.format('session.check(attempt)')}.state.value)\n"
            )
            assert here.python(code) == "open\n"
        assert server.end() == 0
