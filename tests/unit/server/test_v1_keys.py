"""The listener holds the version 1 keys that the config names, and no other."""

import base64

from openme.keeper.events import NewConfig
from openme.seam.messages import ForgetV1Key, UseV1Key
from openme.server.v1_keys import V1Keys
from support.keeper_parts import Ground, listening
from support.knocks import NOW, SERVER, config

SECOND = base64.b64encode(b"\x12" * 32).decode()


def test_what_is_named_is_given_once_and_what_is_named_no_more_is_taken() -> None:
    ground = Ground()
    with listening() as listener:
        keys = V1Keys(listener.outbox)
        keys.follow(ground.events)
        keys.give(ground.keeper.config)
        assert listener.told() == [UseV1Key(0, SERVER.raw)]
        ground.events.publish(NewConfig(config(), NOW))
        assert listener.told() == []
        ground.events.publish(NewConfig(config(server="protocols: [v2]"), NOW))
        assert listener.told() == [ForgetV1Key(0)]
        ground.events.publish(NewConfig(config(), NOW))
        assert listener.told() == [UseV1Key(0, SERVER.raw)]
