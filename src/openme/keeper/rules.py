"""The firewall's static rules as a function of the config."""

from collections.abc import Iterable

from openme.config.model import ServerConfig
from openme.firewall.base import Rules
from openme.keeper.policy import client_lists, health_list
from openme.ports import PortRange, merged, port


def rules_for(config: ServerConfig, kept: Iterable[PortRange] = (), interface_indexes: Iterable[int] = ()) -> Rules:
    """What the firewall is to enforce under this config.

    `kept`: ports that stay hidden although the config may not name them any more. `interface_indexes`: see `Rules`.

    Where openme itself listens on the health port, that is hidden whatever `drop_ports` says, and from everybody: a
    port that shows itself would tell that openme runs here. Another program's is a managed port like others.
    """
    own = (port("tcp", config.health_port),) if config.health_port_is_ours else ()
    lists = {health_list(config.health_port)}
    for item in config.index.openable:
        lists.update(client_lists(item, config.health_port))
    return Rules(
        knock_port=config.udp_port,
        open_knock_port=config.open_knock_port,
        hidden=merged((*config.managed_ports, *kept)) if config.drop_ports else own,
        hidden_as=config.hidden_as,
        hide_udp_errors=config.hide_udp_errors,
        interface=config.interface,
        port_lists=frozenset(lists),
        always_open_from=config.always_open_from,
        always_hidden=own,
        interface_indexes=() if config.interface is None else tuple(sorted(interface_indexes)),
    )
