"""A client's file reaches whoever asked for it, and no other file is lost for it."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from openme.cli.all_or_nothing import all_or_nothing
from openme.cli.new_file import NewFile, open_directory
from openme.config.server import load_server_config
from openme.errors import OpenmeError
from openme.interrupts import ENDINGS, Interrupted
from support.another_server import another_server
from support.command import Place, until


def test_the_file_is_whole_private_and_registered(here: Place, tmp_path: Path) -> None:
    out = tmp_path / "alice.yaml"
    done = here.ok("add", "alice", "--out", str(out))
    assert (done.out, stat.S_IMODE(out.stat().st_mode)) == ("", 0o600)
    assert f"wrote {out} (it holds the private key; there is no other copy)" in done.err
    profile = yaml.safe_load(out.read_text())["profiles"]["default"]
    assert str(load_server_config(here.config).clients["alice"].public_key) == profile["public_key"]
    assert profile["private_key"] not in done.err


@pytest.mark.parametrize("kind", ["file", "link", "directory", "fifo"])
@pytest.mark.parametrize("command", ["add", "renew"])
def test_what_is_there_already_is_never_overwritten(here: Place, tmp_path: Path, kind: str, command: str) -> None:
    out = tmp_path / "there.yaml"
    if command == "renew":
        here.ok("add", "alice")
    if kind == "file":
        out.write_text("the only copy of a key")
    elif kind == "link":
        out.symlink_to(tmp_path / "nowhere")
    elif kind == "directory":
        out.mkdir()
    else:
        os.mkfifo(out)
    before = here.config.read_text()
    done = here.run(command, "alice", "--out", str(out))
    assert (done.code, done.out) == (1, "")
    assert done.error == f"{out} is there already and is not overwritten"
    assert here.config.read_text() == before
    assert kind != "file" or out.read_text() == "the only copy of a key"


@pytest.mark.parametrize("directory", ["missing", "config.yaml"])
def test_a_place_where_no_file_can_be_adds_nobody(here: Place, tmp_path: Path, directory: str) -> None:
    done = here.run("add", "alice", "--out", str(tmp_path / directory / "alice.yaml"))
    assert done.code == 1
    assert str(tmp_path / directory / "alice.yaml") in done.error
    assert "alice" not in load_server_config(here.config).clients


def test_a_full_disk_adds_nobody_and_leaves_no_file(here: Place) -> None:
    here.ok("add", "bob")
    done = here.shell("ulimit -f 0; openme add alice --out alice.yaml")  # no file may grow, as on a full disk
    assert (done.code, done.error) == (1, "alice.yaml: file too large")
    assert not (here.root / "alice.yaml").exists()
    assert "alice" not in load_server_config(here.config).clients


def test_who_cannot_be_registered_leaves_no_file(here: Place, tmp_path: Path) -> None:
    here.ok("add", "alice")
    done = here.run("add", "alice", "--out", str(tmp_path / "alice.yaml"))
    assert "this name is taken; nothing was added" in done.error
    assert not (tmp_path / "alice.yaml").exists()


def test_a_taken_name_comes_with_what_to_do_about_a_lost_file(here: Place) -> None:
    """`openme add kim > kim.yaml` a second time has emptied the only copy of the key before we begin."""
    here.ok("add", "kim")
    done = here.run("add", "kim")
    assert "openme renew kim" in done.err
    assert "openme revoke kim, then openme add kim --out FILE" in done.err


def test_with_sudo_the_file_belongs_to_whoever_called_it_in_their_own_directory(here: Place, tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    os.chown(home, 12345, 12346)
    for directory, owner in ((home, (12345, 12346)), (other, (os.geteuid(), os.getegid()))):
        name = directory.name
        done = here.shell(f"export SUDO_UID=12345; openme add {name} --out {directory / 'file.yaml'}")
        assert done.code == 0, done.err
        status = (directory / "file.yaml").stat()
        assert ((status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode)) == (owner, 0o600)


def test_renew_writes_a_file_as_well(here: Place, tmp_path: Path) -> None:
    here.ok("add", "alice")
    done = here.ok("renew", "alice", "--out", str(tmp_path / "new.yaml"))
    assert done.out == ""
    assert "private_key" not in yaml.safe_load((tmp_path / "new.yaml").read_text())["profiles"]["default"]


# -- two files, stdout by name


@pytest.mark.parametrize("other", ["x.svg", "./x.svg", "sub/../x.svg", "link/x.svg", "ROOT/x.svg"])
def test_one_file_by_two_names_is_refused_before_anything_is_done(here: Place, other: str) -> None:
    (here.root / "sub").mkdir()
    (here.root / "link").symlink_to(".")
    before = here.config.read_text()
    done = here.shell(f"openme add alice --out x.svg --qr-out {other.replace('ROOT', str(here.root))}")
    assert (done.code, done.out) == (2, "")
    assert "are one file" in done.error
    assert not (here.root / "x.svg").exists()
    assert here.config.read_text() == before


def test_a_qr_code_overwrites_nothing(here: Place) -> None:
    (here.root / "x.png").write_text("somebody's key")
    done = here.shell("openme add alice --qr-out x.png")
    assert (done.code, done.error) == (1, "x.png is there already and is not overwritten")
    assert (here.root / "x.png").read_text() == "somebody's key"
    assert "alice" not in load_server_config(here.config).clients


def test_a_qr_code_that_a_full_disk_cuts_leaves_no_file_and_adds_nobody(here: Place) -> None:
    """A profile has less than the limit, its picture more: 512 bytes are a block of the shell's."""
    # No bytecode: Python would take what it could write of that for the whole.
    limited = "export PYTHONDONTWRITEBYTECODE=1; ulimit -f 2"
    done = here.shell(f"{limited}; openme add alice --out alice.yaml --qr-out alice.svg")
    assert (done.code, done.error) == (1, "alice.svg: file too large")
    assert sorted(path.name for path in here.root.iterdir()) == ["config.yaml", "state"]
    assert "alice" not in load_server_config(here.config).clients


