"""The doors that an earlier run left open in the kernel."""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from openme.clocks import Now
from openme.config.model import ServerConfig
from openme.firewall.base import Door, Firewall
from openme.keeper.grants import Grant
from openme.keeper.keeper import Keeper
from openme.keeper.policy import client_lists, door_network, may_come_from
from openme.server.door_steps import AT_ONCE
from openme.store.base import Holder, Store

if TYPE_CHECKING:
    from openme.wire.knock import IPAddress

_CLOCKS_AGREE = 1.0  # seconds by which the kernel's clock and the wall clock may differ about a door's end

_log = logging.getLogger("openme.server")


def take_over(firewall: Firewall, keeper: Keeper, store: Store, now: Now) -> None:
    """Have the keeper know those that somebody may have, and close the others. FirewallError, StoreError."""
    doors = firewall.doors()
    if not doors:
        return
    grants, strays = adopted_grants(doors, store.holders(), keeper.config, now)
    keeper.adopt(grants)
    shortened = _shortened(doors, keeper, now)
    while some := list(islice(shortened, AT_ONCE)):
        firewall.open(some)
    for grant in grants:
        _log.info("%s: still open for %s from before this start", grant.client_name, grant.place)
    if strays:
        firewall.close((door.port_list, door.address) for door in strays)
        _log.info("closed %d doors from before this start to which nobody has a right any more", len(strays))


def _shortened(doors: Iterable[Door], keeper: Keeper, now: Now) -> Iterator[Door]:
    """The doors that are open for longer than those who have them still may have them; for just as long.

    Not those for a single use: only the kernel knows whether one is there still.
    """
    for door in doors:
        if not door.port_list.single_use:
            held = keeper.grants.door((door.port_list, door.address), now.monotonic)
            if held is not None and held.seconds < door.seconds - _CLOCKS_AGREE:
                yield held


def adopted_grants(
    doors: list[Door], holders: Iterable[Holder], config: ServerConfig, now: Now
) -> tuple[list[Grant], list[Door]]:
    """Whose the doors are that an earlier run left open: grants for them, and the doors that are nobody's.

    A door belongs to whoever was given it and still may have it; one whose client was revoked while no server ran, or
    that nobody is known to hold, is for the caller to close.
    """
    grants: list[Grant] = []
    held: set[int] = set()
    at: defaultdict[IPAddress, list[Door]] = defaultdict(list)
    for door in doors:
        at[door.address].append(door)
    for holder in holders:
        client = config.index.by_key(holder.client_key)
        if client is None or (client.expires is not None and client.expires <= now.utc):
            continue
        if door_network(client, holder.named) != holder.network or not may_come_from(client, holder.named):
            continue
        lists = client_lists(client, config.health_port)
        own = [door for door in at.get(holder.address, ()) if door.port_list in lists]
        # The kernel knows the remaining time; the stored one tells a shared door's holders apart, and is no longer than
        # that unless the clock was set back.
        stored = holder.expires_at - now.unix
        if not own or stored < -_CLOCKS_AGREE:
            continue
        held.update(id(d) for d in own)
        # Somebody may have put an element there by hand, without an end.
        remaining = min(max(d.seconds for d in own), max(stored, _CLOCKS_AGREE), config.knock_timeout)
        grants.append(
            Grant(
                client_key=holder.client_key,
                client_name=client.name,
                address=holder.address,
                ports=client.ports,
                port_lists=tuple(d.port_list for d in own),
                opened_at=holder.opened_at,
                expires_at=now.unix + remaining,
                deadline=now.monotonic + remaining,
                network=holder.network,
                knocked_for=holder.knocked_for,
            )
        )
    return grants, [d for d in doors if id(d) not in held]
