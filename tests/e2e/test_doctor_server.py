"""What doctor finds on a server: each cause of its page, broken over the real thing, and nothing when all is well."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ctypes.util import find_library
from pathlib import Path
from typing import NamedTuple

import pytest

from openme.doctor.clock import CLOCK
from openme.doctor.server.clock import TIME_ERROR, UNSYNCHRONISED, kernel_state
from openme.doctor.server.table import LOOKS, SERVER_FILE
from openme.keeper.ratchet_file import new_ratchet, write_ratchet
from support.doctor import Told, doctor, documented, ntp_server
from support.netns import add_addresses, v4
from support.server import KNOCK_PORT, STRANGER, ServerWorld

pytestmark = pytest.mark.root

PERSON = 4711
YEAR = 365 * 86400


class Broken(NamedTuple):
    """A server on which something is to be broken, and a way to run doctor there."""

    world: ServerWorld
    stack: ExitStack

    def run(self, *words: str, prepared: str = "", ntp: str = STRANGER[4]) -> Told:
        """Run doctor, with a clock that is right by the stranger's NTP unless something else is said."""
        config = () if "--config" in words else ("--config", str(self.world.config))
        return doctor(self.world.server, "server", *config, *words, prepared=prepared, ntp=ntp)

    def stop(self) -> None:
        assert self.world.stop() == 0

    def replace(self, old: str, new: str) -> None:
        """Another config, which is not waited for."""
        text = self.world.config.read_text()
        assert old in text
        self.world.write_config(text.replace(old, new, 1))


@pytest.fixture
def broken(world: ServerWorld) -> Iterator[Broken]:
    """Nothing is, as yet: the server serves."""
    with ExitStack() as stack:
        world.add("alice")
        world.serve(tcp=[22])
        world.start(log_level="info")
        stack.enter_context(ntp_server(world.stranger, STRANGER[4]))
        yield Broken(world, stack)


def unset_clock() -> list[str]:
    """What doctor rightly says of this machine, whose clock no test may touch."""
    return [UNSYNCHRONISED] if kernel_state() == TIME_ERROR else []


Break = Callable[[Broken], Told]
"""Breaks one thing, and has doctor look."""


def then(breaks: Callable[[Broken], object], *words: str, prepared: str = "") -> Break:
    """Breaks it, and runs doctor with these words."""

    def run(broken: Broken) -> Told:
        breaks(broken)
        return broken.run(*words, prepared=prepared)

    return run


def stopped(breaks: Callable[[Broken], object] = lambda _broken: None, *words: str, prepared: str = "") -> Break:
    """Stops the server first."""

    def run(broken: Broken) -> Told:
        broken.stop()
        breaks(broken)
        return broken.run(*words, prepared=prepared)

    return run


def restarted(breaks: Callable[[Broken], object], *prefix: str) -> Break:
    """Stops the server first, and starts it again."""

    def run(broken: Broken) -> Told:
        broken.stop()
        breaks(broken)
        broken.world.start(prefix=prefix)
        return broken.run()

    return run


def nft(script: str) -> Break:
    return then(lambda broken: broken.world.server.nft(script))


def held(kind: socket.SocketKind, port: int) -> Callable[[Broken], None]:
    def breaks(broken: Broken) -> None:
        sock = broken.stack.enter_context(broken.world.socket_on(broken.world.server, kind, 6))
        sock.bind(("::", port))

    return breaks


def wrong_clock(broken: Broken) -> Told:
    add_addresses(broken.world.stranger, 8)
    return broken.run(ntp=broken.stack.enter_context(ntp_server(broken.world.stranger, v4(8), ahead=-40)))


def another_file(broken: Broken) -> Told:
    other = broken.world.config.with_name("other.yaml")
    other.touch(mode=0o600)
    other.write_text(broken.world.config.read_text() + "# another one\n")
    return broken.run("--config", str(other))


def a_refused_config(broken: Broken) -> Told:
    broken.replace("server:\n", 'server:\n  interface: "a!b"\n')
    assert broken.world.ask("reload")["fault"]
    return broken.run()


