"""`openme keygen`: a key that never travels, made here or there already, and the server's half that completes it."""

import re
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from openme.config.profile import load_client_config
from openme.config.server import load_server_config
from openme.keys.ed25519 import parse_public_key
from support.command import OPENME, Done, Place
from support.ssh_agents import new_key, program, public_key, ssh_agent

PAGE = Path(__file__).parents[2] / "docs/key-management.md"


def client(here: Place, *words: str, **environment: str) -> Done:
    """A client's command, of a user who has no terminal."""
    done = subprocess.run(
        [OPENME, *words],
        env=here.environment | environment,
        cwd=here.root,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        start_new_session=True,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def profiles(here: Place) -> Path:
    return here.root / ".openme/config.yaml"


def files(here: Place) -> list[str]:
    """What is in the user's home, below directories too."""
    return sorted(str(path.relative_to(here.root)) for path in here.root.rglob("*") if path.is_file())


def test_a_key_is_made_and_only_its_public_half_is_printed(here: Place) -> None:
    done = client(here, "keygen")
    assert done.code == 0
    public = parse_public_key(done.out.splitlines()[-1])
    pair = load_client_config(profiles(here)).waiting["default"]
    assert pair.private_key is not None
    assert (pair.public_key, pair.private_key.public) == (public, public)
    assert pair.private_key.to_base64() not in done.out + done.err
    assert f"openme add NAME --pubkey {public}" in done.err
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (profiles(here), profiles(here).parent)]
    assert modes == [0o600, 0o700]
    assert client(here, "keygen", "other").out != done.out


def test_a_name_that_is_taken_is_refused_and_nothing_changes(here: Place) -> None:
    client(here, "keygen", "office")
    before = profiles(here).read_bytes()
    for words in (["--file", "k", "--no-passphrase"], []):
        done = client(here, "keygen", "office", *words)
        assert "has a profile office already" in done.error
        assert "--seal" in done.err
    assert profiles(here).read_bytes() == before
    assert "k" not in files(here)


def test_comments_and_other_profiles_stay(here: Place) -> None:
    client(here, "keygen", "first")
    text = f"# mine\n{profiles(here).read_text()}  # between\n"
    profiles(here).write_text(text)
    client(here, "keygen", "second")
    assert profiles(here).read_text().startswith(text)


def test_a_profile_that_waits_says_what_the_server_has_to_do(here: Place) -> None:
    public = client(here, "keygen", "office").out.strip()
    for words in ((), ("office",)):
        done = client(here, "knock", *words)
        assert done.error == "profile office has no server yet"
        assert f"openme add NAME --pubkey {public}" in done.err
    listed = client(here, "profiles")
    assert re.search(r"^office +- +- +[0-9a-f]{16}$", listed.out, re.MULTILINE)
    assert public in listed.err


# -- a file of its own


def askpass(here: Place, *said: str) -> str:
    """A program that says one after the other."""
    state = here.root / "said"
    state.write_text("".join(f"{line}\n" for line in said))
    return str(program(here.root / "askpass", f"head -n 1 {state}", f"sed -i 1d {state}"))


