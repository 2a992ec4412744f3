"""`openme import` as a user runs it: what is given from where, into which profile, and what is asked first."""

import json
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from openme.config.profile import load_client_config
from support.command import OPENME, Done, Place
from support.terminal import with_terminal

PAGE = Path(__file__).parents[2] / "docs/key-management.md"
LOW = "A" * 43 + "="


def client(here: Place, *words: str, given: str | bytes = b"") -> Done:
    """A client's command, of a user who has no terminal."""
    done = subprocess.run(
        [OPENME, *words],
        env=here.environment,
        cwd=here.root,
        input=given.encode() if isinstance(given, str) else given,
        capture_output=True,
        check=False,
        timeout=60,
        start_new_session=True,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def profiles(here: Place) -> Path:
    return here.root / ".openme/config.yaml"


def files(here: Place) -> set[str]:
    return {str(path.relative_to(here.root)) for path in here.root.rglob("*") if path.is_file()}


def exported(here: Place, name: str, *words: str) -> Path:
    """What the server hands out for a new client."""
    path = here.root / f"{name}.yaml"
    here.ok("add", name, "--out", str(path), *words)
    return path


def test_a_file_is_taken_and_its_profile_knocks(here: Place) -> None:
    alice = exported(here, "alice")
    done = client(here, "import", str(alice))
    assert (done.code, done.out) == (0, "")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (profiles(here), profiles(here).parent)]
    assert modes == [0o600, 0o700]
    mine, theirs = (load_client_config(path).profiles["default"] for path in (profiles(here), alice))
    assert mine._replace(line=0) == theirs._replace(line=0)
    assert mine.private_key is not None
    assert mine.private_key.to_base64() not in done.err
    assert f"added profile default in {profiles(here)}: server_host 127.0.0.1" in done.err
    assert f"hint: remove {alice}: the private key in it is in {profiles(here)} now" in done.err
    with here.serving() as server:
        assert client(here, "knock", "--ip", "203.0.113.5").code == 0
        server.logs("alice: opened")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("words", [[], ["-"]])
def test_stdin_is_taken_in_whatever_encoding_a_shell_has_written_it(
    here: Place, encoding: str, words: list[str]
) -> None:
    given = exported(here, "alice").read_text().replace("\n", "\r\n").encode(encoding)
    done = client(here, "import", *words, given=given)
    assert done.code == 0, done.err
    assert "default" in load_client_config(profiles(here)).profiles
    assert "\r" not in profiles(here).read_text()
    assert "remove" not in done.err


def test_a_code_of_ours_is_read_back(here: Place) -> None:
    alice = exported(here, "alice", "--qr-out", str(here.root / "code.png"))
    assert client(here, "import", "code.png").code == 0
    mine, theirs = (load_client_config(path).profiles["default"] for path in (profiles(here), alice))
    assert mine._replace(line=0) == theirs._replace(line=0)


def test_a_code_on_a_screenshot_is_found(here: Place) -> None:
    """In a picture with colours, transparency and other things in it."""
    from PIL import Image  # noqa: PLC0415  # an extra

    exported(here, "alice", "--qr-out", str(here.root / "code.png"))
    screen = Image.new("RGBA", (1080, 2000), (250, 240, 220, 90))
    code = Image.open(here.root / "code.png").convert("RGBA").rotate(90)
    screen.paste((20, 90, 160, 255), (0, 0, 1080, 200))
    screen.paste(code, (150, 600))
    screen.save(here.root / "screen.png")
    assert client(here, "import", "screen.png").code == 0
    clear = Image.new("RGBA", code.size, (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), mask=code.convert("L").point([255] * 128 + [0] * 128))
    clear.save(here.root / "clear.png")
    assert client(here, "import", "clear.png", "--as", "clear").code == 0
    screen.crop((0, 0, 400, 400)).save(here.root / "none.png")
    assert "no QR code was found in it" in client(here, "import", "none.png").error
    (here.root / "cut.png").write_bytes((here.root / "code.png").read_bytes()[:200])
    assert "cannot be read: damaged, or cut off" in client(here, "import", "cut.png").error
    Image.new("1", (5000, 4000)).save(here.root / "large.png")
    assert "expected at most 16 million pixels" in client(here, "import", "large.png").error


