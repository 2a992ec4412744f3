"""How far are packets from random bytes? Figures for both versions beside random strings, and a picture of them.

    .venv/bin/python -m bench.studies.noise [PACKETS] [PICTURE]

Makes PACKETS (100,000) knocks of each version, by one client, for one target, at one moment, and as many random
strings, and takes every look of tests/support/noise.py at them. Writes PICTURE (docs/images/noise.svg). Takes some ten
minutes of one processor, most of them for the points.
"""

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import monocypher

from openme.keys.x25519 import public_key_of
from support import noise
from support.recorded import recorder

ROOT = Path(__file__).resolve().parents[2]
SIZE = 165
ORDINARY_KEYS = 1000

V1, V2, RANDOM = "version 1", "version 2", "random"
COLOURS = {V1: "#c2410c", V2: "#1d4ed8", RANDOM: "#6b7280", "ordinary key": "#c2410c"}
FIELDS = {
    V1: (("", 1), ("ephemeral key", 32), ("nonce", 12), ("ciphertext", 56), ("signature", 64)),
    V2: (("R", 32), ("M", 8), ("C", 125)),
    RANDOM: (("165 random bytes", SIZE),),
}

WIDTH, LEFT, RIGHT = 960, 70, 20
SPAN = WIDTH - LEFT - RIGHT


def knocks(count: int, *words: str) -> list[bytes]:
    """Packets of a client that `openme add` made with these options."""
    with tempfile.TemporaryDirectory() as folder:
        path = recorder(Path(folder), *words)
        with closing(path.ear):
            return path.knocks("alice", count, time.time_ns())


def ordinary_keys(count: int) -> list[bytes]:
    """Representatives of X25519 keys as they are usually made."""
    found: list[bytes] = []
    for secret in iter(lambda: noise.random_strings(1, 32)[0], b""):
        try:
            found.append(bytes(monocypher.elligator_rev(public_key_of(secret))))
        except ValueError:  # half of all points have none
            continue
        if len(found) == count:
            break
    return found


def show(name: str, found: dict[str, noise.Look]) -> None:
    """A look at every kind: the bound under which chance stays, and the worst figures."""
    form = ".1f" if name == "byte values" else ".0f" if name == "repeats" else ".3%"
    cells = (f"{format(found[kind].worst, form) if kind in found else '-':>10}" for kind in (V2, RANDOM, V1))
    print(f"{name:12} {format(found[V2].bound, form):>9} " + " ".join(cells), flush=True)


def show_learned(kinds: dict[str, list[bytes]]) -> None:
    """What a classifier that was trained on one half of packets and random strings gets right on the other half."""
    strings = noise.random_strings(len(kinds[RANDOM]))
    accuracy = {kind: noise.learned(packets, strings) for kind, packets in kinds.items()}
    cells = (f"{accuracy[kind][0]:10.3%}" for kind in (V2, RANDOM, V1))
    print(f"{'classifier':12} {accuracy[V2][1]:9.3%} " + " ".join(cells), flush=True)


def text(x: float, y: float, words: str, more: str = "") -> str:
    """A word in the picture."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{words}</text>'


def line(x1: float, y1: float, x2: float, y2: float, more: str) -> str:
    """A line in the picture."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {more}/>'


def dots(shares: Sequence[float], top: float, height: float, span: tuple[float, float], colour: str) -> str:
    """A dot per bit, thick if it never changes: from left to right the bits, from bottom to top how many are 1."""
    low, high = span
    places: dict[bool, list[str]] = {False: [], True: []}
    for at, share in enumerate(shares):
        x, y = LEFT + (at + 0.5) / len(shares) * SPAN, top + height * (high - share) / (high - low)
        places[share in {0, 1}].append(f"M{x:.1f} {y:.1f}h0")
    return "".join(
        f'<path d="{"".join(place)}" stroke="{colour}" stroke-width="{5 if never_changes else 2.6}"'
        ' stroke-linecap="round" fill="none"/>'
        for never_changes, place in places.items()
    )


