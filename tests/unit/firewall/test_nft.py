import pytest

from openme.firewall import nft
from openme.firewall.base import FirewallError


def test_a_missing_library_is_one_line_and_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nft, "LIBRARY", "libnftables-that-is-not-there.so.1")
    with pytest.raises(FirewallError, match="cannot be used") as caught:
        nft.NftFirewall()
    assert caught.value.hint == "install it: apt-get install libnftables1"