def test_without_the_libraries_for_images_it_says_what_to_install(here: Place) -> None:
    exported(here, "alice", "--qr-out", str(here.root / "code.png"))
    program = (
        "import sys; sys.modules['zxingcpp'] = None; sys.argv[0] = 'openme';from openme.cli.main import run; run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "import", "code.png"],
        env=here.environment,
        cwd=here.root,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert "code.png: QR codes need the Python library zxingcpp, which is not there" in done.stderr
    assert "-m pip install zxing-cpp pillow" in done.stderr
    assert not profiles(here).exists()


def test_what_phone_apps_copy_is_taken(here: Place) -> None:
    private = load_client_config(exported(here, "alice", "--v1")).profiles["default"]
    assert private.private_key is not None
    text = json.dumps(
        {
            "profile": "phone",
            "host": private.server_host,
            "udp_port": private.server_udp_port,
            "server_pubkey": re.search(r"server_pubkey: (\S+)", (here.root / "alice.yaml").read_text())[1],  # type: ignore[index]
            "client_privkey": private.private_key.to_base64(),
            "client_pubkey": str(private.public_key),
        }
    )
    assert client(here, "import", given=text).code == 0
    assert load_client_config(profiles(here)).profiles["phone"] == private._replace(name="phone", line=2)


def test_the_two_halves_fit_as_the_page_shows_it(here: Place) -> None:
    """Client, server, client: the page's own lines, each where it belongs; then a knock opens the door."""
    text = PAGE.read_text("utf-8")
    (made,) = re.findall(r"^```console\n\$ (openme keygen)\n.*?^```", text, re.MULTILINE | re.DOTALL)
    (added,) = re.findall(r"^sudo (openme add alice --pubkey )'KEY' --out alice.yaml$", text, re.MULTILINE)
    (taken,) = re.findall(r"^(openme import alice\.yaml)$", text, re.MULTILINE)
    public = client(here, *made.split()[1:]).out.strip()
    here.ok(*added.split()[1:], public, "--out", str(here.root / "alice.yaml"))
    assert "private" not in (here.root / "alice.yaml").read_text()
    done = client(here, *taken.split()[1:])
    assert "completed profile default" in done.err
    assert "remove" not in done.err
    config = load_client_config(profiles(here))
    assert (list(config.profiles), config.waiting) == (["default"], {})
    with here.serving() as server:
        assert client(here, "knock", "--ip", "203.0.113.5").code == 0
        server.logs("alice: opened")


def test_renewed_keys_come_into_the_profile_with_its_comments(here: Place) -> None:
    client(here, "import", str(exported(here, "alice")))
    text = profiles(here).read_text().replace("profiles:", "# mine\nprofiles:") + "    ip: source  # NAT\n"
    profiles(here).write_text(text)
    before = profiles(here).stat()
    assert "already" in client(here, "import", "alice.yaml").err
    assert (profiles(here).read_text(), profiles(here).stat().st_ino) == (text, before.st_ino)
    here.ok("rotate", "ratchet")
    renewed = here.ok("renew", "alice").out
    done = client(here, "import", given=renewed)
    assert "refreshed profile default" in done.err
    after = profiles(here).read_text()
    assert after != text
    changed = [line for line in text.splitlines() if line not in after.splitlines()]
    assert [line.split(":")[0].strip() for line in changed] == ["keys"]
    assert load_client_config(profiles(here)).profiles["default"].ip == "source"


def test_another_profile_of_the_name_is_refused_and_both_ways_out_are_said(here: Place) -> None:
    client(here, "import", str(exported(here, "alice")))
    before = profiles(here).read_bytes()
    exported(here, "bob")
    done = client(here, "import", "bob.yaml")
    assert done.code == 1
    assert "profiles.default: is another profile than the one that is offered" in done.error
    assert "--as NAME" in done.err
    assert "--replace" in done.err
    assert profiles(here).read_bytes() == before
    assert client(here, "import", "bob.yaml", "--as", "b").code == 0
    assert list(load_client_config(profiles(here)).profiles) == ["default", "b"]
    assert "replaced profile default" in client(here, "import", "bob.yaml", "--as", "default", "--replace").err
    config = load_client_config(profiles(here))
    assert config.profiles["default"].private_key == config.profiles["b"].private_key


def test_several_profiles_are_all_taken_or_none(here: Place) -> None:
    alice, bob = (exported(here, name).read_text() for name in ("alice", "bob"))
    two = alice + bob.replace("default", "second").partition("\n")[2]
    assert client(here, "import", "--as", "x", given=two).code == 2
    broken = two.replace("server_pubkey", "server_pubkez", 2).replace("server_pubkez", "server_pubkey", 1)
    done = client(here, "import", given=broken)
    assert "profiles.second.server_pubkez: unknown key" in done.error
    assert not profiles(here).parent.exists()
    assert client(here, "import", given=two).code == 0
    assert list(load_client_config(profiles(here)).profiles) == ["default", "second"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda text: text[:-10], "profiles.default.epoch_keys.keys: expected"),
        (
            lambda text: re.sub(r"(private_key: )\S+", rf"\g<1>{LOW[:-5]}", text),
            "profiles.default.private_key: expected",
        ),
        (lambda text: re.sub(r"(server_pubkey: )\S+", rf"\g<1>{LOW}", text), "found a point of low order"),
        (lambda text: re.sub(r"(server_host:).*", r"\1", text), "server_host: expected a value"),
        (lambda _: "<!DOCTYPE html>", "found HTML or SVG"),
        (lambda _: "", "stdin:1: expected a map with 'profiles:'"),
        (lambda text: text + "#" * 2**20, "stdin: expected at most 1024 KiB of text"),
        (lambda _: "[" * 10**6, "expected at most 16 levels"),
        (lambda text: text + "#" * 2**24, "stdin: expected at most 16 MiB"),
    ],
)
def test_broken_input_is_one_line_and_nothing_is_half_written(here: Place, change: object, told: str) -> None:
    text = exported(here, "alice").read_text()
    before = files(here)
    done = client(here, "import", given=change(text))  # type: ignore[operator]
    assert (done.code, done.out) == (1, "")
    assert told in done.error
    assert files(here) == before
    private = re.search(r"private_key: (\S{20})", text)
    assert private is not None
    assert private[1] not in done.err


