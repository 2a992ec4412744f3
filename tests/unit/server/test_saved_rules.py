"""Which saved rulesets are warned of. The texts are as nft and iptables-save 1.8.9 write them while openme serves."""

import os
from pathlib import Path

import pytest

from openme.server.saved_rules import MAX_BYTES, MAX_FILES, saved_rule_warnings

TABLE = """table inet openme {
\tset v4_9a417f7b2819a5ffc54e {
\t\ttype ipv4_addr
\t\tflags timeout
\t}
}
"""
HOST = """table inet filter {
\tchain input {
\t\ttype filter hook input priority filter; policy drop;
\t\ttcp dport 80 accept comment "not openme's # a sign"
\t}
}
"""
MARKED = HOST.replace(
    "\t\ttcp", '\t\tmeta mark & 0x40000000 != 0x00000000 accept comment "openme-mark-0x40000000"\n\t\ttcp'
)
RESTORED = HOST.replace("\t\ttcp", "\t\tmeta mark & 0x40000000 != 0x00000000 counter packets 0 bytes 0 accept\n\t\ttcp")
EXISTING = HOST.replace("\tchain", "\tchain openme {\n\t\ttcp dport 22 drop\n\t}\n\tchain", 1)
IPTABLES = """*filter
:INPUT ACCEPT [0:0]
-A INPUT -p icmp -j ACCEPT
COMMIT
"""
IPTABLES_MARKED = IPTABLES.replace(
    "-A", "-A INPUT -m mark ! --mark 0x0/0x40000000 -m comment --comment openme-mark-0x40000000 -j ACCEPT\n-A", 1
)
IPTABLES_EXISTING = IPTABLES.replace("-A", ":openme - [0:0]\n-A INPUT -j openme\n-A", 1)


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    return tmp_path / "nftables.conf"


def nft(conf: Path) -> tuple[str, ...]:
    return saved_rule_warnings("nft", (conf,), (), conf.parent)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (HOST, None),
        ("", None),
        (HOST + TABLE, "holds openme's table"),
        (f"add {TABLE}", "holds openme's table"),
        (MARKED, "holds a rule of openme's"),
        (RESTORED, "holds a rule of openme's"),
        (EXISTING, "holds a chain openme"),
        ("add chain inet filter openme\n", "holds a chain openme"),
        (TABLE.replace("openme", "openme-like") + HOST.replace("input", "openme.d"), None),
    ],
)
def test_what_a_saved_nft_ruleset_holds_is_said(conf: Path, text: str, said: str | None) -> None:
    conf.write_text(f"flush ruleset\n{text}")
    lines = nft(conf)
    assert len(lines) == (said is not None)
    assert all(str(said) in line and line.startswith(f"{conf} ") for line in lines)


def test_a_table_that_the_file_deletes_again_is_not_warned_of(conf: Path) -> None:
    conf.write_text(f"flush ruleset\n{HOST}{TABLE}delete table inet openme\n")
    assert nft(conf) == ()


def test_a_table_that_comes_after_its_deletion_is_warned_of(conf: Path) -> None:
    conf.write_text(f"table inet openme\ndelete table inet openme\n{HOST}{TABLE}")
    assert "table" in nft(conf)[0]


def test_what_is_commented_out_counts_for_nothing(conf: Path) -> None:
    (conf.parent / "more.nft").write_text(TABLE)
    conf.write_text(f'{HOST}# table inet openme {{ }}\n# include "more.nft"\n')
    assert nft(conf) == ()


def test_a_file_and_its_includes_are_read_in_nfts_order(conf: Path) -> None:
    rules = conf.parent / "nftables.d"
    rules.mkdir()
    (rules / "a.nft").write_text(TABLE)
    conf.write_text(f'{HOST}include "nftables.d/*.nft"\n')
    assert [line.split()[0] for line in nft(conf)] == [str(rules / "a.nft")]
    (rules / "b.nft").write_text("delete table inet openme\n")
    assert nft(conf) == ()
    conf.write_text(f"include '{rules}/b.nft'\ninclude \"{rules}/a.nft\"\n")
    assert [line.split()[0] for line in nft(conf)] == [str(rules / "a.nft")]