def test_a_key_in_a_file_of_its_own_is_one_of_opensshs(here: Place) -> None:
    """With a passphrase that ssh-keygen takes, too; what is printed has neither key nor passphrase."""
    done = client(
        here, "keygen", "office", "--file", "~/.openme/office.key", SSH_ASKPASS=askpass(here, "geheim", "geheim")
    )
    assert done.code == 0
    place_of_it = here.root / ".openme/office.key"
    assert stat.S_IMODE(place_of_it.stat().st_mode) == 0o600
    pair = load_client_config(profiles(here)).waiting["office"]
    assert (pair.private_key, pair.identity) == (None, f"file:{place_of_it}")
    told = subprocess.run(
        ["ssh-keygen", "-y", "-P", "geheim", "-f", str(place_of_it)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert parse_public_key(told.stdout) == pair.public_key == parse_public_key(done.out)
    wrong = subprocess.run(
        ["ssh-keygen", "-y", "-P", "wrong", "-f", str(place_of_it)], capture_output=True, check=False, timeout=60
    )
    assert wrong.returncode != 0
    assert "geheim" not in done.out + done.err


@pytest.mark.parametrize(
    ("said", "words", "told"),
    [
        (["a", "b"], ["--file", "k"], "the two passphrases differ"),
        (["", ""], ["--seal", "k"], "an empty passphrase seals nothing"),
        (["a", "b"], ["--seal", "k"], "the two passphrases differ"),
    ],
)
def test_a_slip_of_the_passphrase_makes_nothing(here: Place, said: list[str], words: list[str], told: str) -> None:
    client(here, "keygen", "home")
    before = profiles(here).read_bytes()
    name = "home" if "--seal" in words else "new"
    done = client(here, "keygen", name, *words, SSH_ASKPASS=askpass(here, *said))
    assert done.error == told
    assert (profiles(here).read_bytes(), (here.root / "k").exists()) == (before, False)


def test_an_empty_passphrase_makes_a_file_that_needs_none(here: Place) -> None:
    for name, words, variables in (
        ("a", [], {"SSH_ASKPASS": askpass(here, "", "")}),
        ("b", ["--no-passphrase"], {}),
    ):
        assert client(here, "keygen", name, "--file", name, *words, **variables).code == 0
        subprocess.run(
            ["ssh-keygen", "-y", "-P", "", "-f", name], cwd=here.root, check=True, capture_output=True, timeout=60
        )


def test_without_anybody_to_ask_nothing_is_made(here: Place) -> None:
    done = client(here, "keygen", "--file", "k")
    assert "there is no terminal to ask on" in done.error
    assert not profiles(here).exists()
    assert not (here.root / "k").exists()


def test_a_file_that_is_there_is_never_overwritten(here: Place) -> None:
    taken = here.root / "taken"
    taken.write_text("mine")
    link = here.root / "link"
    link.symlink_to(here.root / "elsewhere")
    for path in (taken, link):
        done = client(here, "keygen", "--file", str(path), "--no-passphrase")
        assert done.error == f"{path} is there already and is not overwritten"
    assert taken.read_text() == "mine"
    assert not profiles(here).exists()


def test_a_file_without_its_profile_does_not_stay(here: Place) -> None:
    """The profiles cannot be written: their directory is a file."""
    (here.root / ".openme").write_text("")
    done = client(here, "keygen", "--file", str(here.root / "k"), "--no-passphrase")
    assert done.code == 1
    assert "cannot be" in done.error or "not a directory" in done.error.lower()
    assert not (here.root / "k").exists()


def test_a_key_in_the_profile_moves_into_a_sealed_file_and_knocks_on(here: Place) -> None:
    alice = here.client("alice")
    text = f"# mine\n{alice.read_text()}    ip: 203.0.113.5  # theirs\n"
    profiles(here).parent.mkdir(0o700)
    profiles(here).write_text(text)
    profiles(here).chmod(0o600)
    private = re.search(r"private_key: (\S+)", text)
    assert private is not None
    done = client(here, "keygen", "default", "--seal", "alice.key", SSH_ASKPASS=askpass(here, "geheim", "geheim"))
    assert done.code == 0
    sealed = here.root / "alice.key"
    assert profiles(here).read_text() == text.replace(private[0], f'identity: "file:{sealed}"')
    assert private[1] not in (sealed.read_text() + done.out + done.err).replace("\n", "")
    with here.serving() as server:
        assert client(here, "knock", SSH_ASKPASS=askpass(here, "geheim")).code == 0
        server.logs("alice: opened")
    again = client(here, "keygen", "default", "--seal", "other", SSH_ASKPASS=askpass(here, "x", "x"))
    assert again.error == "profile default has no private_key that could be sealed"


# -- a key that is there


def test_a_key_in_the_agent_becomes_a_profiles_by_its_fingerprint(here: Place) -> None:
    mine = new_key(here.root / "id")
    public = public_key(mine.with_suffix(".pub"))
    with ssh_agent() as agent:
        agent.add(str(mine))
        where = f"ssh-agent:{public.ssh_fingerprint}"
        for name, written in (("a", "ssh-agent"), ("b", where), ("c", f"{where}=")):
            done = client(here, "keygen", name, "--identity", written, SSH_AUTH_SOCK=str(agent.path))
            assert (done.code, done.out) == (0, f"{public}\n")
            pair = load_client_config(profiles(here)).waiting[name]
            assert (pair.identity, pair.public_key) == (where, public)
        agent.add(str(new_key(here.root / "second", comment="someone@example.org")))
        done = client(here, "keygen", "d", "--identity", "ssh-agent", SSH_AUTH_SOCK=str(agent.path))
        assert "several Ed25519 keys" in done.error
        assert done.error.count("(someone@example.org)") == 2
    assert (
        "no SSH agent at" in client(here, "keygen", "d", "--identity", "ssh-agent", SSH_AUTH_SOCK=str(agent.path)).error
    )


def test_a_key_file_becomes_a_profiles_and_nobody_is_asked(here: Place) -> None:
    mine = new_key(here.root / "id", "-N", "geheim", "-a", "1")
    for name, written in (("a", f"file:{mine}"), ("b", "file:~/id"), ("c", "file:id")):
        done = client(here, "keygen", name, "--identity", written)
        assert (done.code, done.out) == (0, f"{public_key(mine.with_suffix('.pub'))}\n")
        assert load_client_config(profiles(here)).waiting[name].identity == f"file:{mine}"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--identity", "agent"], 2, "--identity: expected ssh-agent:SHA256:…"),
        (["--identity", "ssh-agent:SHA256:abc"], 2, "--identity: expected ssh-agent:SHA256:…"),
        (["--identity", "file:"], 2, "--identity: expected ssh-agent:SHA256:…"),
        (["--identity", "file:nowhere"], 1, "no such file"),
        (["--identity", "file:config.yaml"], 1, "expected an OpenSSH private key"),
        (["--identity", "ssh-agent"], 1, "SSH_AUTH_SOCK is not set"),
        (["--file", "a", "--identity", "ssh-agent"], 2, "not allowed with argument"),
        (["--no-passphrase"], 2, "--no-passphrase belongs to --file"),
        (["--fil", "a"], 2, "unknown option --fil"),
        (["--file", "nowhere/k", "--no-passphrase"], 1, "no such file or directory"),
        (["--file", "a\nb", "--no-passphrase"], 2, "characters that cannot be seen"),
        (["a\nb"], 2, "expected a printable name"),
        (["", "--no-passphrase", "--file", "k"], 2, "expected a printable name"),
        (["away", "--seal", "k"], 1, "there is no profile away"),
        (["--file", "~nobody-of-that-name/k"], 2, "no such home directory"),
    ],
)
def test_slips_are_one_line_and_make_nothing(here: Place, words: list[str], code: int, told: str) -> None:
    before = files(here)
    done = client(here, "keygen", *words)
    assert done.code == code
    assert told in done.error
    assert files(here) == before