def a_faulty_client(broken: Broken) -> Told:
    broken.world.add("bob")
    broken.replace("    ed25519_pubkey:", "    allowed_ports: [99999/tcp]\n    ed25519_pubkey:")
    return broken.run()


def a_stopped_process(broken: Broken) -> Told:
    process = broken.world.process
    assert process is not None

    def go_on() -> None:
        process.send_signal(signal.SIGCONT)

    process.send_signal(signal.SIGSTOP)
    broken.stack.callback(go_on)
    return broken.run()


def another_server(broken: Broken) -> Told:
    world = broken.world
    other, state = world.folder / "other.yaml", world.folder / "other"
    words = ("init", "--server", "192.0.2.1", "--port", 5000, "--state-dir", state)
    world.openme(world.server, "--config", other, *words, code=0)
    world.openme(world.server, "--config", other, "add", "bob", code=0)
    return broken.run("--config", str(other))


def a_small_disk(broken: Broken) -> None:
    state = broken.world.state_dir
    kept = broken.world.folder / "kept"
    shutil.copytree(state, kept, ignore=shutil.ignore_patterns("control", "lock"))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0700", "tmpfs", state], check=True)
    broken.world.stack.callback(subprocess.run, ["umount", str(state)], check=True)
    broken.world.stack.callback(broken.world.kill)
    for path in kept.iterdir():
        shutil.copy2(path, state)


def an_owned_table(broken: Broken) -> None:
    owner = broken.world.server.popen("nft", "-i")
    assert owner.stdin is not None
    assert owner.stdout is not None
    owner.stdin.write("add table inet private { flags owner; chain in { type filter hook input priority 0; }; }\n")
    owner.stdin.write("list tables\n")
    owner.stdin.flush()
    while "inet private" not in owner.stdout.readline():
        pass


def legacy_rules(broken: Broken) -> None:
    broken.world.edit(firewall="iptables")
    broken.world.server.run("iptables-legacy", "-A", "INPUT", "-p", "tcp", "--dport", "81", "-j", "DROP")


def past_the_rules(broken: Broken) -> None:
    """A jump that asks for the port, which no reader of the rules that rewrite sees."""
    broken.world.serve(tcp=[8022])
    broken.world.server.nft(
        "table inet t { chain sub { meta l4proto tcp redirect to :8022; }\n"
        "chain c { type nat hook prerouting priority -100; tcp dport 22 jump sub; }; }"
    )


def other_ratchet(broken: Broken) -> None:
    ratchet = new_ratchet(7 * 86400, time.time_ns() + YEAR * 10**9)
    write_ratchet(broken.world.state_dir, ratchet)


def old_client_files(broken: Broken) -> None:
    path = broken.world.state_dir / "files.json"
    files = json.loads(path.read_text())
    path.write_text(json.dumps(dict.fromkeys(files, 2000)))


def saved(broken: Broken) -> Told:
    rules = broken.world.folder / "nftables.conf"
    rules.write_text("table inet openme {\n}\n")
    return broken.run(prepared=f"mount --bind {rules} /etc/nftables.conf")


def systemd(enabled: str, failed: str) -> Break:
    """A systemd that says so: this machine may have none."""

    def run(broken: Broken) -> Told:
        programs = broken.world.folder / "programs"
        programs.mkdir()
        systemctl = programs / "systemctl"
        systemctl.write_text(f"#!/bin/sh\n[ $1 = is-enabled ] && echo {enabled} || echo {failed}\n")
        systemctl.chmod(0o755)
        booted = "mount -t tmpfs tmpfs /run/systemd; mkdir /run/systemd/system"
        return broken.run(prepared=f"{booted}; export PATH={programs}:$PATH")

    return run


def without(*capabilities: str) -> tuple[str, ...]:
    dropped = ",".join(f"-{name}" for name in capabilities)
    return "setpriv", "--bounding-set", dropped, "--inh-caps", dropped


def no_capability(broken: Broken) -> Told:
    """Of the process that doctor is, by which it goes whether one could serve as this user."""
    broken.stop()
    return broken.run(prepared=f'set -- {" ".join(without("net_admin"))} "$@"')