def test_a_qr_code_that_nobody_reads_adds_nobody(here: Place) -> None:
    done = here.shell("openme add alice --qr --out alice.yaml 2>/dev/full")
    assert done.code == 1
    assert not (here.root / "alice.yaml").exists()
    assert "alice" not in load_server_config(here.config).clients


def test_what_is_too_much_for_a_qr_code_is_refused_before_anything_is_done(here: Place) -> None:
    done = here.shell(f"openme add alice --qr --out alice.yaml --profile {'p' * 3000}")
    assert (done.code, done.error) == (1, "the profile is too long for a QR code")
    assert not (here.root / "alice.yaml").exists()
    assert "alice" not in load_server_config(here.config).clients


def test_a_dash_is_stdout(here: Place) -> None:
    done = here.shell("openme add alice --out -; openme renew alice --out -")
    assert done.code == 0
    assert done.out.count("profiles:\n") == 2
    assert not (here.root / "-").exists()


# -- all or nothing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_is_interrupted_while_the_server_is_told_has_added_nobody(here: Place, number: signal.Signals) -> None:
    out = here.root / "alice.yaml"
    before = here.config.read_text()
    with another_server(here, lambda _: None) as asked:
        adding = subprocess.Popen(
            here.command("add", "alice", "--v1", "--out", str(out)),
            env=here.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: asked, "the server is told")
        assert out.exists()
        adding.send_signal(number)
        err = adding.communicate(timeout=20)[1]
    assert (adding.returncode, err) == (-number, "openme: error: interrupted: nothing was added\n")
    assert not out.exists()
    assert here.config.read_text() == before


# The signal comes right before or after a call of this function, wherever that is.
AT = """
import importlib, os, sys
where, when, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
sys.argv = ["openme", *sys.argv[4:]]
from openme.cli.main import run
module, name = where.split(":")
holder = importlib.import_module(module)
real = getattr(holder, name)
def call(*words, **named):
    if when == "before":
        os.kill(os.getpid(), number)
    outcome = real(*words, **named)
    if when == "after":
        os.kill(os.getpid(), number)
    return outcome
setattr(holder, name, call)
run()
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "where",
    [
        "openme.cli.new_file:write_new",
        "openme.config.edit:replace_file",
        "openme.cli.clients:_add_entry",
        "openme.cli.clients:_tell_of_client",
        "openme.cli.qr:print_qr",
    ],
)
def test_interrupted_at_any_step_both_stand_or_neither(here: Place, where: str, when: str) -> None:
    words = here.command("add", "alice", "--qr", "--out", "alice.yaml", "--qr-out", "alice.svg")[1:]
    done = subprocess.run(
        [sys.executable, "-c", AT, where, when, str(int(signal.SIGTERM)), *words],
        env=here.environment,
        cwd=here.root,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == -signal.SIGTERM
    assert "interrupted: nothing was added" in done.stderr
    assert sorted(path.name for path in here.root.iterdir()) == ["config.yaml", "state"]
    assert "alice" not in load_server_config(here.config).clients


def test_what_cannot_be_taken_out_again_keeps_its_file(here: Place) -> None:
    """Whoever is registered and has no file can never knock."""
    script = (
        "import openme.cli.clients as c, os, sys\n"
        "from openme.errors import OpenmeError\n"
        "def fails(*_, **__): raise OpenmeError('the disk is gone')\n"
        "c.remove_client = fails\n"
    )
    words = here.command("add", "alice", "--out", "alice.yaml")[1:]
    done = subprocess.run(
        [sys.executable, "-c", script + AT, "openme.cli.clients:_tell_of_client", "after", "15", *words],
        env=here.environment,
        cwd=here.root,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == -signal.SIGTERM
    assert "interrupted: alice was added" in done.stderr
    assert "to take it out: openme revoke alice" in done.stderr
    assert "alice" in load_server_config(here.config).clients
    assert (here.root / "alice.yaml").exists()


@pytest.fixture
def _own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDINGS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_own_signals")
def test_a_second_signal_does_not_keep_from_undoing() -> None:
    steps = []

    def do() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    def undo() -> str:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        steps.append("undone")
        return "nothing"

    with pytest.raises(Interrupted, match="nothing") as caught:
        all_or_nothing(do, undo)
    assert (steps, caught.value.number) == (["undone"], signal.SIGTERM)


@pytest.mark.usefixtures("_own_signals")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_whose_exception_is_lost_is_heard_all_the_same() -> None:
    class Loses:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    def do() -> None:
        Loses()

    with pytest.raises(Interrupted, match="nothing"):
        all_or_nothing(do, lambda: "nothing")


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        all_or_nothing(lambda: os.kill(os.getpid(), signal.SIGHUP), lambda: pytest.fail("undone"))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# -- where root writes, in a directory of somebody else's


CALLER = 12345


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of whoever called sudo."""
    made = tmp_path / "home"
    made.mkdir()
    os.chown(made, CALLER, CALLER)
    monkeypatch.setenv("SUDO_UID", str(CALLER))
    return made


