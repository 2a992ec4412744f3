"""What tells packets from random bytes: statistics that know what chance allows, and a classifier that learns.

Whoever looks at fresh randomness cannot fix a seed, so a healthy run could fail by chance. Every look here compares its
worst figure with a bound that chance passes with a probability of at most `ALARM`, over everything that the look
counts. Two inequalities are enough:

- Hoeffding: the mean of n independent values between 0 and 1 is further than t from what is expected with a probability
  of at most 2·exp(-2nt²). It holds for every n and needs no normal curve. For m such means at once the probabilities
  add up (union bound), therefore t = √(ln(2m / ALARM) / 2n): see `slack`.
- Laurent and Massart (2000, lemma 1): a chi-square value of k degrees exceeds k + 2√(kx) + 2x with a probability of at
  most exp(-x). A count of bytes has that distribution in the limit only; at 255 degrees the lemma asks for some hundred
  times more than the limit's true tail, which is more than the difference where each byte is expected 15 times or more.

Fewer than twenty looks are taken in a run of the tests: less than one healthy run in a million fails.
"""

import heapq
import math
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from operator import getitem

import monocypher

ALARM = 1e-8

PRIME = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
CURVE_A = 486662

WINDOW = 10  # bytes
PAIRS_LEARNED = 64

# The x-coordinates of the eight points whose order divides 8 (https://cr.yp.to/ecdh.html#validate), None for the
# neutral element, with the share of all points of the curve that have each one as their low-order component. A
# coordinate does not know its sign: two points share one, save at order 1 and 2.
LOW_ORDER: dict[int | None, float] = {
    None: 1 / 8,
    0: 1 / 8,
    1: 1 / 4,
    325606250916557431795983626356110631294008115727848805560023387167927233504: 1 / 4,
    39382357235489614581723060781553021112529911719440698176882885853963445705823: 1 / 4,
}


@dataclass(frozen=True, slots=True)
class Look:
    """The worst deviation from random bytes, the one that chance stays under, and where it was."""

    worst: float
    bound: float
    where: str

    @property
    def tells(self) -> bool:
        """Whether these are not random bytes."""
        return self.worst > self.bound


def slack(count: int, looks: int) -> float:
    """How far one of `looks` means of `count` values may be from what is expected."""
    return math.sqrt(math.log(2 * looks / ALARM) / (2 * count))


def columns(packets: Sequence[bytes]) -> list[int]:
    """Per bit of a packet, from the top bit of byte 0 on, a number whose bits are that bit of every packet."""
    joined, size = b"".join(packets), len(packets[0])
    digits = [bytes(0x30 + (value >> bit & 1) for value in range(256)) for bit in range(7, -1, -1)]
    return [int(joined[at::size].translate(digit), 2) for at in range(size) for digit in digits]


def shares_of_ones(packets: Sequence[bytes]) -> list[float]:
    """Per bit of a packet, in how many it is 1."""
    return [column.bit_count() / len(packets) for column in columns(packets)]


def bits(packets: Sequence[bytes]) -> Look:
    """Every bit is 1 in half of the packets."""
    shares = shares_of_ones(packets)
    worst, at = max((abs(share - 0.5), at) for at, share in enumerate(shares))
    return Look(worst, slack(len(packets), len(shares)), f"bit {at % 8} of byte {at // 8}")


def pairs(packets: Sequence[bytes]) -> Look:
    """Every two bits differ in half of the packets."""
    found, count = columns(packets), len(packets)
    worst, a = 0.0, 0
    for at, column in enumerate(found[:-1]):
        differ = [(column ^ other).bit_count() for other in found[at + 1 :]]
        worst, a = max((worst, a), (max(count / 2 - min(differ), max(differ) - count / 2), at))
    return Look(worst / count, slack(count, math.comb(len(found), 2)), f"bit {a} and a later one")


def byte_values(packets: Sequence[bytes]) -> Look:
    """In every place all 256 values are equally frequent; the figure is chi-square, of 255 degrees."""
    joined, size = b"".join(packets), len(packets[0])
    expected = len(packets) / 256
    worst, at = max(
        (sum(count * count for count in Counter(joined[at::size]).values()) / expected - len(packets), at)
        for at in range(size)
    )
    x = math.log(size / ALARM)
    return Look(worst, 255 + 2 * math.sqrt(255 * x) + 2 * x, f"byte {at}")


def repeats(packets: Sequence[bytes]) -> Look:
    """No 10 bytes stand twice in the same place: by chance 156 · n² / 2 / 2⁸⁰, which is 6e-13 for 100,000 packets."""
    places = range(len(packets[0]) - WINDOW + 1)
    found = {at: len(packets) - len({packet[at : at + WINDOW] for packet in packets}) for at in places}
    return Look(sum(found.values()), 0, f"byte {max(found, key=found.__getitem__)}")