def frame(top: float, height: float, ticks: dict[float, str], span: tuple[float, float]) -> Iterator[str]:
    """The ground of a panel: a box, and a line for every tick."""
    low, high = span
    yield f'<rect x="{LEFT}" y="{top}" width="{SPAN}" height="{height}" fill="#fafafa" stroke="#d4d4d8"/>'
    for share, label in ticks.items():
        y = top + height * (high - share) / (high - low)
        yield line(LEFT, y, LEFT + SPAN, y, 'stroke="#e4e4e7"')
        yield text(LEFT - 8, y + 4, label, 'text-anchor="end" class="small"')


def byte_axis(y: float) -> Iterator[str]:
    """Numbers of bytes under a panel."""
    for at in (*range(0, 160, 20), SIZE):
        x = LEFT + at / SIZE * SPAN
        yield line(x, y, x, y + 5, 'stroke="#a1a1aa"')
        yield text(x, y + 18, str(at), 'text-anchor="middle" class="small"')
    yield text(LEFT + SPAN / 2, y + 34, "byte of the packet, eight bits each", 'text-anchor="middle" class="small"')


def fields(kind: str, y: float) -> Iterator[str]:
    """The names of a packet's fields, above a panel."""
    at = 0
    for name, size in FIELDS[kind]:
        x, width = LEFT + at / SIZE * SPAN, size / SIZE * SPAN
        yield (
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="16" fill="{COLOURS[kind]}" fill-opacity="0.13"'
            ' stroke="#fff"/>'
        )
        yield text(x + width / 2, y + 12, name, 'text-anchor="middle" class="small"')
        at += size


def bit_panels(shares: dict[str, list[float]], top: float) -> Iterator[str]:
    """Per kind of packet the share of ones in each bit, from 0 to 100%."""
    height, whole = 96, (-0.06, 1.06)
    remarks = {
        V1: "thirteen bits never change: byte 0, the top bit of byte 32, four of byte 164",
        V2: "every bit is 1 in half of the packets",
        RANDOM: "as it is in random bytes",
    }
    for kind in (V1, V2, RANDOM):
        more = f'font-weight="bold" fill="{COLOURS[kind]}"'
        yield text(LEFT, top - 8, kind if kind != RANDOM else "random bytes", more)
        yield text(LEFT + SPAN, top - 8, remarks[kind], 'text-anchor="end" class="small"')
        yield from fields(kind, top)
        yield from frame(top + 18, height, {0: "0%", 0.5: "50%", 1: "100%"}, whole)
        yield dots(shares[kind], top + 18, height, whole, COLOURS[kind])
        top += height + 58
    yield from byte_axis(top - 40)


def magnified(shares: dict[str, list[float]], count: int, top: float) -> Iterator[str]:
    """Version 2 and random bytes again, from near, with the bound."""
    height = 150
    bound = noise.slack(count, 8 * SIZE)
    span = (0.5 - 1.25 * bound, 0.5 + 1.25 * bound)
    yield text(LEFT, top - 8, "The same, magnified", 'font-weight="bold"')
    for x, kind in ((LEFT + SPAN - 240, V2), (LEFT + SPAN - 150, RANDOM)):
        yield f'<circle cx="{x - 9}" cy="{top - 12}" r="4" fill="{COLOURS[kind]}"/>'
        yield text(x, top - 8, kind, 'class="small"')
    yield line(LEFT + SPAN - 85, top - 12, LEFT + SPAN - 65, top - 12, 'stroke="#18181b" stroke-dasharray="5 3"')
    yield text(LEFT + SPAN, top - 8, "the bound", 'text-anchor="end" class="small"')
    ticks = {0.5 + side * bound: f"{0.5 + side * bound:.2%}" for side in (-1, 1)} | {0.5: "50%"}
    yield from frame(top, height, ticks, span)
    for kind in (RANDOM, V2):
        yield dots(shares[kind], top, height, span, COLOURS[kind])
    for side in (0.1, 0.9):
        yield line(
            LEFT, top + side * height, LEFT + SPAN, top + side * height, 'stroke="#18181b" stroke-dasharray="5 3"'
        )
    yield from byte_axis(top + height)