def its_owner(path: Path) -> int:
    return path.lstat().st_uid


def test_root_follows_no_link_that_its_caller_can_change(here: Place, home: Path, tmp_path: Path) -> None:
    roots = tmp_path / "roots"
    roots.mkdir()
    (home / "link").symlink_to(roots)
    before = here.config.read_text()
    for option in ("--out", "--qr-out"):
        done = here.shell(f"export SUDO_UID={CALLER}; openme add alice {option} {home}/link/alice.svg")
        assert done.code == 1
        assert "link is a link that another user can change, which root does not follow" in done.error
    assert list(roots.iterdir()) == []
    assert here.config.read_text() == before


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_link_of_roots_is_followed_only_where_nobody_can_exchange_it(tmp_path: Path, mode: int) -> None:
    target, place_of_link = tmp_path / "target", tmp_path / "shared"
    target.mkdir()
    place_of_link.mkdir()
    (place_of_link / "link").symlink_to("../target")
    os.close(open_directory(place_of_link / "link"))
    place_of_link.chmod(mode)
    if mode & 0o1000:
        os.close(open_directory(place_of_link / "link"))
        os.chown(place_of_link / "link", CALLER, CALLER, follow_symlinks=False)
    with pytest.raises(OpenmeError, match="root does not follow"):
        open_directory(place_of_link / "link")


def test_a_ring_of_links_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "ring").symlink_to("ring")
    with pytest.raises(OpenmeError, match="too many levels of symbolic links"):
        NewFile(tmp_path / "ring" / "x")


def swapped(directory: Path, target: Path) -> None:
    directory.rename(directory.with_name("moved"))
    directory.symlink_to(target)


@pytest.mark.parametrize("late", [False, True])
def test_a_directory_that_is_exchanged_meanwhile_leads_root_nowhere(home: Path, tmp_path: Path, *, late: bool) -> None:
    roots = tmp_path / "roots"
    roots.mkdir()
    (home / "files").mkdir()
    os.chown(home / "files", CALLER, CALLER)
    file = NewFile(home / "files" / "alice.yaml")
    if not late:
        swapped(home / "files", roots)
    file.write(b"key")
    if late:
        swapped(home / "files", roots)
    (roots / "alice.yaml").touch()
    made = home / "moved" / "alice.yaml"
    assert (made.read_bytes(), its_owner(made), stat.S_IMODE(made.stat().st_mode)) == (b"key", CALLER, 0o600)
    file.take_back()
    assert not made.exists()
    assert (roots / "alice.yaml").exists()


def test_only_what_was_made_is_taken_back(tmp_path: Path) -> None:
    file = NewFile(tmp_path / "x")
    file.take_back()
    file.write(b"key")
    (tmp_path / "x").unlink()
    (tmp_path / "x").write_bytes(b"another's")
    file.take_back()
    assert (tmp_path / "x").read_bytes() == b"another's"