def is_square(value: int) -> bool:
    """Euler's criterion; 0 counts."""
    return value % PRIME == 0 or pow(value, (PRIME - 1) // 2, PRIME) == 1


def is_on_curve(u: int) -> bool:
    """Whether u is the x-coordinate of a point of Curve25519; otherwise it is one of the twist's."""
    return is_square(u**3 + CURVE_A * u * u + u)


def coordinates(packets: Sequence[bytes]) -> Look:
    """In half of all packets the first 32 bytes, without the top bit, are themselves an x-coordinate of the curve."""
    numbers = (int.from_bytes(packet[:32], "little") % 2**255 for packet in packets)
    return Look(abs(sum(map(is_on_curve, numbers)) / len(packets) - 0.5), slack(len(packets), 1), "R itself")


def times_order(u: int) -> int | None:
    """The x-coordinate of the prime order's multiple of a point: its low-order component, up to a unit of Z/8.

    The ladder of RFC 7748 section 5, without clamping. None is the neutral element.
    """
    x2, z2, x3, z3 = 1, 0, u, 1
    for bit in map(int, f"{ORDER:b}"):
        if bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
        plus, minus = x2 + z2, x2 - z2
        da, cb = (x3 - z3) * plus % PRIME, (x3 + z3) * minus % PRIME
        aa, bb = plus * plus % PRIME, minus * minus % PRIME
        x3, z3 = (da + cb) ** 2 % PRIME, u * (da - cb) ** 2 % PRIME
        x2, z2 = aa * bb % PRIME, (aa - bb) * (aa + (CURVE_A - 2) // 4 * (aa - bb)) % PRIME
        if bit:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return x2 * pow(z2, -1, PRIME) % PRIME if z2 else None


def point_of(packet: bytes) -> int:
    """The x-coordinate that Elligator 2 makes of R."""
    return int.from_bytes(monocypher.elligator_map(packet[:32]), "little")


def orders(packets: Sequence[bytes]) -> dict[int | None, float]:
    """The share of each low-order component among the points of R."""
    found = Counter(times_order(point_of(packet)) for packet in packets)
    return {component: found[component] / len(packets) for component in LOW_ORDER}


def points(packets: Sequence[bytes]) -> Look:
    """The points of R have the low-order components that points of random strings have.

    Elligator 2 sends every string to a point of the curve, never of the twist, so that being on the curve tells
    nothing; but it reaches all points, and a point's order is known to whoever multiplies it by the prime order. Of the
    curve's points an eighth has no low-order component, as has every point of an ordinary X25519 key. The map's
    image is half of them and favours no component: u is in it if u(u + 486662) is no square, and since u + 486662 has
    simple zeros, no unramified cover of the curve, as the components are, can foretell that (Weil's bound: up to 1/√p).
    """
    return judged_orders(orders(packets), len(packets))


def judged_orders(found: dict[int | None, float], count: int) -> Look:
    """What shares of low-order components among so many points say."""
    worst, which = max((abs(found[component] - share), str(component)) for component, share in LOW_ORDER.items())
    return Look(worst, slack(count, len(LOW_ORDER)), f"low-order component {which[:8]}")


LOOKS: dict[str, Callable[[Sequence[bytes]], Look]] = {
    "bits": bits,
    "pairs": pairs,
    "byte values": byte_values,
    "repeats": repeats,
    "coordinates": coordinates,
    "points": points,
}


class Classifier:
    """Naive Bayes over every bit, and over whether two bits differ for the pairs that separate the classes best."""

    def __init__(self, ours: Sequence[bytes], theirs: Sequence[bytes]) -> None:
        mine, other = columns(ours), columns(theirs)
        self._last = len(mine) - 1

        def weights(x: int, y: int) -> tuple[float, float]:
            return evidence(x.bit_count(), len(ours), y.bit_count(), len(theirs))

        of_bits = [weights(x, y) for x, y in zip(mine, other, strict=True)]
        self._of_bytes = [
            [sum(of_bits[at + bit][value >> (7 - bit) & 1] for bit in range(8)) for value in range(256)]
            for at in range(0, len(of_bits), 8)
        ]
        apart = (
            (abs((mine[a] ^ mine[b]).bit_count() / len(ours) - (other[a] ^ other[b]).bit_count() / len(theirs)), a, b)
            for a, b in combinations(range(len(mine)), 2)
        )
        best = heapq.nlargest(PAIRS_LEARNED, apart)
        self._of_pairs = [(a, b, weights(mine[a] ^ mine[b], other[a] ^ other[b])) for _, a, b in best]

    def says_ours(self, packet: bytes) -> bool:
        """Whether this looks more like the first class than like the second one."""
        score = sum(map(getitem, self._of_bytes, packet))
        number = int.from_bytes(packet, "big")
        for a, b, weights in self._of_pairs:
            score += weights[(number >> (self._last - a) ^ number >> (self._last - b)) & 1]
        return score > 0

    def accuracy(self, ours: Sequence[bytes], theirs: Sequence[bytes]) -> float:
        """The share of right answers, each class weighing the same."""
        right = sum(map(self.says_ours, ours)) / len(ours)
        wrong = sum(map(self.says_ours, theirs)) / len(theirs)
        return (right + 1 - wrong) / 2


def evidence(ours: int, of_ours: int, theirs: int, of_theirs: int) -> tuple[float, float]:
    """What a feature that was 1 so often in each class says for the first one, as logarithms: if it is 0, and if 1."""
    seldom = 0.01  # times: what was never seen in training is not held to be impossible
    shares = ((ours + seldom) / (of_ours + 2 * seldom), (theirs + seldom) / (of_theirs + 2 * seldom))
    return math.log((1 - shares[0]) / (1 - shares[1])), math.log(shares[0] / shares[1])


def learned(ours: Sequence[bytes], theirs: Sequence[bytes]) -> tuple[float, float]:
    """The accuracy of a classifier on the half that it was not trained on, and what chance stays under.

    Whatever it has learned, its answers on packets that it has not seen are independent and, if the classes are alike,
    right with a mean of one half.
    """
    middle = min(len(ours), len(theirs)) // 2
    classifier = Classifier(ours[:middle], theirs[:middle])
    ours, theirs = ours[middle : 2 * middle], theirs[middle : 2 * middle]
    return classifier.accuracy(ours, theirs), 0.5 + slack(2 * middle, 1)


def random_strings(count: int, size: int = 165) -> list[bytes]:
    """What packets are compared with."""
    joined = secrets.token_bytes(count * size)
    return [joined[at : at + size] for at in range(0, len(joined), size)]
