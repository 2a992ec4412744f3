"""A first start that fails leaves the ports as they were: nobody has relied on their being hidden yet."""

import logging
from collections.abc import Callable

from openme.errors import OpenmeError
from openme.firewall.base import Firewall
from openme.server.hidden_ports import HiddenPorts

_log = logging.getLogger("openme.server")


class FirstStart:
    """Made before the first rule is; `undo` takes rules and set back if this was a first start that failed.

    It is one where no server has ever hidden anything on this `state_dir`, and no rules of ours were in the firewall.
    It is over when `is_serving`: from then on what is hidden stays hidden, whatever ends the server.
    """

    def __init__(self, firewall: Firewall, hidden: HiddenPorts, is_serving: Callable[[], bool]) -> None:
        self._firewall, self._hidden, self._is_serving = firewall, hidden, is_serving
        self._is_first = hidden.is_first and not firewall.is_there()

    def undo(self) -> bool:
        """Whether the ports are as they were before this start."""
        if not self._is_first or self._is_serving():
            return False
        try:
            self._firewall.stop()
            self._hidden.take_back(())
        except OpenmeError as error:
            _log.error("the rules of this first start could not be taken back: %s", error.message)
            return False
        _log.error("this was the first start, and it failed: the ports are as they were before")
        return True