def test_a_file_that_is_not_there_or_a_directory_is_said(here: Place) -> None:
    assert client(here, "import", "gone.yaml").error == "gone.yaml: cannot be read: no such file or directory"
    assert client(here, "import", ".").error == ".: cannot be read: is a directory"


def test_only_a_copy_of_the_key_is_to_be_removed_and_never_the_clients_own_file(here: Place) -> None:
    given = exported(here, "alice")
    assert f"remove {given}" in client(here, "import", str(given)).err
    done = client(here, "import", str(profiles(here)))
    assert (done.code, "remove" in done.err) == (0, False), done.err


# -- what is asked for

EVIL = 'echo "\\e[8m\u202e" > taken'
SHOWN = r'echo "\x1b[8m\u202e" > taken'


def with_command(here: Place, name: str = "alice") -> Path:
    path = exported(here, name)
    path.write_text(path.read_text() + f'    post_knock: "{EVIL.replace(chr(34), chr(92) + chr(34))}"\n')
    return path


def test_a_command_is_shown_escaped_and_taken_only_if_somebody_says_yes(here: Place) -> None:
    given = with_command(here)
    for answer, is_taken in (("", False), ("no", False), ("Y", True)):
        profiles(here).unlink(missing_ok=True)
        done, shown = with_terminal([OPENME, "import", str(given)], [answer], here.environment, here.root)
        assert done.code == 0, done.err
        assert f"run on this machine: {SHOWN} - take this post_knock? [y/N]" in shown.replace("\r\n", "")
        assert "\x1b" not in shown + done.err
        assert (load_client_config(profiles(here)).profiles["default"].post_knock is not None) == is_taken
        assert not (here.root / "taken").exists()


def test_the_terminal_is_asked_also_where_the_profile_comes_on_stdin(here: Place) -> None:
    given = with_command(here).read_text()
    done, _ = with_terminal([OPENME, "import"], ["yes"], here.environment, here.root, stdin=given)
    assert done.code == 0
    assert load_client_config(profiles(here)).profiles["default"].post_knock is not None


def test_without_a_terminal_a_command_is_left_out_unless_it_is_asked_for(here: Place) -> None:
    given = with_command(here)
    done = client(here, "import", str(given), given="y\ny\n")
    assert done.code == 0
    assert f"run on this machine: {SHOWN}: left out, since there is no terminal to ask on" in done.err
    assert "--take post_knock" in done.err
    assert "post_knock" not in profiles(here).read_text()
    assert client(here, "import", str(given), "--take", "post_knock").code == 0
    assert load_client_config(profiles(here)).profiles["default"].post_knock is not None


