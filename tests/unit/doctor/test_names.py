"""Whose a server's name is: a name that leads here is a slip, an address of this machine's was meant."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from openme.doctor.client import names

if TYPE_CHECKING:
    from openme.doctor.client.subject import Client


@pytest.mark.parametrize(("host", "causes"), [("localhost", [names.HERE]), ("127.0.0.1", []), ("::1", [])])
def test_a_name_that_leads_here_is_found_and_an_address_of_ours_is_none(host: str, causes: list[str]) -> None:
    client = SimpleNamespace(profile=SimpleNamespace(server_host=host, server_udp_port=54154))
    assert [finding.cause for finding in names.name(cast("Client", client))] == causes
