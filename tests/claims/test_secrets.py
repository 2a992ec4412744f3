"""`secrets`: no key in a log, an error, a process list, a core dump or a file others can read.

One server lives through everything that it can be asked and told; every word that came of it is searched for every
private key in every form. Loose permissions are refused, and no process of the server can leave its memory behind.
"""

import os
import re
import secrets
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from openme.cli.main import _guarded, main
from support.entries import forms
from support.netns import until
from support.server import CLIENT, OPENME, ServerWorld

pytestmark = pytest.mark.root


class Searcher:
    """Keys, and what has been said."""

    def __init__(self) -> None:
        self.keys: dict[str, bytes] = {}
        self.heard: dict[str, bytes] = {}

    def hear(self, where: str, content: bytes | str) -> None:
        self.heard[where] = self.heard.get(where, b"") + (content.encode() if isinstance(content, str) else content)

    def found(self) -> list[str]:
        return [
            f"{name} as {form} in {where}"
            for where, content in self.heard.items()
            for name, key in self.keys.items()
            for form, needle in forms(key).items()
            if needle in content
        ]


def test_the_search_finds_a_key_in_every_form() -> None:
    searcher = Searcher()
    searcher.keys["k"] = key = secrets.token_bytes(32)
    for form, needle in forms(key).items():
        searcher.heard = {"here": b"x" + needle + b"x"}
        assert any(form in line for line in searcher.found()), form
    searcher.heard = {"here": secrets.token_bytes(100_000)}
    assert searcher.found() == []


def test_a_full_run_says_no_key(tmp_path: Path) -> None:
    with ExitStack() as stack:
        previous = os.umask(0)  # whatever is made with a mode of its own choice shows it
        stack.callback(os.umask, previous)
        tmp_path.chmod(0o755)
        world = ServerWorld(stack, tmp_path)
        searcher = Searcher()
        searcher.keys["server"] = world.private_key()

        def run(*words: object, code: int | None = 0, host: str = "server") -> None:
            done = world.openme(world.server if host == "server" else world.client, *words, code=code)
            searcher.hear(f"output of {words}", done.stdout + done.stderr)

        at = ("--config", world.config)
        carriers = {world.config}
        profiles = {}
        made: dict[str, list[object]] = {"alice": [], "bob": ["--qr-out", tmp_path / "bob.png"], "carol": ["--qr"]}
        for name, options in made.items():
            done = world.openme(world.server, *at, "add", name, *options, code=0)
            profiles[name] = path = tmp_path / f"{name}.yaml"
            path.touch(mode=0o600)
            path.write_text(done.stdout)
            carriers |= {path, tmp_path / "bob.png"}
            private = world.profile(path).private_key
            assert private is not None
            searcher.keys[name] = private.seed
            searcher.hear(f"stderr of add {name}", done.stderr)

        for json in (False, True):
            world.start(*(["--log-json"] if json else []))
            for name, path in profiles.items():
                client = ("--client-config", path)
                if name == "alice":
                    run(*client, "knock", "--check", host="client")
                    run(*client, "status", host="client")
                    run(*client, "profiles", "default", host="client")
                world.send(world.packet(path, late=3600), world.packet(path, target=ip_address("127.0.0.1")))
                good = world.packet(path)
                world.send(good, good, good[:-1] + b"\0", good + b"\0", secrets.token_bytes(165))
                world.ask("close", name=name)
            questions = (["sessions"], ["sessions", "--json"], ["list"], ["list", "--json"], ["check-config"])
            for words in questions[json::2]:
                run(*at, *words)
            listen_in(world, searcher)
            world.add(f"dave{json}")
            run(*at, "revoke", f"dave{json}")
            run(*at, "revoke", "nobody", code=1)
            run(*at, "init", "--server", "x", code=1)
            run(*at, "serve", code=1)  # a second one
            good_config = world.config.read_text()
            world.write_config(good_config.replace("private_key", "privat_key"))
            until(lambda: "NOT in force" in world.log(), 5)
            world.write_config(good_config)
            if json:
                world.edit(protocols="[v2]")  # the listener forgets the key, or says that it has
                world.ask("reload")
            assert world.stop() == 0
            searcher.hear(f"log {json}", world.log())

        for path in files(tmp_path):
            if path not in carriers:
                searcher.hear(f"file {path}", path.read_bytes())
        assert searcher.found() == []
        # What holds keys, and all that the server keeps, is for its owner alone.
        for path in [*carriers, *files(world.state_dir), world.state_dir]:
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def files(folder: Path) -> Iterator[Path]:
    yield from (path for path in folder.rglob("*") if path.is_file())