def test_files_that_include_each_other_have_an_end(conf: Path) -> None:
    other = conf.parent / "other"
    other.write_text(f'include "nftables.conf"\n{TABLE}')
    conf.write_text('include "other"\ninclude "./nftables.conf"\n')
    assert [line.split()[0] for line in nft(conf)] == [str(other)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (IPTABLES, None),
        (IPTABLES_MARKED, "holds a rule of openme's"),
        (IPTABLES_EXISTING, "holds a chain openme"),
        ("*filter\n-N openme\nCOMMIT\n", "holds a chain openme"),
        (IPTABLES + ":openme-like - [0:0]\n", None),
    ],
)
def test_what_a_saved_iptables_ruleset_holds_is_said(tmp_path: Path, text: str, said: str | None) -> None:
    path = tmp_path / "rules.v4"
    path.write_text(text)
    lines = saved_rule_warnings("nft", (), (path, tmp_path / "rules.v6"))
    assert len(lines) == (said is not None)
    assert all(str(said) in line and line.startswith(f"{path} ") for line in lines)


def test_nothing_is_said_of_what_cannot_be_read_or_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    pipe = os.open(tmp_path / "pipe", os.O_RDWR)
    os.write(pipe, TABLE.encode())
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "gone").symlink_to("nowhere")
    paths = tuple(tmp_path / name for name in ("pipe", "binary", "gone", "missing", "."))
    assert saved_rule_warnings("nft", paths, paths, tmp_path) == ()
    assert os.read(pipe, 100), "nobody has read from it"
    os.close(pipe)


def test_a_dry_run_looks_at_nothing(conf: Path) -> None:
    conf.write_text(TABLE)
    assert saved_rule_warnings("memory", (conf,), (conf,)) == ()


def test_no_more_is_read_than_a_bound(conf: Path) -> None:
    for number in range(MAX_FILES + 5):
        (conf.parent / f"{number:03}.nft").write_text("")
    (conf.parent / "999.nft").write_text(TABLE)
    conf.write_text('include "*.nft"\n')
    assert nft(conf) == (), "beyond the files that are looked at"
    conf.write_text("\n" * MAX_BYTES + TABLE)
    assert nft(conf) == ()


def test_many_includes_of_one_file_take_no_time(conf: Path) -> None:
    """Each level doubles the one below: without a bound that would be two to the power of thirty readings."""
    for number in range(30):
        (conf.parent / str(number)).write_text(f'include "{number + 1}"\n' * 2)
    conf.write_text('include "0"\n')
    assert nft(conf) == ()


@pytest.mark.parametrize("name", ["*/" * 2000 + "*", "../" * 2000 + "*", "[z-a]*", "a\0*", "*" * 5000])
def test_no_pattern_that_a_file_includes_keeps_a_server_from_starting(conf: Path, name: str) -> None:
    conf.write_text(f'include "{name}"\n{TABLE}', encoding="utf-8")
    assert len(nft(conf)) == 1


def test_a_pattern_is_read_as_nft_reads_it(conf: Path) -> None:
    """By glob(3): `**` goes no deeper than `*`, and neither finds a name that begins with a dot."""
    for name in ("one/two/deep.nft", "one/flat.nft", "one/.hidden.nft"):
        file = conf.parent / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(TABLE, encoding="utf-8")
    for pattern, found in (("**/*.nft", "one/flat.nft"), ("one/.h*", "one/.hidden.nft")):
        conf.write_text(f'include "{pattern}"\n', encoding="utf-8")
        (said,) = nft(conf)
        assert said.startswith(f"{conf.parent / found} holds")