def test_a_command_of_ones_own_stays_and_nothing_is_asked(here: Place) -> None:
    given = with_command(here)
    client(here, "import", str(exported(here, "bob")), "--as", "b")
    text = given.read_text().replace("post_knock:", "post_knock: mine #")
    client(here, "import", "--take", "post_knock", given=text)
    done = client(here, "import", str(given), "--take", "post_knock")
    assert "keeps its own post_knock" in done.err
    assert load_client_config(profiles(here)).profiles["default"].post_knock == "mine"


def test_a_server_with_anothers_keys_is_refused_whatever_its_file_says_of_itself(here: Place) -> None:
    """spec wire-v2.md, "Packet": it could pass on knocks that it cannot read."""
    client(here, "import", str(exported(here, "alice")), "--as", "office")
    before = profiles(here).read_bytes()
    text = exported(here, "bob").read_text().replace("127.0.0.1", "other.example")
    for more in ("", "    same_server_as: [127.0.0.1]\n"):
        done = client(here, "import", given=text + more)
        assert done.code == 1
        assert "epoch_keys: profile office for 127.0.0.1 has the same" in done.error
        assert "add to profile office: same_server_as: [other.example]" in done.err
        assert profiles(here).read_bytes() == before
    profiles(here).write_text(before.decode() + "    same_server_as: [other.example]\n")
    assert client(here, "import", given=text).code == 0
    profiles(here).write_bytes(before)
    done = client(here, "import", "--take", "same_server_as", given=text + more)
    assert done.code == 0, done.err


def test_two_servers_with_one_key_are_refused_also_where_both_come_at_once(here: Place) -> None:
    alice = exported(here, "alice").read_text()
    other = alice.replace("127.0.0.1", "other.example").replace("default", "other").partition("\n")[2]
    done = client(here, "import", given=alice + other)
    assert "epoch_keys: profile other for other.example has the same" in done.error
    assert not profiles(here).parent.exists()


def test_a_signer_for_several_servers_is_not_given_one_servers_version_1_key_twice(here: Place) -> None:
    text = re.sub(r"private_key: .*", 'identity: "file:/k"', exported(here, "alice", "--v1").read_text())
    assert client(here, "import", given=text).code == 0
    done = client(here, "import", "--as", "other", given=text.replace("127.0.0.1", "other.example"))
    assert (done.code, "server_pubkey: profile default for 127.0.0.1 has the same" in done.error) == (1, True)
    assert list(load_client_config(profiles(here)).profiles) == ["default"]


# -- what would be


def test_a_dry_run_says_what_would_change_and_changes_nothing(here: Place) -> None:
    given = with_command(here)
    done = client(here, "import", "--dry-run", str(given))
    assert done.code == 0
    assert f"would be added: profile default in {profiles(here)}: server_host 127.0.0.1" in done.out
    assert f"would ask: after each knock for profile default, run on this machine: {SHOWN}" in done.out
    assert not profiles(here).parent.exists()
    client(here, "import", str(given))
    before = profiles(here).read_bytes()
    moved = given.read_text().replace("127.0.0.1", "new.example")
    done = client(here, "import", "--dry-run", "--take", "post_knock", given=moved)
    assert "would be refreshed: profile default" in done.out
    assert "server_host 127.0.0.1 -> new.example, post_knock" in done.out
    assert profiles(here).read_bytes() == before


# -- the file


def test_imports_at_once_lose_nothing_and_leave_nothing_else(here: Place) -> None:
    given = [exported(here, f"c{n}") for n in range(8)]
    done: list[Done] = []
    threads = [
        threading.Thread(target=lambda path=path: done.append(client(here, "import", str(path), "--as", path.stem)))
        for path in given
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.code for one in done] == [0] * 8, [one.err for one in done]
    assert set(load_client_config(profiles(here)).profiles) == {path.stem for path in given}
    assert [path.name for path in profiles(here).parent.iterdir()] == ["config.yaml"]


def test_a_file_that_others_can_read_is_not_written_into(here: Place) -> None:
    client(here, "import", str(exported(here, "alice")))
    profiles(here).chmod(0o644)
    before = profiles(here).read_bytes()
    done = client(here, "import", "--as", "b", "alice.yaml")
    assert "expected mode 0600" in done.error
    assert profiles(here).read_bytes() == before


def test_a_profile_without_a_key_is_taken_with_a_warning(here: Place) -> None:
    client(here, "keygen")
    exported(here, "alice")
    done = client(here, "import", given=here.ok("renew", "alice").out.replace("default", "other"))
    assert done.code == 0
    assert "profile other has no private key and cannot knock" in done.err