def order_bars(found: dict[str, dict[int | None, float]], top: float) -> Iterator[str]:
    """The low-order components of the points of R: groups of bars."""
    height, span = 150, (0.0, 1.18)
    yield text(LEFT, top - 8, "Low-order component of the point that R maps to", 'font-weight="bold"')
    x = LEFT + SPAN - 330.0
    for kind, label in ((V2, V2), (RANDOM, RANDOM), ("ordinary key", "ordinary X25519 key")):
        yield f'<rect x="{x - 14}" y="{top - 17}" width="10" height="10" fill="{COLOURS[kind]}"/>'
        yield text(x, top - 8, label, 'class="small"')
        x += 100
    yield from frame(top, height, {0: "0%", 0.25: "25%", 0.5: "50%", 1: "100%"}, span)
    labels = ("none (order 1)", "order 2", "order 4", "order 8, first", "order 8, second")
    for group, (component, label) in enumerate(zip(noise.LOW_ORDER, labels, strict=True)):
        middle = LEFT + (group + 0.5) / len(labels) * SPAN
        for number, (kind, shares) in enumerate(found.items()):
            x, size = middle - 66 + 44 * number, height * shares[component] / span[1]
            y = top + height - size
            yield f'<rect x="{x:.1f}" y="{y:.1f}" width="42" height="{size:.1f}" fill="{COLOURS[kind]}"/>'
            yield text(x + 21, y - 4, f"{shares[component]:.1%}", 'text-anchor="middle" class="small"')
        yield text(middle, top + height + 18, label, 'text-anchor="middle" class="small"')


def picture(shares: dict[str, list[float]], found: dict[str, dict[int | None, float]], count: int) -> str:
    """The whole as SVG."""
    parts = [
        text(LEFT, 30, f"In how many of {count:,} packets is each bit 1?", 'font-size="18" font-weight="bold"'),
        *bit_panels(shares, 68),
        *magnified(shares, count, 578),
        *order_bars(found, 810),
    ]
    style = ".small{font-size:12px;fill:#3f3f46}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} 990" font-family="sans-serif" font-size="14">\n'
        f"<style>{style}</style>\n"
        '<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def main() -> None:
    """Measure, print and draw."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    place = Path(sys.argv[2]) if len(sys.argv) > 2 else ROOT / "docs" / "images" / "noise.svg"
    kinds = {V2: knocks(count), RANDOM: noise.random_strings(count), V1: knocks(count, "--v1")}
    print(f"{'look':12} {'bound':>9} {V2:>10} {RANDOM:>10} {V1:>10}")
    for name in ("bits", "pairs", "byte values", "repeats"):
        show(name, {kind: noise.LOOKS[name](packets) for kind, packets in kinds.items()})
    with_r = (V2, RANDOM)
    show("coordinates", {kind: noise.coordinates(kinds[kind]) for kind in with_r})
    found = {kind: noise.orders(kinds[kind]) for kind in with_r}
    show("points", {kind: noise.judged_orders(found[kind], count) for kind in with_r})
    show_learned(kinds)
    found["ordinary key"] = noise.orders(ordinary_keys(ORDINARY_KEYS))
    for kind, shares in found.items():
        print(f"low-order components, {kind:12} " + " ".join(f"{share:7.2%}" for share in shares.values()))
    place.parent.mkdir(exist_ok=True)
    place.write_text(picture({kind: noise.shares_of_ones(kinds[kind]) for kind in kinds}, found, count), "utf-8")


if __name__ == "__main__":
    main()