def listen_in(world: ServerWorld, searcher: Searcher) -> None:
    """What a process list shows, and what the state file tells."""
    for pid in world.pids():
        for name in ("cmdline", "environ", "status", "comm", "maps"):
            searcher.hear(f"/proc/…/{name}", Path(f"/proc/{pid}/{name}").read_bytes())
    searcher.hear("state file", world.state_file.read_bytes())
    for path in (world.state_file, *files(world.state_dir), world.state_dir / "control"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# -- keys pasted where they do not belong

SERVER_PLACES = [
    *("udp_port", "health_port", "firewall", "knock_timeout", "replay_window", "open_knock_port", "drop_ports"),
    *("interface", "default_profile", "private_key", "public_key", "protocols", "epoch_length", "epoch_horizon"),
    *("hidden_as", "hide_udp_errors", "state_dir", "run_as"),
]
CLIENT_PLACES = ["ed25519_pubkey", "allowed_ports", "expires", "disable_health_port", "protocols", "allowed_from"]
CLIENT_PLACES += ["require_target_ip", "single_use", "max_timeout"]
PROFILE_PLACES = ["server_udp_port", "server_pubkey", "private_key", "public_key", "protocol", "identity", "ip"]
PROFILE_PLACES += ["server_health_port", "epoch_keys", "server_host"]


@pytest.fixture(scope="module")
def searched() -> Searcher:
    searcher = Searcher()
    searcher.keys = {"pasted": secrets.token_bytes(32)}
    return searcher


def spellings(searcher: Searcher) -> list[str]:
    """The key as it is pasted: whole, with its public half, cut short, in a list, in quotes, over two lines."""
    from nacl.bindings import crypto_sign_seed_keypair  # noqa: PLC0415

    from openme.keys.ed25519 import encode_base64  # noqa: PLC0415

    seed = searcher.keys["pasted"]
    text, long = encode_base64(seed), encode_base64(crypto_sign_seed_keypair(seed)[1])
    return [
        text,
        long,
        long[:-3],
        f"[{text}]",
        f'"{text}',
        f"{{{text}: 1}}",
        f"ssh-ed25519 {text}",
        seed.hex(),
        f"{text}==",
    ]


def pasted_at(server: str, place: str, pasted: str) -> str:
    """The config with a key of `server:` set to this."""
    rest = re.sub(rf"^  (# )?{place}:.*\n", "", server, flags=re.MULTILINE)
    return rest.replace("server:\n", f"server:\n  {place}: {pasted}\n", 1)


def pasted_into_client(server: str, place: str, pasted: str) -> str:
    """The config with a key of its client set to this."""
    key_line = re.search(r"^    ed25519_pubkey:.*\n", server, flags=re.MULTILINE)
    assert key_line is not None
    line = f"    {place}: {pasted}\n"
    return server.replace(key_line[0], line if place == "ed25519_pubkey" else key_line[0] + line)


def tried(path: Path, text: str, *words: object) -> str:
    """Run a command in this process on a config with this text."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    return str(_guarded(lambda: main([str(word) for word in words])))


def test_no_error_repeats_a_key_that_stands_in_the_wrong_place(
    tmp_path: Path, searched: Searcher, capfd: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "base.yaml"
    good = ["--config", base, "init", "--server", "h", "--state-dir", tmp_path / "state"]
    assert _guarded(lambda: main([str(word) for word in good])) == 0
    assert _guarded(lambda: main(["--config", str(base), "add", "alice"])) == 0
    profile = capfd.readouterr().out
    profile = profile[profile.index("profiles:") :]
    server = base.read_text()
    path = tmp_path / "broken.yaml"
    complaints = 0
    for pasted in spellings(searched):
        texts = [pasted_at(server, place, pasted) for place in SERVER_PLACES]
        texts += [pasted_into_client(server, place, pasted) for place in CLIENT_PLACES]
        texts += [
            server.replace("server:\n", f"server:\n  {pasted}: 1\n", 1),
            server.replace("server:\n", f"{pasted}\nserver:\n", 1),
            server.replace("server:\n", f"server: {pasted}\n", 1),
            server.replace("clients:\n", f"clients:\n  {pasted}:\n    ed25519_pubkey: x\n", 1),
            server.replace("clients:\n", f"clients: {pasted}\n", 1),
            server.replace("ports:\n", f"ports:\n  {pasted}: [1/tcp]\n", 1),
            server.replace("ports:\n", f"ports:\n  web: [{pasted}]\n", 1),
            server + f"    {pasted}\n",
            server + f"\t{pasted}\n",
            server + f"*{pasted}\n",
        ]
        for number, text in enumerate(texts):
            tried(path, text, "--config", path, "check-config")
            said = capfd.readouterr()
            complaints += bool(said.err)
            searched.hear(f"check-config {number} of {pasted[:3]}", said.out + said.err)
        for place in PROFILE_PLACES:
            text = re.sub(rf"^    {place}:.*\n", "", profile, flags=re.MULTILINE) + f"    {place}: {pasted}\n"
            for words in (["profiles"], ["profiles", "default"]):
                tried(path, text, "--client-config", path, *words)
                said = capfd.readouterr()
                complaints += bool(said.err)
                # A host is shown, and so is a public key: 32 bytes in its place cannot be told from one.
                if place not in {"server_host", "server_pubkey"}:
                    searched.hear(f"{words} with {place}", said.out + said.err)
        tried(path, server, "--config", path, "add", "bob", "--pubkey", pasted)
        said = capfd.readouterr()
        searched.hear("add --pubkey", said.err)
    assert complaints > 150
    assert searched.found() == []


# -- memory


def test_no_process_of_the_server_leaves_its_memory_behind(tmp_path: Path) -> None:
    with ExitStack() as stack:
        world = ServerWorld(stack, tmp_path)
        world.start()
        for pid in world.pids():
            limits = Path(f"/proc/{pid}/limits").read_text()
            assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)
            # The kernel gives a process that may not be dumped to root, whoever it runs as …
            assert Path(f"/proc/{pid}/mem").stat().st_uid == 0
            # … and its memory not even to the same user with the same capabilities.
            for name in ("mem", "environ"):
                assert not readable_by_equals(pid, name)
        control = subprocess.Popen(["setpriv", *EQUAL, "sleep", "60"])
        stack.callback(control.wait)
        stack.callback(control.kill)
        until(lambda: Path(f"/proc/{control.pid}/comm").read_text() == "sleep\n")
        assert readable_by_equals(control.pid, "environ"), "the look itself works"

        assert world.process is not None
        _, listener = world.pids()[:2]
        os.kill(world.process.pid, signal.SIGABRT)
        ended = os.waitid(os.P_PID, world.process.pid, os.WEXITED | os.WNOWAIT)
        assert ended is not None
        assert (ended.si_code, ended.si_status) == (os.CLD_KILLED, signal.SIGABRT)  # not CLD_DUMPED
        world.wait()
        until(lambda: not Path(f"/proc/{listener}").exists())
        assert not [path for folder in (tmp_path, Path.cwd()) for path in folder.glob("core*")]


EQUAL = ["--bounding-set", "-all,+net_admin", "--inh-caps", "-all"]


def readable_by_equals(pid: int, name: str) -> bool:
    done = subprocess.run(
        ["setpriv", *EQUAL, "cat", f"/proc/{pid}/{name}"], capture_output=True, check=False, timeout=10
    )
    return done.returncode == 0 or b"ermission denied" not in done.stderr


# -- loose modes


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[ServerWorld]:
    with ExitStack() as stack:
        yield ServerWorld(stack, tmp_path)


def test_loose_modes_are_refused_and_the_cure_is_named(quiet: ServerWorld) -> None:
    alice = quiet.add("alice")
    for mode in (0o604, 0o602, 0o620, 0o777):
        quiet.config.chmod(mode)
        for command in ("check-config", "serve"):
            done = quiet.openme(quiet.server, "--config", quiet.config, command, code=1)
            assert f"expected mode 0600, found {mode:04o}" in done.stderr
            assert f"hint: chmod 600 {quiet.config}" in done.stderr
    quiet.config.chmod(0o600)
    for mode in (0o640, 0o604, 0o610):
        alice.chmod(mode)
        for words in (["knock"], ["profiles"]):
            done = quiet.openme(quiet.client, "--client-config", alice, *words, code=1)
            assert f"expected mode 0600 for a private key, found {mode:04o}" in done.stderr
            assert f"hint: chmod 600 {alice}" in done.stderr
    alice.chmod(0o600)
    quiet.knock(alice)


def test_what_the_other_package_leaves_is_mended_by_serve(quiet: ServerWorld) -> None:
    quiet.config.chmod(0o640)
    done = quiet.openme(quiet.server, "--config", quiet.config, "check-config")
    assert f"cure: chmod 600 {quiet.config}" in done.stderr
    quiet.start()
    assert stat.S_IMODE(quiet.config.stat().st_mode) == 0o600
    # Opened up while it serves: the file is not in force, and the log says so.
    quiet.config.chmod(0o644)
    quiet.says("NOT in force")
    quiet.says(f"{quiet.config}")
    assert quiet.stop() == 0


def test_every_file_is_born_closed(tmp_path: Path) -> None:
    """Under the most generous umask, and into a file that the shell has already made for everybody."""
    config, state, out = tmp_path / "config.yaml", tmp_path / "state", tmp_path / "alice.yaml"
    loose = f"umask 0; exec {OPENME} --config {config}"
    subprocess.run(["sh", "-c", f"{loose} init --server h --state-dir {state}"], check=True, capture_output=True)
    subprocess.run(
        ["sh", "-c", f"{loose} add alice --qr-out {tmp_path}/alice.svg > {out}"], check=True, capture_output=True
    )
    subprocess.run(
        ["sh", "-c", f"{loose} init --server h --force --state-dir {state}"], check=True, capture_output=True
    )
    made = {path.name.partition(".old")[0]: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert made == {"config.yaml": 0o600, "state": 0o700, "alice.yaml": 0o600, "alice.svg": 0o600}
    assert CLIENT[4] not in out.read_text()
