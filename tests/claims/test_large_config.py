"""A large config is read beside: what becomes of that process ends nobody's service and lets nobody in."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from openme.config.edit import remove_client
from support.claims import ClaimsWorld
from support.netns import until

pytestmark = pytest.mark.root


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_the_process_that_reads_it_is_ended_and_the_last_good_one_decides(tmp_path: Path, how: signal.Signals) -> None:
    with ExitStack() as stack:
        world = ClaimsWorld(stack, tmp_path)
        world.populate(2)
        world.crowd(3000)
        world.start(log_level="info")
        others = set(world.pids())
        remove_client(world.config, "bob")
        until(lambda: set(world.pids()) - others, 5)
        (reader,) = set(world.pids()) - others
        os.kill(reader, signal.SIGSTOP)
        world.ask("revoke", name="alice")
        os.kill(reader, how)
        os.kill(reader, signal.SIGCONT)
        until(lambda: world.ask("reload")["reading"] is False, 30)
        assert set(world.pids()) == others, "the server itself goes on"
        world.assert_refuses(world.signed(world.alice))
        if how is signal.SIGKILL:
            assert "has died" in world.ask("reload")["fault"]
            world.assert_opens(world.bob, "bob")
        world.edit(knock_timeout="31s")
        until(lambda: (told := world.ask("reload"))["reading"] is False and told["fault"] is None, 30)
        world.assert_refuses(world.signed(world.alice), world.signed(world.bob))
