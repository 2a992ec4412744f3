"""What the server says to a knock, and what it means that it says nothing."""

from collections.abc import Iterator
from ipaddress import IPv6Address

from openme.client.errors import ClientError, KeysRefusedError
from openme.client.knock import Attempt
from openme.client.nat64 import look_up
from openme.client.plan import is_translated
from openme.client.policy import Answer, State
from openme.doctor.client.path import tcp
from openme.doctor.client.subject import Client
from openme.doctor.looks import Finding

SERVER_CLOCK = "server_clock"
NOT_AS_ASKED = "not_as_asked"
SILENT_ADDRESS = "address_silent"
KEYS_REFUSED = "keys_refused"
UNPROVEN = "unproven"
NAT64 = "nat64"
NAMED = "no_answer_for_address"
NONE = "no_answer"
NOT_SENT = "not_sent"
_NAT64_SECONDS = 5.0
_ON_THE_SERVER = "on the server: sudo openme doctor, and journalctl -u openme"


def server_clock(client: Client) -> Iterator[Finding]:
    """The server's time, as it stands in a receipt, against this machine's."""
    for difference in {proof.endpoint.family: proof.clock_difference for proof in client.outcome().proofs}.values():
        if difference is not None:
            side = "ahead of" if difference > 0 else "behind"
            yield Finding(
                SERVER_CLOCK,
                f"the server's clock is {abs(difference):.0f} s {side} this machine's, by its receipt",
                "have both set over the network: timedatectl set-ntp true; docs/clock.md",
            )
            return


def receipts(client: Client) -> Iterator[Finding]:
    """What the server has proven, and what is wrong with that."""
    outcome = client.outcome()
    for proof in outcome.proofs:
        if proof.receipt is not None and not proof.opened_as_asked:
            yield Finding(
                NOT_AS_ASKED,
                f"the knock named {proof.knock.target}, and the server opened {proof.receipt.ip}",
                "do not use this door: somebody on the way, or the server, has changed whose it is",
            )
    for problem in outcome.problems:
        if isinstance(problem, KeysRefusedError):
            yield Finding(
                KEYS_REFUSED,
                problem.message,
                "get a new file in a way that you trust: on the server, openme renew NAME",
            )
    if outcome.is_open:
        for endpoint in outcome.endpoints:
            if endpoint not in outcome.opened:
                yield Finding(
                    SILENT_ADDRESS,
                    f"the door is open, but not over {endpoint}",
                    f"take the address from the name {client.profile.server_host} if it is not the server's; else see"
                    " what on the way drops it",
                )


def answer(client: Client) -> Iterator[Finding]:
    """Why nothing, or nothing that proves itself, came back, as far as it can be told from here."""
    try:
        outcome = client.outcome()
    except ClientError as error:
        yield Finding(NOT_SENT, error.message, error.hint or "openme knock --check says more")
        return
    if outcome.is_open or outcome.answer is Answer.PROVEN:
        return
    host, port = client.profile.server_host, client.profile.server_health_port
    if outcome.state is State.NOT_CONFIRMED:
        problem = next((proof.problem for proof in outcome.proofs if proof.problem), "it gave no receipt")
        yield Finding(
            UNPROVEN,
            f"something answers on {host} port {port}/tcp, but it does not prove that it is the server: {problem}",
            f"if another program has that port, give openme a health_port of its own; else {_ON_THE_SERVER}",
        )
        return
    attempt = outcome.attempt
    seen = ", ".join(f"{endpoint} {tcp(endpoint, port)}" for endpoint in outcome.endpoints[:2])
    nothing = f"knocked at {host}, and nothing came back (TCP port {port}: {seen})"
    if attempt is not None and (network := _translated(attempt)) is not None:
        yield Finding(
            NAT64,
            f"{nothing}: this network translates ({network}), so the server does not see the address that was named",
            f"ip: source in profile {client.profile.name}",
        )
        return
    if attempt is not None and (named := [sent for sent in attempt.sent if sent.target is not None]):
        whose = "this machine's own address" if named[0].is_own else "an address that is not this machine's own"
        yield Finding(
            NAMED,
            f"{nothing}; the knock named {named[0].target}, {whose}, and the server may see another one",
            "openme doctor --ip source tries without a name; if that finds nothing: ip: source in profile"
            f" {client.profile.name}; else {_ON_THE_SERVER}",
        )
        return
    yield Finding(NONE, nothing, _ON_THE_SERVER)


def _translated(attempt: Attempt) -> str | None:
    """The NAT64 prefix by which a server is reached for which the knock named our own IPv6 address."""
    own = [sent for sent in attempt.sent if isinstance(sent.target, IPv6Address)]
    if not own:
        return None
    for network in look_up(patience=_NAT64_SECONDS) or ():
        if is_translated([sent.endpoint for sent in own], (network,)):
            return str(network)
    return None