def test_a_signal_between_file_and_profile_leaves_both_or_none(here: Place) -> None:
    """SIGTERM comes as the file is written: it waits until the profile is there, too."""
    code = (
        "import os, signal, sys\nfrom openme.cli import keygen\nfrom openme.cli.main import run\n"
        "write = keygen._write\n"
        "def then(place, content):\n    write(place, content)\n    os.kill(os.getpid(), signal.SIGTERM)\n"
        "keygen._write = then\n"
        "sys.argv = ['openme', 'keygen', '--file', 'k', '--no-passphrase']\nrun()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=here.environment, cwd=here.root, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == -signal.SIGTERM
    assert (here.root / "k").exists()
    assert list(load_client_config(profiles(here)).waiting) == ["default"]


def test_without_the_extra_only_files_are_refused(here: Place) -> None:
    code = "import sys\nsys.modules['bcrypt'] = None\nfrom openme.cli.main import run\nrun()\n"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, "keygen", *words],
            env=here.environment,
            cwd=here.root,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    refused = run("--file", "k")
    assert refused.returncode == 1
    assert "key files need the Python library bcrypt, which is not there" in refused.stderr
    assert "pip install 'cryptography[ssh]'" in refused.stderr
    assert not (here.root / "k").exists()
    assert run().returncode == 0


# -- the server's half


def test_what_is_no_public_key_is_told_with_what_to_write(here: Place) -> None:
    mine = new_key(here.root / "id")
    line = mine.with_suffix(".pub").read_text()
    for written, told, cure in (
        (str(mine.with_suffix(".pub")), "expected a key of 32 bytes", '--pubkey "$(cat '),
        (
            public_key(mine.with_suffix(".pub")).ssh_fingerprint,
            "expected a key of 32 bytes",
            "that is a key's fingerprint",
        ),
        (line + line, "expected one key, got several lines", None),
        (mine.read_text(), "expected a public key, got a private one", None),
        ("ssh-ed25519 AAAA", "expected an OpenSSH line", None),
    ):
        done = here.run("add", "alice", "--pubkey", written)
        assert done.code == 2
        assert told in done.error
        assert (cure or "") in done.err
        assert mine.read_text().splitlines()[2] not in done.err
    assert load_server_config(here.config).clients == {}


def test_what_add_says_to_do_fits_the_key_that_it_was_given(here: Place) -> None:
    mine = new_key(here.root / "id")
    agents = here.ok("add", "a", "--pubkey", mine.with_suffix(".pub").read_text(), "--out", str(here.root / "a.yaml"))
    assert f"it knocks with ssh-agent:{public_key(mine.with_suffix('.pub')).ssh_fingerprint}" in agents.err
    made = here.ok("add", "b", "--pubkey", client(here, "keygen").out.strip(), "--out", str(here.root / "b.yaml"))
    assert "whose profile it completes; there: openme import b.yaml" in made.err
    assert "identity" not in (here.root / "b.yaml").read_text()
    renewed = here.ok("renew", "a")
    assert "identity" not in renewed.out  # the client keeps it: a server does not know where a key is
    assert "whose profile these lines bring up to date: openme import" in renewed.err
