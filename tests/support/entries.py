"""What several claims need: a client's entry changed by hand, one knock's verdict, the forms that a key can have."""

import base64
import re
from ipaddress import ip_address

from support.netns import until
from support.server import CLIENT, STRANGER, ServerWorld

# As the server writes them.
CLIENT_SEEN = {version: str(ip_address(text)) for version, text in CLIENT.items()}
STRANGER_SEEN = {version: str(ip_address(text)) for version, text in STRANGER.items()}


def restrict(world: ServerWorld, name: str, *lines: str) -> None:
    """Add lines to a client's entry in the config, as an editor would, and wait until the server has read them."""
    head = f"  {name}:\n"
    text = world.config.read_text()
    assert head in text
    world.write_config(text.replace(head, head + "".join(f"    {line}\n" for line in lines)))
    if world.pids():
        assert world.ask("reload")["fault"] is None


def verdict(world: ServerWorld, name: str, *datagrams: bytes, version: int = 4, source: str | None = None) -> str:
    """Send a knock of client `name` and wait for the journal's next line about that client."""
    said = len(world.log())
    world.send(*datagrams, version=version, source=source)

    def line() -> str | None:
        found = re.search(rf"^\S+ \w+: {name}: (.*)\n", world.log()[said:], re.MULTILINE)
        return found and found[1]

    return until(line) or ""


def refusal(line: str) -> str:
    """The reason in a line of the journal such as `refused: loopback (from 192.0.2.2)`; the whole line otherwise."""
    found = re.match(r"refused: (\w+)", line)
    return found[1] if found else line


def forms(key: bytes) -> dict[str, bytes]:
    """What to look for to find a key or the greater part of it, whatever it was written as."""
    text = base64.b64encode(key)
    hexadecimal = key.hex()
    # The beginning is enough: base64 of a longer value that starts with this key starts the same.
    return {
        "raw": key[:16],
        "base64": text[:20],
        "base64, the second half": text[20:40],
        "base64url": base64.urlsafe_b64encode(key)[:20],
        "hex": hexadecimal[:32].encode(),
        "hex, upper": hexadecimal[:32].upper().encode(),
        "hex, with colons": ":".join(re.findall("..", hexadecimal[:32])).encode(),
        "python": repr(key[:12])[2:-1].encode(),
    }
