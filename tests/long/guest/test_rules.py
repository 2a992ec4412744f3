import os
def test_x() -> None:
    import openme.server.start
    from openme.server.sandbox import pyseccomp
    from openme.firewall.nft import NftFirewall
    NftFirewall()
    print(os.uname())
    assert pyseccomp
