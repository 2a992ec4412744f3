"""The looks of a server."""

from openme.doctor.clock import CLOCK, clock_is_wrong
from openme.doctor.looks import Look
from openme.doctor.server import clock, packet, processes, rules, running, state, units
from openme.doctor.server.before_start import preflight
from openme.doctor.server.subject import Server
from openme.errors import OpenmeError

SERVER_FILE = "server_file"
"""Found before any look: the config cannot be used."""
_ELSEWHERE = (
    "bind the container's port to an address of this host and put something in front that listens here; or take the"
    " rule away (docs/operating.md, What openme cannot hide)"
)
_ROOT = "run the server as root, or with systemd's unit (packaging/openme.service)"

LOOKS: tuple[Look[Server], ...] = (
    Look("clock", (CLOCK,), lambda server: clock_is_wrong(server.ntp)),
    Look("clock's source", (clock.UNSYNCHRONISED,), clock.synchronised),
    Look("state_dir", (state.MISSING,), state.directory),
    Look("mode of state_dir", (state.OPEN,), state.mode, after=("state_dir", "files of state_dir")),
    Look(
        "files of state_dir",
        ("state_dir",),
        preflight("state_dir", "state_dir", "docs/operating.md, Files"),
        after=("state_dir",),
    ),
    Look("disk", (state.DISK,), state.disk, after=("state_dir",)),
    Look("revoked list", (state.REVOKED,), state.revoked, after=("files of state_dir",)),
    Look("capabilities", ("privilege",), preflight("privilege", "privilege", _ROOT)),
    Look("user", ("run_as",), preflight("user", "run_as", _ROOT), after=("state_dir",)),
    Look("knock port", ("knock_port",), preflight("knock_port", "knock_port", "another udp_port, or end that program")),
    Look("low health port", ("privilege",), preflight("low_health_port", "privilege", _ROOT)),
    Look(
        "health port", ("health_port",), preflight("health_port", "health_port", "give openme a health_port of its own")
    ),
    Look("other servers", ("second_server",), preflight("second_server", "second_server", "stop the other one")),
    Look(
        "serving",
        (running.NOT_SERVING, running.NO_REPLY),
        running.serving,
        after=(
            "state_dir",
            "files of state_dir",
            "capabilities",
            "user",
            "knock port",
            "other servers",
            "unit",
            "kernel's firewall",
        ),
    ),
    Look("config", (running.CLIENT_ENTRY, running.OTHER_FILE, running.NOT_IN_FORCE), running.config),
    Look("clients", (running.NOBODY,), running.clients, after=("config",)),
    Look("firewall", (running.DRY_RUN,), running.firewall),
    Look(
        "host's firewall",
        ("other_firewall",),
        preflight("firewall", "other_firewall", "docs/operating.md, Beside the host's firewall", only=str),
        after=("config", "interface"),
    ),
    Look(
        "kernel's firewall",
        ("rules_refused",),
        preflight("firewall", "rules_refused", "docs/operating.md, Beside the host's firewall", only=OpenmeError),
        after=("config", "interface", "capabilities"),
    ),
    Look("forwarded ports", ("forwarded",), preflight("redirected", "forwarded", _ELSEWHERE)),
    Look("untracked ports", ("notrack",), preflight("untracked", "notrack", "take the port out of that rule")),
    Look("leftovers", ("leftovers",), preflight("leftovers", "leftovers", "sudo openme serve --clean-up")),
    Look("saved rules", ("saved_rules",), preflight("saved_rules", "saved_rules", "save the rules without openme's")),
    Look("interface", (running.INTERFACE,), running.interface),
    Look("rules", (rules.GONE,), rules.in_place, after=("serving", "firewall")),
    Look(
        "a packet",
        (packet.NOT_HIDDEN, packet.KNOCK_PORT_SHUT),
        packet.reached,
        after=("serving", "firewall", "rules", "forwarded ports", "health port"),
    ),
    Look("kernel filter", (running.KERNEL_FILTER,), running.kernel_filter, after=("serving",)),
    Look("epoch keys", (state.RATCHET, state.NO_EPOCH), state.epoch_keys, after=("state_dir",)),
    Look("clients' keys", (state.CLIENT_KEYS,), state.client_keys, after=("state_dir", "epoch keys")),
    Look("sandbox", (processes.SANDBOX,), processes.sandbox, after=("serving",)),
    Look("unit", (units.FAILED,), units.failed),
    Look("boot", (units.NOT_ENABLED,), units.enabled),
)
