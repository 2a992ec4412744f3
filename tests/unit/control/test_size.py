import json
import threading
from pathlib import Path

from openme.control import asking, serving
from openme.control.requests import Sessions


def test_an_answer_of_any_length_arrives_whole(tmp_path: Path) -> None:
    seen = {f"client-{number}": "2026-11-23T00:00:00Z" for number in range(30_000)}
    answer = {"updated_at": "now", "active_sessions": [], "last_seen": seen}
    with serving.listen(tmp_path) as listening:
        listening.settimeout(10)

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                assert json.loads(peer.recv(serving.MAX_REQUEST)) == {"command": "sessions", "version": 1}
                peer.sendall(json.dumps(answer).encode())

        thread = threading.Thread(target=serve)
        thread.start()
        assert asking.ask(tmp_path, Sessions()).last_seen == seen
        thread.join()
