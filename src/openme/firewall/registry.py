"""The firewalls that a config may name, and what each of them can: nobody else compares their names."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

from openme.firewall.base import Abilities, Firewall, FirewallError, LockScope, Rules
from openme.firewall.legacy_tables import legacy_tables
from openme.firewall.memory import MemoryFirewall

_MOVE_RULES = "iptables-legacy-save | iptables-nft-restore, then iptables-legacy -F"

_log = logging.getLogger(__name__)


def _any_interface(_name: str) -> None:
    """Nothing is written for an interface."""


def _gets_past_all(_rules: Rules) -> list[str]:
    """There is nothing to get past."""
    return []


@dataclass(frozen=True, slots=True)
class Kind:
    """A firewall by its name in the config.

    `open` gets hold of it and changes nothing in it yet; FirewallError, with the cure, if it is missing. `look` says
    what of the host these rules would not get past, a line each; nothing is changed and nobody notices. FirewallError,
    as `open` and `start` would raise it, if it is missing or does not take them. `check_interface`: FirewallError for a
    name that no rule can have. `summary` is what the file that `init` writes says of it, in a sentence; none for
    what is not to be chosen anew. `served_by`: the kind that this is another name for.
    """

    name: str
    abilities: Abilities
    open: Callable[[], Firewall]
    look: Callable[[Rules], list[str]] = _gets_past_all
    check_interface: Callable[[str], object] = _any_interface
    summary: str | None = None
    served_by: str | None = None


# Modules that only Linux has are imported when their firewall is used.


def _nft() -> Firewall:
    if (warning := _legacy_warning()) is not None:
        _log.warning("%s", warning)
    return _nft_beside_legacy_tables()


def _nft_beside_legacy_tables() -> Firewall:
    from openme.firewall.nft import NftFirewall  # noqa: PLC0415

    return NftFirewall()


def _look_nft(rules: Rules) -> list[str]:
    from openme.firewall.nft import NftFirewall  # noqa: PLC0415

    warning = _legacy_warning()
    return [*([] if warning is None else [warning]), *NftFirewall().look(rules)]


def _legacy_warning() -> str | None:
    if tables := legacy_tables():
        return (
            f"iptables-legacy is in use here ({', '.join(tables)}): what it drops, openme cannot let in (move its rules"
            f" to nftables: {_MOVE_RULES})"
        )
    return None


def _iptables() -> Firewall:
    _refuse_legacy_tables()
    return _nft_beside_legacy_tables()


def _look_iptables(rules: Rules) -> list[str]:
    _refuse_legacy_tables()
    return _look_nft(rules)


def _refuse_legacy_tables() -> None:
    if tables := legacy_tables():
        raise FirewallError(
            f"firewall iptables: this host has iptables-legacy rules ({', '.join(tables)}): nft cannot open past them",
            f"move them to nftables: {_MOVE_RULES}",
        )


def _nft_interface(name: str) -> str:
    from openme.firewall.nftables_rules import interface_name  # noqa: PLC0415

    return interface_name(name)


_IN_NF_TABLES = Abilities(
    lets_in=True,
    needs_net_admin=True,
    lock=LockScope.NETWORK_NAMESPACE,
    stays=True,
    tracks_connections=True,
    among_host_rules=True,
)

KINDS = (
    Kind("nft", _IN_NF_TABLES, _nft, _look_nft, _nft_interface, "the kernel's firewall"),
    Kind("iptables", _IN_NF_TABLES, _iptables, _look_iptables, _nft_interface, served_by="nft"),
    Kind("memory", Abilities(), MemoryFirewall, summary="a dry run that decides and logs, and touches nothing"),
)
DEFAULT = KINDS[0].name


def names() -> tuple[str, ...]:
    """What a config may say."""
    return tuple(kind.name for kind in KINDS)


def kind_of(name: str) -> Kind:
    """The firewall called so; FirewallError if there is none."""
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise FirewallError(f"firewall {name} is not there yet", f"use 'firewall: {DEFAULT}'")


def those_that_stay() -> tuple[Kind, ...]:
    """Every firewall in which a server that has died may have left rules, each once."""
    return tuple(kind for kind in KINDS if kind.abilities.stays and kind.served_by is None)


def clean_up(name: str) -> None:
    """Remove what was left in the firewall called so, whatever hinders opening it by that name."""
    kind = kind_of(name)
    (kind if kind.served_by is None else kind_of(kind.served_by)).open().stop()