def by_a_directory(broken: Broken) -> None:
    (broken.world.state_dir / "lock").unlink()
    (broken.world.state_dir / "lock").mkdir()


def without_seccomp(broken: Broken) -> Told:
    library = find_library("seccomp")
    assert library is not None
    (path,) = {line.split()[-1] for line in _libraries() if line.split()[0] == library and "x86-64" in line} or {
        line.split()[-1] for line in _libraries() if line.split()[0] == library
    }
    hidden = f'mount --bind /dev/null {path} && exec "$@"'
    return restarted(lambda _broken: None, "sh", "-c", hidden, "sh")(broken)


def _libraries() -> list[str]:
    done = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "=>" in line]


def nothing(_broken: Broken) -> None:
    """Nothing else is broken."""


BREAKS: dict[str, Break] = {
    "server_file": then(lambda broken: broken.world.config.chmod(0o666)),
    "client_entry": a_faulty_client,
    "other_file": another_file,
    "config_not_in_force": a_refused_config,
    "nobody_can_knock": then(lambda broken: broken.world.revoke("alice")),
    "dry_run": restarted(lambda broken: broken.world.edit(firewall="memory")),
    "not_serving": stopped(),
    "no_reply": a_stopped_process,
    "second_server": another_server,
    "unit_failed": systemd("enabled", "failed"),
    "unit_not_enabled": systemd("disabled", "inactive"),
    "privilege": no_capability,
    "run_as": stopped(lambda broken: broken.world.edit(run_as="nobody-of-this-name")),
    "sandbox": without_seccomp,
    "kernel_filter": restarted(nothing, *without("bpf", "sys_admin")),
    "knock_port": stopped(held(socket.SOCK_DGRAM, KNOCK_PORT)),
    "health_port": restarted(lambda broken: broken.world.edit(health_port=22)),
    "interface": then(lambda broken: broken.world.edit(interface="nothing0")),
    "rules_refused": stopped(legacy_rules),
    "rules_gone": nft("add table inet openme { flags dormant; }"),
    "not_hidden": then(past_the_rules),
    "knock_port_shut": nft(
        f"table inet t {{ chain c {{ type filter hook prerouting priority -350; udp dport {KNOCK_PORT} drop; }}; }}"
    ),
    "other_firewall": then(an_owned_table),
    "forwarded": nft(
        "table ip t { chain c { type nat hook prerouting priority -100; tcp dport 22 dnat to 10.0.0.2; }; }"
    ),
    "notrack": nft("table ip t { chain c { type filter hook prerouting priority -300; tcp dport 22 notrack; }; }"),
    "leftovers": nft(
        'table inet filter { chain openme { tcp dport 22 drop comment "openme-drop"; }\n'
        'chain input { type filter hook input priority 0; jump openme comment "openme-jump"; }; }'
    ),
    "saved_rules": saved,
    "state_dir_missing": stopped(lambda broken: shutil.rmtree(broken.world.state_dir)),
    "state_dir_open": then(lambda broken: broken.world.state_dir.chmod(0o755)),
    "state_dir": stopped(by_a_directory),
    "disk": restarted(a_small_disk),
    "revoked_list": then(lambda broken: (broken.world.state_dir / "revoked.copy").write_text("damaged\n")),
    "ratchet": then(lambda broken: (broken.world.state_dir / "ratchet").unlink()),
    "no_epoch": then(other_ratchet),
    "client_keys_ended": then(old_client_files),
    "clock": wrong_clock,
}


def test_when_all_is_well_nothing_is_found(broken: Broken) -> None:
    before = broken.world.server.ruleset(), broken.world.server.run("ip", "-brief", "address")
    told = broken.run()
    assert (told.code, told.causes) == (int(bool(unset_clock())), unset_clock()), told.value
    units = [] if Path("/run/systemd/system").exists() else ["unit", "boot"]
    assert [item["look"] for item in told.value["not_looked_at"]] == units
    assert len(told.value["looked_at"]) == len(LOOKS) - len(units)
    assert (broken.world.server.ruleset(), broken.world.server.run("ip", "-brief", "address")) == before


