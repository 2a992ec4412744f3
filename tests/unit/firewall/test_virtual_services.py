"""When the list of IPVS services is looked at: twice a second where there is one, else when the news say so."""

import socket
from collections.abc import Iterator
from math import inf
from pathlib import Path

import pytest

from openme.firewall import virtual_services
from openme.firewall.virtual_services import FAMILY, LOOK_INTERVAL, VirtualServices


class News:
    """What the kernel has to tell of families, until it is read."""

    def __init__(self) -> None:
        self.waiting: list[bytes | None] = []
        self.socket = socket.socket(socket.AF_UNIX)

    def news(self) -> Iterator[bytes | None]:
        while self.waiting:
            yield self.waiting.pop(0)


@pytest.fixture
def news(monkeypatch: pytest.MonkeyPatch) -> Iterator[News]:
    made = News()
    monkeypatch.setattr(virtual_services, "family_changes", lambda: made)
    yield made
    made.socket.close()


def test_a_list_that_is_there_is_looked_at_and_no_news_are_waited_for(news: News, tmp_path: Path) -> None:
    listing = tmp_path / "ip_vs"
    listing.write_text("IP Virtual Server\nProt LocalAddress\n  -> RemoteAddress\n")
    services = VirtualServices(listing)
    assert (services.news, services.interval) == (None, LOOK_INTERVAL)
    assert news.socket.fileno() >= 0


def test_a_module_that_comes_is_told_and_nobody_looks_before(news: News, tmp_path: Path) -> None:
    services = VirtualServices(tmp_path / "none")
    assert (services.news, services.interval) == (news.socket, inf)
    news.waiting = [b"nl80211\0", b"..IPVS\0", None, b"another"]
    assert FAMILY in news.waiting[1]  # type: ignore[operator]
    assert services.exist()
    assert news.waiting == [], "or the socket stays readable, and its reader awake"


def test_also_what_comes_later_is_read(news: News, tmp_path: Path) -> None:
    services = VirtualServices(tmp_path / "none")
    news.waiting = [b"..IPVS\0"]
    assert services.exist()
    news.waiting = [b"another"]
    assert services.exist()
    assert news.waiting == []
