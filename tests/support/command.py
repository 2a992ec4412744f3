"""The command `openme` as a user runs it: real processes, the memory firewall, a home and a config of their own."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openme.config.template import render_server_config
from openme.keys.x25519 import ServerPrivateKey
from openme.run_dir import RUN_DIR
from openme.store.places import beside
from support.ports import free_port

DEADLINE = 20.0
OPENME = str(Path(sys.executable).with_name("openme"))


def until(holds: Callable[[], object], what: str, deadline: float = DEADLINE) -> None:
    """Wait for something to hold; AssertionError with `what` when it does not in time."""
    end = time.monotonic() + deadline
    while not holds():
        assert time.monotonic() < end, f"{what}: not within {deadline:g} s"
        time.sleep(0.02)


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """Its stdout as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line `openme: error: …`, and that there is exactly one and no trace."""
        assert "Traceback" not in self.err
        assert "internal error" not in self.err
        (line,) = (line for line in self.err.splitlines() if line.startswith("openme: error: "))
        return line.removeprefix("openme: error: ")


@dataclass
class Place:
    """A directory with a server's config, its state and a client's home."""

    root: Path
    port: int

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def state(self) -> Path:
        return self.root / "state"

    @property
    def sessions(self) -> Path:
        return self.root / "sessions.json"

    @property
    def environment(self) -> dict[str, str]:
        """A clean environment, with a home of its own."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.root), "LC_ALL": "C.UTF-8"}

    def command(self, *words: str) -> list[str]:
        """The argument list, options first."""
        return [OPENME, "--config", str(self.config), *words]

    def run(self, *words: str, stdin: str | None = None) -> Done:
        """Run it to its end."""
        done = subprocess.run(
            self.command(*words),
            env=self.environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def ok(self, *words: str) -> Done:
        """Run it; AssertionError with its stderr unless it exits 0."""
        done = self.run(*words)
        assert done.code == 0, done.err
        return done

    def shell(self, script: str) -> Done:
        """Run a line of sh in which `$openme` is the command with its config."""
        openme = f'openme() {{ {shlex.join(self.command())} "$@"; }}\n'
        done = subprocess.run(
            ["sh", "-c", openme + script],
            env=self.environment,
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=DEADLINE,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def init(self, *words: str) -> Done:
        """A new server with the memory firewall on its own port."""
        return self.ok(
            *("init", "--server", "127.0.0.1", "--port", str(self.port), "--firewall", "memory"),
            *("--state-dir", str(self.state), *words),
        )

    def prepare(self) -> None:
        """What `init` makes, without starting it."""
        key = ServerPrivateKey(os.urandom(32))
        self.state.mkdir(0o700)
        self.write(
            render_server_config(key, host="127.0.0.1", udp_port=self.port, firewall="memory", state_dir=self.state)
        )

    def set(self, key: str, value: str) -> None:
        """Change one live line of the config's `server:`."""
        text, count = re.subn(rf"(?m)^  {key}: .*$", f"  {key}: {value}", self.config.read_text())
        assert count == 1, key
        self.write(text)

    def write(self, text: str) -> None:
        """Replace the config as an editor does."""
        fresh = self.root / "fresh"
        fresh.write_text(text)
        fresh.chmod(0o600)
        fresh.rename(self.config)

    def client(self, name: str, *words: str) -> Path:
        """Register a client; its file."""
        path = self.root / f"{name}.yaml"
        path.write_text(self.ok("add", name, *words).out)
        path.chmod(0o600)
        return path

    @contextmanager
    def serving(self, *words: str) -> Iterator["Server"]:
        """A server that has said that it serves; ended afterwards if it still runs."""
        log = self.root / f"log-{time.monotonic_ns()}"
        arguments = self.command("serve", "--state-file", str(self.sessions), *words)
        with log.open("wb") as stderr:
            process = subprocess.Popen(arguments, env=self.environment, stderr=stderr)
        server = Server(process, log)
        try:
            until(lambda: "serving: " in server.log or process.poll() is not None, "the server serves")
            assert process.poll() is None, server.log
            yield server
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(DEADLINE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    raise
            beside(RUN_DIR, "newest", self.state).unlink(missing_ok=True)


@dataclass
class Server:
    """A running server."""

    process: subprocess.Popen[bytes]
    log_path: Path

    @property
    def log(self) -> str:
        """What it has said so far."""
        return self.log_path.read_text()

    def logs(self, words: str) -> None:
        """Wait for a line with these words."""
        until(lambda: words in self.log, f"a line with {words!r}")

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal it; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE)


def place(root: Path) -> Place:
    """A place with a port that is free now."""
    return Place(root, free_port())