def test_a_file_that_comes_meanwhile_is_neither_written_nor_given_away(home: Path, tmp_path: Path) -> None:
    (tmp_path / "shadow").write_bytes(b"root's")
    for come in (os.symlink, os.link):
        file = NewFile(home / "alice.yaml")
        come(tmp_path / "shadow", home / "alice.yaml")
        with pytest.raises(OpenmeError, match="is there already"):
            file.write(b"key")
        file.take_back()
        assert os.path.lexists(home / "alice.yaml")
        (home / "alice.yaml").unlink()
    assert ((tmp_path / "shadow").read_bytes(), its_owner(tmp_path / "shadow")) == (b"root's", os.geteuid())


# -- what is to be done next


def hints(err: str) -> list[str]:
    return [line.removeprefix("openme: hint: ") for line in err.splitlines() if line.startswith("openme: hint: ")]


def test_a_file_comes_with_what_to_do_next(here: Place) -> None:
    assert hints(here.shell("openme add alice --out alice.yaml").err) == [
        "next: bring alice.yaml to the client, then remove alice.yaml here",
        "there: openme import alice.yaml",
    ]
    assert hints(here.shell("openme add phone --out p.yaml --qr-out p.svg").err) == [
        "next: scan the QR code with the phone, then remove p.yaml and p.svg here"
    ]
    assert hints(here.shell("openme add tom --qr-out tom.svg").err) == [
        "next: scan the QR code with the phone, then remove tom.svg here"
    ]
    key = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="  # RFC 8032 section 7.1, test 1
    (hint,) = hints(here.shell(f"openme add bob --pubkey {key} --out bob.yaml").err)
    assert hint == ("next: bring bob.yaml to the client, whose profile it completes; there: openme import bob.yaml")
    line = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIK2QDyEJY9oY3tVLVwER48SrYo6+N8LUu5EHjH9VY6gc me"
    where = "ssh-agent:SHA256:0UMswL6CDH3t/7MuklgsXlWEY43JSGAfjS4Q5XKgEXI"
    assert hints(here.shell(f"openme add dave --pubkey '{line}' --out dave.yaml").err) == [
        "next: bring dave.yaml to the client; there: openme import dave.yaml",
        f"it knocks with {where}; for a key that no agent has, write identity: file:PATH there instead",
    ]
    assert hints(here.shell("openme add carol").err) == []


def test_the_next_step_works(here: Place) -> None:
    here.shell("openme add alice --out alice.yaml && openme import alice.yaml")
    with here.serving():
        done = here.run("knock", "--check", "--ip", "203.0.113.5")  # no door is opened for 127.0.0.1
    assert (done.code, done.out.splitlines()[0]) == (0, "open")


def test_a_key_that_another_client_has_names_it_and_the_way_on(here: Place) -> None:
    here.ok("add", "alice")
    key = str(load_server_config(here.config).clients["alice"].public_key)
    done = here.run("add", "bob", "--pubkey", key, "--out", str(here.root / "bob.yaml"))
    assert done.code == 1
    assert "client alice has the same" in done.error
    (hint,) = hints(done.err)
    assert hint == (
        "alice knocks with it already: openme renew alice prints its file again; to register it as bob:"
        " openme revoke alice first"
    )
    assert not (here.root / "bob.yaml").exists()
    here.ok("renew", "alice")
    here.ok("revoke", "alice")
    here.ok("add", "bob", "--pubkey", key)
    assert set(load_server_config(here.config).clients) == {"bob"}


@pytest.mark.parametrize("revoked", [False, True])
def test_who_was_there_before_is_not_undone(here: Place, *, revoked: bool) -> None:
    """Neither an add that is refused nor one that is interrupted takes out an entry that it has not made."""
    here.ok("add", "alice")
    config = here.config.read_text()
    key = str(load_server_config(here.config).clients["alice"].public_key)
    if revoked:
        here.ok("revoke", "alice")
        here.write(config)
    words = here.command("add", "alice", "--pubkey", key, "--out", str(here.root / "again.yaml"))[1:]
    done = subprocess.run(
        [sys.executable, "-c", AT, "openme.cli.new_file:write_new", "after", "15", *words],
        env=here.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert (done.returncode, "interrupted: nothing was added" in done.stderr) == (-signal.SIGTERM, True)
    if not revoked:
        assert "this name is taken" in here.run("add", "alice", "--pubkey", key).error
    assert here.config.read_text() == config
    assert not (here.root / "again.yaml").exists()


def test_who_is_let_in_again_stays_in_when_the_file_cannot_be_printed(here: Place) -> None:
    here.ok("add", "alice")
    config = here.config.read_text()
    key = str(load_server_config(here.config).clients["alice"].public_key)
    here.ok("revoke", "alice")
    here.write(config)
    done = here.shell(f"openme add alice --pubkey '{key}' >/dev/full")
    assert (done.code, "nothing was added" in done.err) == (1, False)
    assert here.config.read_text() == config
    assert here.ok("list", "--json").json()[0]["revoked"] is None
