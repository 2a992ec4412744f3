"""How long a grant is by the server's word, and when to knock again so that the door never closes."""

from collections.abc import Iterable

from openme.client.receipt import Proof

RENEW_AT = 0.6
"""Of a grant's time: enough is left for a second try when the first is lost."""
USUAL_INTERVAL = 25.0
"""Between two knocks where no receipt tells how long the grant is; below the usual knock_timeout of 30 s."""
LEAST_SECONDS = 0.5
"""Between two knocks, however short the grant."""


def grant_seconds(proofs: Iterable[Proof]) -> float | None:
    """Seconds from the receipt on of the shortest grant, by the server's own clock, whichever ours is; None without."""
    return min((p.receipt.expires_at - p.receipt.server_time for p in proofs if p.receipt is not None), default=None)


def renewal_seconds(grant: float | None) -> float:
    """Seconds after a knock until the one that comes before the end of its grant."""
    return USUAL_INTERVAL if grant is None else max(LEAST_SECONDS, grant * RENEW_AT)