@pytest.mark.parametrize("cause", [cause for cause in documented("server") if cause != UNSYNCHRONISED])
def test_each_cause_of_the_page_is_found_alone_when_it_is_there(broken: Broken, cause: str) -> None:
    told = BREAKS[cause](broken)
    assert [*told.causes] == [cause] or sorted(told.causes) == sorted([cause, *unset_clock()]), told.value
    assert told.code == 1
    assert all(finding["text"] and finding["cure"] for finding in told.value["findings"])


def test_the_page_names_what_the_looks_can_find() -> None:
    causes = {SERVER_FILE, CLOCK, *(cause for look in LOOKS for cause in look.causes)}
    assert sorted(documented("server")) == sorted(causes)


def a_bridge_member(broken: Broken) -> None:
    server = broken.world.server
    server.run("ip", "link", "add", "br0", "type", "bridge")
    server.run("ip", "link", "add", "inner", "type", "veth", "peer", "name", "outer")
    server.run("ip", "link", "set", "inner", "master", "br0")
    broken.world.edit(interface="inner")


def published_by_an_engine(broken: Broken) -> None:
    """As container engines do it: a chain of their own in iptables-nft's table, to which prerouting jumps."""
    for line in (
        "-N DOCKER",
        "-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER",
        "-A DOCKER ! -i docker0 -p tcp --dport 22 -j DNAT --to-destination 172.17.0.2:22",
    ):
        broken.world.server.run("iptables-nft", "-t", "nat", *line.split())


def half_a_ratchet(broken: Broken) -> None:
    path = broken.world.state_dir / "ratchet"
    path.write_bytes(path.read_bytes()[:40])


def a_ratchet_open_to_others(broken: Broken) -> None:
    (broken.world.state_dir / "ratchet").chmod(0o644)


def a_hosts_own_policy(broken: Broken) -> None:
    """With open_knock_port: false it is for the host's own rules to let knocks in, and these drop by default."""
    broken.world.server.nft("table inet filter { chain input { type filter hook input priority 0; policy drop; }; }")
    broken.world.edit(open_knock_port=False)


def an_expired_client(broken: Broken) -> None:
    broken.replace("    ed25519_pubkey:", "    expires: 2020-01-01T00:00:00Z\n    ed25519_pubkey:")


@pytest.mark.parametrize(
    ("looks", "cause"),
    [
        (then(a_bridge_member), "interface"),
        (then(published_by_an_engine), "forwarded"),
        (then(half_a_ratchet), "ratchet"),
        (then(a_ratchet_open_to_others), "ratchet"),
        (restarted(a_hosts_own_policy), "knock_port_shut"),
        (then(an_expired_client), "nobody_can_knock"),
        (stopped(lambda broken: os.chown(broken.world.state_dir, PERSON, PERSON)), "state_dir"),
        (systemd("masked", "inactive"), "unit_not_enabled"),
        (then(lambda broken: broken.world.kill()), "not_serving"),
    ],
    ids=["bridge", "engine", "half", "open", "policy", "expired", "owner", "masked", "killed"],
)
def test_what_else_a_cause_can_come_from(broken: Broken, looks: Break, cause: str) -> None:
    told = looks(broken)
    assert (told.code, sorted(told.causes)) == (1, sorted([cause, *unset_clock()])), told.value


def test_who_is_not_root_is_told_what_was_not_looked_at(broken: Broken) -> None:
    told = broken.run(prepared=f'set -- setpriv --reuid={PERSON} --regid={PERSON} --clear-groups "$@"')
    assert (told.code, told.causes) == (0, [])
    (left,) = told.value["not_looked_at"]
    assert "sudo openme doctor" in left["why"]


def test_a_server_in_another_network_namespace_is_looked_at_there(broken: Broken) -> None:
    config = str(broken.world.config)
    told = doctor(broken.world.client, "server", "--config", config, ntp=STRANGER[4])
    assert told.causes == unset_clock()
    assert {"side": "server", "look": "a packet"} in told.value["looked_at"]
