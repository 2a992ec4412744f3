"""What `knock --json` and `status --json` print (docs/clients.md, "For programs").

Fields are only ever added; a word that a field may have keeps its meaning. Loaded only where a program asks.
"""

from typing import Any

from openme.client import Attempt, Outcome, Proof, Sent
from openme.moments import rfc3339


def value(profile: str, attempt: Attempt | None, outcome: Outcome | None) -> dict[str, Any]:
    """Any JSON value. `attempt`: the knock, None for a look; `outcome`: what became of it, None for a knock alone."""
    found: dict[str, Any] = {"profile": profile, "answer": None, "open": None}
    if outcome is not None:
        found |= {
            "answer": outcome.answer.value,
            "open": outcome.is_open,
            "addresses": [{"address": e.host, "open": e in outcome.opened} for e in outcome.endpoints],
            "receipts": [_receipt(proof) for proof in outcome.proofs],
        }
    if attempt is not None:
        found |= {
            "knocks": [_knock(sent) for sent in attempt.sent],
            "not_sent": [{"address": endpoint.host, "reason": reason} for endpoint, reason in attempt.failed],
        }
    return found


def _knock(sent: Sent) -> dict[str, Any]:
    return {
        "address": sent.endpoint.host,
        "target": None if sent.target is None else str(sent.target),
        "target_is_own": sent.is_own,
        "target_told_by": sent.told_by,
    }


def _receipt(proof: Proof) -> dict[str, Any]:
    receipt = proof.receipt
    found: dict[str, Any] = {"address": proof.endpoint.host, "proven": receipt is not None}
    if receipt is None:
        return found | {"problem": proof.problem}
    return found | {
        "as_asked": proof.opened_as_asked,
        "client": receipt.client,
        "ip": str(receipt.ip),
        "network": None if receipt.network is None else str(receipt.network),
        "ip_checked": proof.knock.target is not None,
        "ports": list(receipt.ports),
        "expires_at": rfc3339(receipt.expires_at),
        "server_time": rfc3339(receipt.server_time),
    }
