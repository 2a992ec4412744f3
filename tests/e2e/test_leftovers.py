"""Rules that the existing server left behind, in real tables: said, removed by the command that is shown and by
`serve --clean-up`, and nothing else with them.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from openme.firewall.leftovers import Leftovers, leftovers_now
from openme.firewall.legacy_leftovers import legacy_leftovers
from support.netns import Namespace, namespace, until
from support.server import ServerWorld

pytestmark = pytest.mark.root

NFT_HOST = """
table inet filter {
    chain mine { tcp dport 25 accept comment "openme-like"; }
    chain input { type filter hook input priority 0; policy accept;
        ct state established accept; jump mine; }
}
"""
NFT_LEFT = """
add chain inet filter openme
add rule inet filter openme ip saddr 192.0.2.9 tcp dport 22 accept comment "openme"
add rule inet filter openme ip6 saddr 2001:db8::9 tcp dport 22 accept comment "openme"
add rule inet filter openme tcp dport 22 drop comment "openme-drop"
insert rule inet filter input jump openme comment "openme-jump"
insert rule inet filter input udp dport 54154 accept comment "openme-knock"
"""
IPTABLES_HOST = ("-N mine", "-A mine -p tcp --dport 25 -j ACCEPT", "-A INPUT -m comment --comment 'not openme' -j mine")
IPTABLES_LEFT = (
    "-N openme",
    "-A openme -p tcp --dport 22 -m comment --comment openme -j ACCEPT",
    "-A openme -p tcp --dport 22 -m comment --comment openme-drop -j DROP",
    "-I INPUT -m comment --comment openme-jump -j openme",
    "-I INPUT -p udp --dport 54154 -m comment --comment openme-knock -j ACCEPT",
)


@pytest.fixture
def host() -> Iterator[Namespace]:
    with ExitStack() as stack:
        yield namespace(stack)


def apply(host: Namespace, program: str, lines: tuple[str, ...]) -> None:
    for line in lines:
        host.run("sh", "-c", f"{program} {line}")


def shown(host: Namespace) -> str:
    """All rules of this host, without counters."""
    texts = [host.ruleset()]
    texts += [host.run(f"{name}-save") for name in ("iptables-legacy", "ip6tables-legacy") if has(name)]
    return re.sub(r"\[\d+:\d+\]|^#.*$", "", "\n".join(texts), flags=re.MULTILINE)


def has(program: str) -> bool:
    return shutil.which(program) is not None


def left(host: Namespace) -> list[Leftovers]:
    with host.entered():
        return leftovers_now()


def nft_left(host: Namespace) -> None:
    host.nft(NFT_LEFT)


def iptables_left(program: str) -> Callable[[Namespace], None]:
    return lambda host: apply(host, program, IPTABLES_LEFT)


@pytest.mark.parametrize(
    ("prepare", "leave", "where"),
    [
        (lambda host: host.nft(NFT_HOST), nft_left, "inet filter"),
        (lambda host: apply(host, "iptables-nft", IPTABLES_HOST), iptables_left("iptables-nft"), "ip filter"),
        (lambda host: apply(host, "ip6tables-nft", IPTABLES_HOST), iptables_left("ip6tables-nft"), "ip6 filter"),
    ],
    ids=["nft", "iptables-nft", "ip6tables-nft"],
)
def test_the_command_shown_removes_them_and_leaves_the_rest_as_it_was(
    host: Namespace, prepare: Callable[[Namespace], None], leave: Callable[[Namespace], None], where: str
) -> None:
    prepare(host)
    before = shown(host)
    assert left(host) == []
    leave(host)
    (found,) = left(host)
    assert (found.where, found.whole_chain, found.in_doubt) == (where, True, False)
    host.run("sh", "-c", found.command)
    assert shown(host) == before
    assert left(host) == []


@pytest.mark.parametrize("program", ["iptables-legacy", "ip6tables-legacy"])
def test_those_of_iptables_legacy_are_found_and_removed_by_the_command_shown(world: ServerWorld, program: str) -> None:
    if not has(program):
        pytest.skip(f"{program} is not installed")
    host = world.server
    apply(host, program, IPTABLES_HOST)
    before = shown(host)
    apply(host, program, IPTABLES_LEFT)
    said = world.openme(host, "--config", world.config, "check-config", code=0).stderr
    (command,) = re.findall(rf"to remove them, as root: ({program} .*)", said)
    saved = host.run(f"{program}-save")
    host.run("sh", "-c", command)
    assert shown(host) == before
    host.run(f"{program}-restore", stdin=saved)
    assert shown(host) != before
    cleaned = world.openme(host, "--config", world.config, "serve", "--clean-up", code=0).stderr
    assert f"removed: the existing server has left its chain openme and 2 of its rules in {program} filter" in cleaned
    assert shown(host) == before


def test_clean_up_removes_those_of_every_table_and_serve_and_check_config_warn(world: ServerWorld) -> None:
    host = world.server
    host.nft(NFT_HOST)
    apply(host, "iptables-nft", IPTABLES_HOST)
    before = shown(host)
    host.nft(NFT_LEFT)
    apply(host, "iptables-nft", IPTABLES_LEFT)
    said = world.openme(host, "--config", world.config, "check-config", code=0).stderr
    assert "the existing server has left its chain openme and 2 of its rules in inet filter" in said
    assert "nft 'delete rule ip filter INPUT handle" in said
    world.start()
    world.says("the existing server has left its chain openme and 2 of its rules in ip filter")
    assert world.stop() == 0
    assert world.log().count("the existing server has left") == 4  # at the start and at the end, for two tables
    cleaned = world.openme(host, "--config", world.config, "serve", "--clean-up", code=0).stderr
    assert cleaned.count("removed: the existing server has left") == 2
    assert "the firewall is clean" in cleaned
    assert shown(host) == before


@pytest.mark.parametrize(
    "rules",
    [
        """add rule inet filter openme tcp dport 22 accept comment "openme"
            add rule inet filter openme tcp dport 80 accept""",
        "add rule inet filter openme tcp dport 80 accept",
    ],
)
def test_a_chain_with_other_rules_in_it_stays_with_its_jump_and_is_told(world: ServerWorld, rules: str) -> None:
    host = world.server
    host.nft(f'{NFT_HOST}add chain inet filter openme\nadd rule inet filter input jump openme comment "openme-jump"\n')
    host.nft(rules)
    cleaned = world.openme(host, "--config", world.config, "serve", "--clean-up", code=1).stderr
    assert "it is left as it is" in cleaned
    assert "the firewall is clean" not in cleaned
    after = host.ruleset()
    assert "jump openme" in after
    assert "tcp dport 80 accept" in after
    assert 'comment "openme"' not in after


@pytest.mark.parametrize("program", ["nft", "iptables-nft", "iptables-legacy"])
def test_somebody_elses_jump_goes_with_the_chain_that_it_jumps_to_and_is_counted(
    world: ServerWorld, program: str
) -> None:
    """The kernel removes no chain that is jumped to; what stands beside the jump stays."""
    if not has(program):
        pytest.skip(f"{program} is not installed")
    host = world.server
    if program == "nft":
        where = "inet filter"
        host.nft(NFT_HOST)
        before = shown(host)
        host.nft(NFT_LEFT)
        host.nft("add rule inet filter mine ip saddr 198.51.100.0/24 jump openme")
    else:
        where = "ip filter" if program == "iptables-nft" else f"{program} filter"
        apply(host, program, IPTABLES_HOST)
        before = shown(host)
        apply(host, program, (*IPTABLES_LEFT, "-A mine -s 198.51.100.0/24 -j openme"))
    told = f"its chain openme and 2 of its rules in {where}, to which 1 rule jumps without its mark"
    assert told in world.openme(host, "--config", world.config, "check-config", code=0).stderr
    cleaned = world.openme(host, "--config", world.config, "serve", "--clean-up", code=0).stderr
    assert f"removed: the existing server has left {told}\n" in cleaned
    assert shown(host) == before


def test_a_jump_that_no_command_can_name_keeps_the_chain_and_all_jumps_to_it(world: ServerWorld) -> None:
    host = world.server
    apply(host, "iptables-nft", ("-N 'odd;name'", *IPTABLES_LEFT, "-A 'odd;name' -j openme", "-A FORWARD -j openme"))
    cleaned = world.openme(host, "--config", world.config, "serve", "--clean-up", code=1).stderr
    assert "it is left as it is" in cleaned
    after = host.run("iptables-nft-save")
    assert after.count("-j openme") == 3
    assert "-A openme -p tcp" in after
    assert "54154" not in after, "what is marked and needs no chain goes"


@pytest.mark.parametrize(
    "script",
    [
        NFT_HOST,
        f"{NFT_HOST}add chain inet filter openme\n",
        'table inet mine { chain openme { tcp dport 22 accept comment "openme"; }; }\n',
        'table inet filter { chain x { tcp dport 22 accept comment "openme-knocks"; }; }\n',
    ],
    ids=["nothing", "an empty chain", "another table", "another comment"],
)
def test_what_only_looks_alike_is_none(host: Namespace, script: str) -> None:
    host.nft(script)
    assert left(host) == []


def test_clean_up_refuses_beside_a_running_existing_server(world: ServerWorld) -> None:
    world.server.nft(NFT_HOST)
    world.server.nft(NFT_LEFT)
    program = world.folder / "bin" / "openme"
    program.parent.mkdir()
    # Any program that is a file of this name and waits: `tail -f serve`.
    shutil.copy(shutil.which("tail") or "/usr/bin/tail", program)
    (world.folder / "serve").touch()
    before = world.server.ruleset()
    existing = world.server.popen("sh", "-c", f"cd {world.folder} && exec {program} -f serve")
    try:
        until(lambda: Path(f"/proc/{existing.pid}/exe").readlink() == program)
        refused = world.openme(world.server, "--config", world.config, "serve", "--clean-up", code=1).stderr
        assert f"the existing server is running (process {existing.pid})" in refused
        assert world.server.ruleset() == before
    finally:
        existing.kill()
        existing.wait()


def test_a_legacy_table_is_not_loaded_by_looking(host: Namespace) -> None:
    with host.entered():
        before = Path("/proc/thread-self/net/ip_tables_names").read_text() if has("iptables-legacy") else ""
        assert legacy_leftovers() == ([], [])
        after = Path("/proc/thread-self/net/ip_tables_names").read_text() if has("iptables-legacy") else ""
    assert before == after


def test_a_legacy_table_that_cannot_be_looked_at_is_told(tmp_path: Path) -> None:
    names = tmp_path / "names"
    names.write_text("nat\nfilter\n")
    assert legacy_leftovers({"nosuch": str(names)}) == (
        [],
        ["nosuch filter has rules, which only the program nosuch-save shows: it is missing"],
    )
    names.write_text("nat\n")
    assert legacy_leftovers({"nosuch": str(names), "other": str(tmp_path / "none")}) == ([], [])
