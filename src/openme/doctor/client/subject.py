"""What the client's looks are about: one profile, and the one knock that they share."""

import threading
from pathlib import Path

from openme.client.addresses import Endpoint, resolve
from openme.client.known import Known
from openme.client.plan import by_family
from openme.client.policy import Outcome
from openme.client.session import Session
from openme.config.profile_model import ClientConfig
from openme.doctor.looks import NotLookedError
from openme.errors import OpenmeError


class Client:
    """A profile that can be knocked with. `ntp`: whom to ask for the time. `ip`: what a knock names, as for a session.

    ProfileError if the profile cannot be used.
    """

    def __init__(self, config: ClientConfig, name: str | None, *, ntp: str, ip: str | None, knocks: bool) -> None:
        self.config = config
        self.session = Session(config, name, passphrase=_nobody)
        self.profile = self.session.profile
        self.known = Known(config)
        self.ntp = ntp
        self.ip = ip
        self._knocks = knocks
        self._lock = threading.Lock()
        self._outcome: Outcome | Exception | None = None

    def addresses(self) -> list[Endpoint]:
        """The server's addresses that a knock goes to. UnknownHostError."""
        found = resolve(self.profile.server_host, self.profile.server_udp_port)
        return [endpoint for family in by_family(found) for endpoint in family.endpoints]

    def outcome(self) -> Outcome:
        """What became of the knock, which whoever asks first sends; what that raised is raised for all who ask."""
        if not self._knocks:
            raise NotLookedError("no knock is to be sent (--no-knock)")
        with self._lock:
            if self._outcome is None:
                try:
                    self._outcome = self.session.check(self.session.knock(self.ip))
                except (OpenmeError, NotLookedError, OSError) as error:
                    self._outcome = error
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome


def _nobody(path: Path) -> bytes:
    raise NotLookedError(f"{path} is sealed, and doctor asks nobody for a passphrase: openme knock --check does")
