"""The host's network interfaces, and whether packets come in by the one that the config names.

A rule sees the device that a packet comes in by under the device's own name. Packets of a member of a bridge, bond,
team or VRF come in by its master, so that a rule for the member meets none of them; nor does one for a name that no
device has, or for a second name (`ip link property add altname`). The kernel is asked by rtnetlink(7), since /sys may
be that of another network namespace.
"""

import logging
import os
import socket
from collections.abc import Iterable
from math import inf

from openme.errors import FirewallError, OpenmeError
from openme.firewall.registry import kind_of
from openme.netlink.routes import Link, link_changes, links_now

_INTERVAL = 0.2  # seconds between two looks at all links: containers come and go in swarms
_SWITCHES = {"openvswitch"}  # masters that hand packets on by ports of their own

_log = logging.getLogger("openme.server")


def known_interfaces() -> list[str]:
    """Their names."""
    return [name for _, name in socket.if_nameindex()]


def interface_fault(name: str, links: Iterable[Link]) -> tuple[str, str] | None:
    """Why rules for the interface called `name` meet no packets, and the cure; None where they do."""
    links = sorted(links, key=lambda link: link.index)
    by_index = {link.index: link for link in links}
    link = next((link for link in links if link.name == name), None)
    if link is None:
        other = next((link for link in links if name in link.other_names), None)
        if other is not None:
            return f"interface {name} is called {other.name} by the kernel", _write(other.name)
        return _missing(name), f"known interfaces: {', '.join(link.name for link in links)}"
    top = link
    passed = {link.index}
    while top.master is not None and top.master in by_index and top.master not in passed:
        top = by_index[top.master]
        passed.add(top.index)
    if top is link:
        return None
    direct = by_index[link.master or 0]
    kind = f"the {direct.kind} {direct.name}" if direct.kind else direct.name
    if top.kind in _SWITCHES:
        return f"interface {name} is a port of {kind}: packets come in by its internal ports", "name one of those"
    return f"interface {name} is a member of {kind}: packets come in by {top.name}", _write(top.name)


def _missing(name: str) -> str:
    return f"there is no interface {name}"


def _write(name: str) -> str:
    return f"write 'interface: {name}'"


def require_interface(name: str, firewall: str) -> None:
    """OpenmeError, with the cure, unless packets come in by an interface `name`, and `firewall` can be told so."""
    kind_of(firewall).check_interface(name)
    fault = interface_fault(name, links_now())
    if fault is not None:
        raise OpenmeError(*fault)


class InterfaceWatch:
    """Follows, in the network namespace where it is made, whether packets come in by the interface of the config.

    `changes` is readable when a device has come, gone or changed. `warning` is what there is to say now, None when all
    is well. `indexes` are the devices that have had the interface's name in this run and are still there.
    """

    def __init__(self) -> None:
        """OSError where the kernel refuses."""
        self._subscription = link_changes()
        self.changes = self._subscription.socket
        self.warning: str | None = None
        self.indexes: frozenset[int] = frozenset()
        self._name: str | None = None
        self._changed = True
        self._next_look = float("-inf")

    def close(self) -> None:
        """Give the socket back."""
        self._subscription.close()

    def has_changed(self) -> None:
        """Read what `changes` has to say."""
        for _ in self._subscription.news():
            self._changed = True

    def indexes_of(self, name: str | None) -> frozenset[int]:
        """The devices that count as the interface `name`, were it the one in force now."""
        if name is None or name == self._name:
            return self.indexes
        try:
            return frozenset(link.index for link in links_now() if link.name == name)
        except FirewallError:
            return frozenset()

    @property
    def next_at(self) -> float:
        """When there is something to `look` at, in monotonic seconds: long ago if at once, `inf` if nothing changed."""
        return self._next_look if self._changed else inf

    def look(self, name: str | None, now: float) -> None:
        """Look again where something may have changed.

        `name`: the interface in force, None for all. `now` in monotonic seconds. Each new fault, and the end of one,
        is logged.
        """
        if name == self._name and (not self._changed or now < self._next_look):
            return
        self._changed = False
        self._next_look = now + _INTERVAL
        if name is None:
            self._name, self.warning, self.indexes = None, None, frozenset()
            return
        try:
            links = links_now()
        except FirewallError as error:
            self._changed = True
            self._name = name
            self._say(f"whether packets come in by interface {name} cannot be told: {error.message}", name)
            return
        self._follow(name, links)

    def _follow(self, name: str, links: list[Link]) -> None:
        there = {link.index for link in links}
        of_this_name = {link.index for link in links if link.name == name}
        # Of a name that the config has just been given, the devices of the name before are no part.
        earlier = self.indexes if name == self._name else frozenset()
        self._name = name
        self.indexes = frozenset((earlier & there) | of_this_name)
        fault = interface_fault(name, links)
        if any(link.loopback and link.name == name for link in links):
            fault = f"interface {name} is the loopback device, which receives nothing from outside", "name another one"
        renamed = sorted(link.name for link in links if link.index in self.indexes - of_this_name)
        warning = None
        if fault is not None and fault[0] == _missing(name):
            known = ", ".join(link.name for link in links)
            warning = f"interface {name} is not there ({known} are): nothing is hidden or opened on it until it comes"
        elif fault is not None:
            warning = f"{fault[0]}: nothing is hidden or opened on it ({fault[1]})"
        if renamed:
            other = ", ".join(renamed)
            warning = (
                f"interface {name} is called {other} now: its ports stay hidden there until the server is restarted"
                f" ({_write(renamed[0])})"
            )
        self._say(warning, name)

    def _say(self, warning: str | None, name: str) -> None:
        if warning == self.warning:
            return
        if warning is None:
            _log.warning("interface %s is there: ports are hidden on it", name)
        else:
            _log.warning("%s", warning)
        self.warning = warning


def watch_interfaces() -> InterfaceWatch | None:
    """A watch; None, with a warning, where the kernel has no such thing."""
    try:
        return InterfaceWatch()
    except (OSError, AttributeError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else "not on this system"
        _log.warning("changes of interfaces are not noticed: %s", reason.lower())
        return None
